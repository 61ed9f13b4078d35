"""What was measured, as plain values that go to JSON."""

import statistics
from dataclasses import dataclass, field

from benchmarks.settings import Side


@dataclass(frozen=True)
class Measurement:
    """Runs of one side in one part.

    Attributes:
        part: of settings.PARTS.
        side: which implementation.
        seconds: of each run; per picture or click where a run has several.
        batch: pictures in one call.
        peak: most memory of the process, in bytes.
        device_peak: most memory of the GPU, in bytes, or None on the CPU.
        engine: what computed, with version.
        load: seconds that loading took, in a process that runs already.
        error: relative error of the embedding against the reference's.
        mask_iou: mean and least IoU of masks against the reference's.
        masks: how many masks were found, for automatic masks.
        matched: share of the reference's masks found with IoU of at least 0.99, for automatic masks.
        outside: seconds of each click outside the decoder, over HTTP.
        failure: why there is no measurement, or None.
    """

    part: str
    side: Side
    seconds: tuple[float, ...] = ()
    batch: int = 1
    peak: int | None = None
    device_peak: int | None = None
    engine: str = ""
    load: float | None = None
    error: float | None = None
    mask_iou: tuple[float, float] | None = None
    masks: int | None = None
    matched: float | None = None
    outside: tuple[float, ...] = ()
    failure: str | None = None

    @property
    def median(self) -> float | None:
        """Median of the runs, in seconds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def key(self) -> tuple[str, str, int]:
        """Measurements with equal keys are compared."""
        return (self.part, self.side.variant, self.batch)


@dataclass(frozen=True)
class Share:
    """Seconds that one layer or component took.

    Attributes:
        group: what it is part of: a batch size, a precision.
        name: of the component.
        seconds: median, per picture.
        index: number of the block, or None.
    """

    group: str
    name: str
    seconds: float
    index: int | None = None


@dataclass(frozen=True)
class Machine:
    """Where it ran.

    Attributes:
        processor: name and flags that matter.
        processors: that this process may use.
        memory: of the machine, in bytes.
        device: name of the GPU, or "cpu".
        software: versions, in one line.
        peak_flops: measured matrix products per precision, in FLOP/s.
        flops: of the plain graph by variant: {"encode": per picture, "prompt": per prompt}.
    """

    processor: str
    processors: int
    memory: int
    device: str
    software: str
    peak_flops: dict[str, float]
    flops: dict[str, dict[str, float]]


@dataclass
class Results:
    """Everything of one run."""

    command: str
    machine: Machine
    weights: dict[str, str]
    started: str
    threads: int
    picture: str
    measurements: list[Measurement] = field(default_factory=list)
    layers: list[Share] = field(default_factory=list)
    components: list[Share] = field(default_factory=list)
    took: float = 0.0

    def reference(self, measurement: Measurement) -> Measurement | None:
        """The reference's measurement that another one is compared with."""
        return next(
            (m for m in self.measurements if m.key == measurement.key and m.side.backend == "reference" and m.seconds),
            None,
        )

    def ratio(self, measurement: Measurement, variant: str | None = None) -> float | None:
        """How many times faster than the reference, on the same variant or on another one."""
        wanted = (measurement.part, variant or measurement.side.variant, measurement.batch)
        for other in self.measurements:
            if other.key == wanted and other.side.backend == "reference" and other.median and measurement.median:
                return other.median / measurement.median
        return None

    def memory_ratio(self, measurement: Measurement) -> float | None:
        """Peak memory over the reference's."""
        other = self.reference_memory(measurement)
        return measurement.peak / other if measurement.peak and other else None

    def reference_memory(self, measurement: Measurement) -> int | None:
        """Peak memory of the reference in the same part."""
        found = [m.peak for m in self.measurements if m.key == measurement.key and m.side.backend == "reference"]
        return found[0] if found else None

    def floor(self, measurement: Measurement) -> float | None:
        """Seconds that the matrix products of the plain graph take at the measured peak, or None where undefined."""
        counts = self.machine.flops.get(measurement.side.variant)
        peak = self.machine.peak_flops.get(measurement.side.precision)
        work = {"encode": "encode", "batches": "encode", "click": "prompt", "points64": "prompt"}
        if counts is None or peak is None or measurement.part not in work:
            return None
        prompts = 64 if measurement.part == "points64" else 1
        return counts[work[measurement.part]] * prompts / peak
