"""A mask set as a session keeps it, and how it is written for other processes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from sam_server.automatic.parameters import AutomaticParameters
from sam_server.grouping.group import GroupResult
from sam_server.grouping.plan import Plan
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import MeasuredSet
from sam_server.masks.measures import NAMES, Measures
from sam_server.masks.overlaps import Overlaps, RunTable
from sam_server.masks.record import MaskRecord
from sam_server.masks.rle import Rle
from sam_server.sessions.packing import Packed, PackedError, Part, pack, unpack

KIND = "mask set"
# Arrays of a mask set that it may lack, and their dimensions.
_OPTIONAL = {"colours": 2, "embeddings": 2, "edge_contrasts": 1}
# Memory of the last grouping per mask, in bytes, rounded up: a row of measures, and its place in a few groups.
_GROUPING_BYTES = 512
_OVERLAPS = ("first", "second", "shared")
_RUNS = {"start": "uint32", "end": "uint32", "mask": "int32"}


@dataclass(eq=False)
class KeptMaskSet:
    """A mask set as a session keeps it.

    Attributes:
        measured: the masks, measured once so that they can be grouped often.
        parameters: what they were found with; None for masks that a caller brought.
        grouping: the last one that was asked for.
        plan: what was asked for then.
    """

    measured: MeasuredSet
    parameters: AutomaticParameters | None
    grouping: GroupResult | None = None
    plan: Plan | None = None

    @property
    def nbytes(self) -> int:
        """Memory that the set may come to hold, in bytes."""
        return self.measured.nbytes + _GROUPING_BYTES * len(self.measured)

    def group(self, plan: Plan) -> GroupResult:
        """Group the masks and remember the result, for exports."""
        result = plan.run(self.measured)
        self.plan, self.grouping = plan, result
        return result


def write(kept: KeptMaskSet) -> bytes:
    """The set with its measures; the grouping is not written, for its plan makes it again.

    Raises:
        PackedError: it is too large.
    """
    measured = kept.measured
    masks = measured.masks
    fields = {"size": masks.size, "parameters": None if kept.parameters is None else asdict(kept.parameters)}
    parts: dict[str, Part] = {
        "records": orjson.dumps([record.to_dict() for record in masks.records]),
        "order": measured.order,
        **{f"measures.{name}": measured.measures.column(name) for name in NAMES},
        **{f"overlaps.{name}": getattr(measured.overlaps, name) for name in _OVERLAPS},
        **{f"hull_overlaps.{name}": getattr(measured.hull_overlaps, name) for name in _OVERLAPS},
        **{f"runs.{name}": getattr(measured.runs, name) for name in _RUNS},
    }
    parts |= {name: array for name in _OPTIONAL if (array := getattr(masks, name)) is not None}
    return pack(KIND, fields, parts)


def read(data: bytes) -> KeptMaskSet:
    """The set that `write` wrote.

    Raises:
        PackedError: it is damaged, or of another version.
    """
    packed = unpack(data, KIND)
    try:
        return _read(packed)
    except (KeyError, TypeError, ValueError) as error:
        raise PackedError(f"not a readable {KIND}: {error}") from None


def _read(packed: Packed) -> KeptMaskSet:
    height, width = packed.fields["size"]
    records = tuple(_record(values) for values in orjson.loads(packed.file("records")))
    optional = {
        name: packed.array(name, "float32", dimensions) if name in packed.parts else None
        for name, dimensions in _OPTIONAL.items()
    }
    given = packed.fields["parameters"]
    measured = MeasuredSet(
        masks=MaskSet((height, width), records, **optional),
        measures=Measures(**{name: packed.array(f"measures.{name}", "float64", 1) for name in NAMES}),
        overlaps=_overlaps(packed, "overlaps"),
        hull_overlaps=_overlaps(packed, "hull_overlaps"),
        runs=RunTable(**{name: packed.array(f"runs.{name}", dtype, 1) for name, dtype in _RUNS.items()}),
        order=packed.array("order", "int64", 1),
    )
    return KeptMaskSet(measured, None if given is None else AutomaticParameters(**given))


def _overlaps(packed: Packed, name: str) -> Overlaps:
    return Overlaps(*(packed.array(f"{name}.{column}", "int64", 1) for column in _OVERLAPS))


def _record(values: Mapping[str, Any]) -> MaskRecord:
    segmentation = values["segmentation"]
    height, width = segmentation["size"]
    return MaskRecord(
        segmentation=Rle((height, width), segmentation["counts"].encode("ascii")),
        bbox=tuple(values["bbox"]),
        area=values["area"],
        predicted_iou=values["predicted_iou"],
        stability_score=values["stability_score"],
        crop_box=tuple(values["crop_box"]),
        point_coords=tuple((x, y) for x, y in values["point_coords"]),
    )
