"""Droplets and the satellites that sit on them; aggregates of droplets that overlap."""

from dataclasses import dataclass

import numpy as np

from sam_server.arrays import BoolArray, IntArray
from sam_server.grouping.errors import check_range
from sam_server.grouping.hierarchy import NO_PARENT
from sam_server.grouping.partition import MethodParameters, Partition, components
from sam_server.grouping.selection import Selection
from sam_server.grouping.size import SizeParameters, group_by_size

NAMES = ("droplet", "satellite", "small droplet")

# Above this coefficient of variation the diameters are cut in two even where no gap parts them.
MAX_CV = 0.12


@dataclass(frozen=True)
class DropletParameters(MethodParameters):
    """What counts as a satellite and as an aggregate.

    Attributes:
        classes: number of size classes; chosen from the sizes if None. All but the largest class are small.
        min_satellite_overlap: share of a small mask within the convex hull of a large one that makes it the
            large one's satellite, above 0.5 to 1.
        min_aggregate_overlap: share of the smaller of two large masks that lies on the other, or in its convex
            hull, from which the two are an aggregate, above 0 to 1.
    """

    classes: int | None = None
    min_satellite_overlap: float = 0.8
    min_aggregate_overlap: float = 0.02

    def __post_init__(self) -> None:
        check_range("droplets.classes", self.classes, 1, 10)
        check_range("droplets.min_satellite_overlap", self.min_satellite_overlap, 0.5, 1)
        check_range("droplets.min_aggregate_overlap", self.min_aggregate_overlap, 1e-9, 1)


def group_droplets(selection: Selection, parameters: DropletParameters) -> Partition:
    """Tell droplets, satellites on a droplet and small droplets of their own apart.

    `details["satellites"]` counts the satellites of every droplet; `details["aggregates"]` lists the droplets that
    overlap. The hull stands for the droplet since a mask may leave its satellites and its neighbours out.
    """
    sizes = group_by_size(selection, SizeParameters(parameters.classes, max_classes=2, max_cv=MAX_CV))
    large = sizes.labels == 0
    host = _hosts(selection, large, parameters.min_satellite_overlap)
    labels = np.where(large, 0, np.where(host == NO_PARENT, 2, 1)).astype(np.int64)
    satellites: dict[int, list[int]] = {int(mask): [] for mask in selection.index[large]}
    for row in np.flatnonzero(host != NO_PARENT):
        satellites[int(selection.index[host[row]])].append(int(selection.index[row]))
    details = {
        "limits": sizes.details["limits"],
        "silhouette": sizes.details["silhouette"],
        "satellites": [{"droplet": droplet, "masks": masks} for droplet, masks in satellites.items()],
        "aggregates": _aggregates(selection, large, parameters.min_aggregate_overlap),
    }
    return Partition(labels, NAMES, details)


def _hosts(selection: Selection, large: BoolArray, min_overlap: float) -> IntArray:
    """Number of the large mask whose hull holds the most of each small one, or NO_PARENT."""
    reaches = selection.hull_overlaps
    fits = large[reaches.first] & ~large[reaches.second]
    fits &= reaches.shared >= min_overlap * selection.pixels[reaches.second]
    droplet, satellite, shared = reaches.first[fits], reaches.second[fits], reaches.shared[fits]
    host = np.full(len(selection), NO_PARENT, np.int64)
    # Ascending by overlap, then by size: the last one written is the best, the smaller of two that are equal.
    best = np.lexsort((droplet, shared))
    host[satellite[best]] = droplet[best]
    return host


def _aggregates(selection: Selection, large: BoolArray, min_overlap: float) -> list[list[int]]:
    first: list[IntArray] = []
    second: list[IntArray] = []
    for pairs in (selection.overlaps, selection.hull_overlaps):
        smaller = np.minimum(selection.pixels[pairs.first], selection.pixels[pairs.second])
        joined = large[pairs.first] & large[pairs.second] & (pairs.shared >= min_overlap * smaller)
        first.append(pairs.first[joined])
        second.append(pairs.second[joined])
    labels = components(len(selection), np.concatenate(first), np.concatenate(second))
    sizes = np.bincount(labels, minlength=1)
    return [sorted(selection.index[labels == label].tolist()) for label in np.flatnonzero(sizes > 1)]
