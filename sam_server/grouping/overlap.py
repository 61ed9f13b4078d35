"""Masks that overlap, directly or through others."""

from dataclasses import dataclass

import numpy as np

from sam_server.grouping.errors import check_choice, check_range
from sam_server.grouping.partition import MethodParameters, Partition, components
from sam_server.grouping.selection import Selection

MEASURES = ("iou", "smaller")


@dataclass(frozen=True)
class OverlapParameters(MethodParameters):
    """When two masks belong together.

    Attributes:
        measure: "iou" (shared pixels / pixels of the union) or "smaller" (shared pixels / pixels of the smaller).
        threshold: least overlap, above 0 to 1.
    """

    measure: str = "smaller"
    threshold: float = 0.1

    def __post_init__(self) -> None:
        check_choice("overlap.measure", self.measure, MEASURES)
        check_range("overlap.threshold", self.threshold, 1e-9, 1)


def group_by_overlap(selection: Selection, parameters: OverlapParameters) -> Partition:
    """Group the connected components of the graph of overlaps."""
    areas = selection.pixels
    overlaps = selection.overlaps
    first, second = areas[overlaps.first], areas[overlaps.second]
    whole = np.minimum(first, second) if parameters.measure == "smaller" else first + second - overlaps.shared
    joined = overlaps.shared >= parameters.threshold * whole
    labels = components(len(selection), overlaps.first[joined], overlaps.second[joined])
    return Partition(labels, tuple(f"cluster {k + 1}" for k in range(labels.max(initial=-1) + 1)))
