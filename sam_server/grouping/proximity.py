"""Masks that lie close together."""

from dataclasses import dataclass

import numpy as np

from sam_server.arrays import IntArray
from sam_server.grouping.errors import check_range
from sam_server.grouping.partition import MethodParameters, Partition, gather_small
from sam_server.grouping.selection import Selection

# Where no distance is given: this share of the median diameter.
_DEFAULT_GAP = 0.5


@dataclass(frozen=True)
class ProximityParameters(MethodParameters):
    """When two masks are neighbours.

    Attributes:
        max_gap: widest gap between their edges in the unit of the scale, 0 or more; half the median diameter if
            None. A mask counts as the circle of its area around its centroid.
        min_members: smaller clusters are put together as "single", 1 or more.
    """

    max_gap: float | None = None
    min_members: int = 2

    def __post_init__(self) -> None:
        check_range("proximity.max_gap", self.max_gap, 0)
        check_range("proximity.min_members", self.min_members, 1)


def group_by_proximity(selection: Selection, parameters: ProximityParameters) -> Partition:
    """Group masks that are joined by gaps of at most max_gap (single linkage)."""
    measures = selection.measures
    if len(selection) == 0:
        return Partition(np.zeros(0, np.int64), (), {"max_gap": parameters.max_gap})
    gap = parameters.max_gap
    if gap is None:
        gap = _DEFAULT_GAP * float(np.median(measures.equivalent_diameter_area))
    centres = np.stack([measures.centroid_x, measures.centroid_y], axis=1)
    labels = _linked(centres, measures.equivalent_diameter_area / 2, gap)
    labels, has_singles = gather_small(labels, parameters.min_members)
    clusters = int(labels.max()) + 1 - has_singles
    names = [f"cluster {k + 1}" for k in range(clusters)] + ["single"] * has_singles
    return Partition(labels, tuple(names), {"max_gap": gap})


def _linked(centres: np.ndarray, radii: np.ndarray, gap: float) -> IntArray:
    """Label connected discs, each visited once; memory grows with their number, not with their pairs."""
    labels = np.full(len(centres), -1, np.int64)
    for seed in range(len(centres)):
        if labels[seed] >= 0:
            continue
        label = int(labels.max()) + 1
        labels[seed] = label
        queue = [seed]
        while queue:
            here = queue.pop()
            free = np.flatnonzero(labels < 0)
            away = np.hypot(*(centres[free] - centres[here]).T) - radii[free] - radii[here]
            near = free[away <= gap]
            labels[near] = label
            queue.extend(near.tolist())
    return labels
