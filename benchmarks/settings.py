"""What is measured: parts, sides, and how often."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sam_server.network.variants import VARIANTS, SamVariant

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "benchmark"

REFERENCE = "reference"
PYTORCH = "pytorch"
ONNX = "onnx"
ONNXRUNTIME = "onnxruntime"
BACKENDS = (REFERENCE, PYTORCH, ONNX, ONNXRUNTIME)
LABELS = {
    REFERENCE: "segment-anything 1.0",
    PYTORCH: "PyTorch",
    ONNX: "ONNX",
    ONNXRUNTIME: "ONNX, engine ONNX Runtime",
}
PRECISIONS = ("fp32", "bf16", "fp16", "int8")

# Parts of the benchmark and what they measure, in the order in which they run.
PARTS = {
    "encode": "a picture to its image embedding, resizing included",
    "click": "one point on an encoded picture to three full-size masks",
    "points64": "64 points in one decode, to low-res masks",
    "automatic": "every mask of a picture from a grid of points, encoding included",
    "http": "a click on a cached session through the server",
    "startup": "process start to /ready",
    "memory": "peak memory of the server after one picture and click",
    "regroup": "a stored set of 500 masks grouped anew over HTTP, with another threshold",
    "batches": "pictures encoded in one call: 1, 2, 4, 8",
    "components": "shares of the components in one picture and one click",
}

# For the self-test of the benchmark: the official architecture, at a size that takes no time.
SMALL = SamVariant("small", width=256, depth=3, heads=4, window=7, global_blocks=(2,), image_size=256)
BENCHMARK_VARIANTS = {**VARIANTS, SMALL.name: SMALL}

# Thresholds of automatic masks. Made weights are less sure of themselves than official ones: with these, a share of
# their masks goes on to the later steps that is like the official ones' at the defaults, 0.88 and 0.95.
PRED_IOU_THRESH = 0.6
STABILITY_SCORE_THRESH = 0.75


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    Attributes:
        backend: "reference" (segment-anything 1.0), "pytorch", "onnx" with the engine that it chooses, or
            "onnxruntime" for ONNX files in ONNX Runtime's own CPU provider.
        variant: key of BENCHMARK_VARIANTS.
        precision: "fp32", "bf16", "fp16" or "int8".
        performance_mode: for automatic masks: the settings of performance mode.
    """

    backend: str
    variant: str
    precision: str = "fp32"
    performance_mode: bool = False

    @property
    def label(self) -> str:
        """As tables and plots name it."""
        mode = ", performance mode" if self.performance_mode else ""
        return f"{LABELS[self.backend]} {self.precision}{mode}"


@dataclass(frozen=True)
class Settings:
    """One run of the benchmark.

    Attributes:
        parts: of PARTS.
        variants: of BENCHMARK_VARIANTS; the first one that the reference has is what the others are compared with.
        backends: of BACKENDS.
        precisions: of PRECISIONS, for PyTorch and ONNX; the reference runs in fp32.
        runs: timed runs of a side.
        threads: processor threads of one computation.
        device: "cpu" or "cuda".
        batches: pictures in one call.
        points_per_side, pred_iou_thresh, stability_score_thresh: for automatic masks.
        picture_size: (W, H) of the picture in pixels.
        output: directory for results, page and made weights.
        model_dir: where official checkpoints and the tiny model are looked for.
    """

    parts: tuple[str, ...] = tuple(PARTS)
    variants: tuple[str, ...] = ("vit_b", "tiny")
    backends: tuple[str, ...] = (REFERENCE, PYTORCH, ONNX)
    precisions: tuple[str, ...] = ("fp32", "bf16")
    runs: int = 3
    threads: int = 1
    device: str = "cpu"
    batches: tuple[int, ...] = (1, 2, 4, 8)
    points_per_side: int = 32
    pred_iou_thresh: float = PRED_IOU_THRESH
    stability_score_thresh: float = STABILITY_SCORE_THRESH
    picture_size: tuple[int, int] = (1920, 1080)
    output: Path = OUTPUT
    model_dir: Path = ROOT / "model"

    def to_json(self) -> str:
        """As one line, for the processes that measure."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Read what `to_json` wrote."""
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(text).items()}
        return cls(**{**values, "output": Path(values["output"]), "model_dir": Path(values["model_dir"])})

    def sides(self, variant: str) -> list[Side]:
        """The sides that are compared on a variant, the reference first."""
        sides = [Side(REFERENCE, variant)] if REFERENCE in self.backends else []
        for backend in (PYTORCH, ONNX):
            if backend in self.backends:
                sides += [Side(backend, variant, precision) for precision in self.precisions]
        if ONNXRUNTIME in self.backends:
            sides.append(Side(ONNXRUNTIME, variant))
        return sides

    def weights(self, variant: str, painted: bool) -> Path:
        """Checkpoint of a variant: with random weights, or one whose masks have a meaning (see widen.py)."""
        kind = "painted" if painted else "random"
        return self.output / "weights" / f"{variant}-{kind}" / f"sam_{variant}.pth"
