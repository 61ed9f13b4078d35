"""Containment: whole > part > subpart, as a forest."""

from dataclasses import dataclass

import numpy as np

from sam_server.arrays import IntArray
from sam_server.grouping.errors import check_range
from sam_server.grouping.partition import MethodParameters, Partition
from sam_server.grouping.selection import Selection

NO_PARENT = -1


@dataclass(frozen=True)
class HierarchyParameters(MethodParameters):
    """When a mask is a part of another.

    Attributes:
        min_containment: share of the part's pixels that lie on the whole, above 0.5 to 1.
        max_area_ratio: area of the part / area of the whole, at most; above it the two are taken for one thing.
    """

    min_containment: float = 0.9
    max_area_ratio: float = 0.95

    def __post_init__(self) -> None:
        check_range("hierarchy.min_containment", self.min_containment, 0.5, 1)
        check_range("hierarchy.max_area_ratio", self.max_area_ratio, 0, 1)


def group_by_containment(selection: Selection, parameters: HierarchyParameters) -> Partition:
    """Group each whole with all its parts; `details["nodes"]` holds the forest.

    The parent of a mask is the smallest mask that contains it. Parents are larger than their children, so that
    there is no cycle.
    """
    parent = find_parents(selection, parameters.min_containment, parameters.max_area_ratio)
    depth = np.zeros(len(parent), np.int64)
    root = np.arange(len(parent))
    # The selection is sorted by area, so that a parent comes before its children.
    for child in np.flatnonzero(parent != NO_PARENT):
        depth[child] = depth[parent[child]] + 1
        root[child] = root[parent[child]]
    labels = np.unique(root, return_inverse=True)[1].astype(np.int64)
    names = tuple(f"whole {number + 1}" for number in range(len(np.unique(root))))
    return Partition(labels, names, {"nodes": _nodes(selection.index, parent, depth)})


def find_parents(selection: Selection, min_containment: float, max_area_ratio: float = 1.0) -> IntArray:
    """Number of the smallest mask that contains each mask, or NO_PARENT.

    Args:
        selection: n masks, largest first.
        min_containment: share of the smaller mask's pixels that must lie on the larger one.
        max_area_ratio: smaller area / larger area, at most.

    Returns:
        (n,) int64, parent < child.
    """
    areas = selection.pixels
    overlaps = selection.overlaps
    larger = np.minimum(overlaps.first, overlaps.second)
    smaller = np.maximum(overlaps.first, overlaps.second)
    inside = (overlaps.shared >= min_containment * areas[smaller]) & (areas[smaller] <= max_area_ratio * areas[larger])
    parent = np.full(len(selection), NO_PARENT, np.int64)
    # The last in the order is the smallest: the closest whole.
    np.maximum.at(parent, smaller[inside], larger[inside])
    return parent


def _nodes(index: IntArray, parent: IntArray, depth: IntArray) -> list[dict[str, object]]:
    children: list[list[int]] = [[] for _ in parent]
    for child in np.flatnonzero(parent != NO_PARENT):
        children[parent[child]].append(int(index[child]))
    return [
        {
            "mask": int(index[row]),
            "parent": None if parent[row] == NO_PARENT else int(index[parent[row]]),
            "children": children[row],
            "depth": int(depth[row]),
        }
        for row in range(len(parent))
    ]
