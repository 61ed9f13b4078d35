"""Filters before grouping, each with its count of removed masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sam_server.arrays import BoolArray
from sam_server.grouping.errors import check_range
from sam_server.grouping.selection import Scale, Selection, select
from sam_server.masks.measured_set import MeasuredSet
from sam_server.masks.measures import Column

_SHARES = (
    *("max_picture_share", "min_circularity", "min_filled_circularity", "min_solidity", "max_eccentricity"),
    *("min_predicted_iou", "min_stability_score", "max_duplicate_iou", "max_nested_ratio"),
)
# Share of a mask within another's hull from which it is nested.
_NESTED = 0.8
# The model is clearly less sure of a mask whose predicted IoU is below this share of another's.
_CLEARLY_LESS = 0.85


@dataclass(frozen=True)
class Filters:
    """What is removed; None or false leaves a filter out. Lengths and areas are in the unit of the scale.

    Attributes:
        min_area, max_area: of the mask.
        min_diameter, max_diameter: equivalent diameter.
        max_picture_share: area / area of the picture, 0 to 1; removes backgrounds.
        drop_touching_edge: masks that reach the picture's edge, whose size is not known.
        min_pixels: area in pixels, whatever the scale: specks are too small to measure.
        min_circularity, min_filled_circularity, min_solidity, max_eccentricity: 0 to 1.
        max_parts: number of separate parts, 1 or more (Measures.parts).
        max_parts_distance: distance of the farthest part from the largest; lets close parts pass.
        min_mean_intensity, max_mean_intensity: brightness, 0 to 255.
        min_edge_contrast: RMS contrast along the outline, 0 to 127.5; removes masks that show nothing. They stay
            where the picture is not known or a caller brought the masks.
        min_predicted_iou, min_stability_score: 0 to 1.
        max_duplicate_iou: of two masks with a higher IoU the one with the lower predicted IoU is removed, 0 to 1.
        prefer_round: of duplicates the one with the lower product of predicted IoU and filled circularity is removed:
            the whole of something round stays, its half goes, even where the model is surer of the half.
        max_nested_ratio: of two masks the one that lies within the other's convex hull (at least 80 % of it) is
            removed if it has more than this share of the hull's area, 0 to 1: the inner edge of a rim, a face on a
            coin. Where the model is clearly surer of the inner one, the outer one goes instead: two droplets taken
            for one, a droplet with its halo. What is smaller, such as a satellite, stays.
    """

    min_area: float | None = None
    max_area: float | None = None
    min_diameter: float | None = None
    max_diameter: float | None = None
    max_picture_share: float | None = None
    drop_touching_edge: bool = False
    min_pixels: int | None = None
    min_circularity: float | None = None
    min_filled_circularity: float | None = None
    min_solidity: float | None = None
    max_eccentricity: float | None = None
    max_parts: int | None = None
    max_parts_distance: float | None = None
    min_mean_intensity: float | None = None
    max_mean_intensity: float | None = None
    min_edge_contrast: float | None = None
    min_predicted_iou: float | None = None
    min_stability_score: float | None = None
    max_duplicate_iou: float | None = None
    prefer_round: bool = False
    max_nested_ratio: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_area", "max_area", "min_diameter", "max_diameter", "max_parts_distance"):
            check_range(f"filters.{name}", getattr(self, name), 0)
        for name in _SHARES:
            check_range(f"filters.{name}", getattr(self, name), 0, 1)
        check_range("filters.min_pixels", self.min_pixels, 0)
        check_range("filters.max_parts", self.max_parts, 1)
        check_range("filters.min_mean_intensity", self.min_mean_intensity, 0, 255)
        check_range("filters.max_mean_intensity", self.max_mean_intensity, 0, 255)
        check_range("filters.min_edge_contrast", self.min_edge_contrast, 0, 127.5)


@dataclass(frozen=True)
class Removed:
    """How many masks a filter took away from those that earlier filters had left.

    Attributes:
        filter: name of the field of Filters.
        masks: indices of the masks, ascending.
    """

    filter: str
    masks: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of masks."""
        return len(self.masks)


def apply_filters(measured: MeasuredSet, filters: Filters, scale: Scale) -> tuple[Selection, tuple[Removed, ...]]:
    """Remove masks, filter by filter in the order of the fields; empty masks always go first, as "empty".

    A measure that is not known (brightness without a picture) passes no filter that asks for it; only
    `min_edge_contrast` removes what is known to show nothing.
    """
    everything = select(measured, np.arange(len(measured)), scale)
    left = np.ones(len(everything), np.bool_)
    removed: list[Removed] = []
    for name, passes in _tests(everything, filters):
        gone = left & ~passes
        removed.append(Removed(name, tuple(sorted(everything.index[gone].tolist()))))
        left &= passes
    if filters.max_duplicate_iou is not None:
        gone = _duplicates(everything, left, filters.max_duplicate_iou, filters.prefer_round)
        removed.append(Removed("max_duplicate_iou", tuple(sorted(everything.index[gone].tolist()))))
        left &= ~gone
    if filters.max_nested_ratio is not None:
        gone = _nested(everything, left, filters.max_nested_ratio)
        removed.append(Removed("max_nested_ratio", tuple(sorted(everything.index[gone].tolist()))))
        left &= ~gone
    counted = tuple(entry for entry in removed if entry.filter != "empty" or entry.count)
    return select(measured, everything.index[left], scale), counted


def _tests(selection: Selection, filters: Filters) -> Iterator[tuple[str, BoolArray]]:
    """Name of each active filter, and which masks pass it."""
    measures = selection.measures
    records = [selection.source.masks.records[i] for i in selection.index]
    height, width = selection.source.masks.size
    yield "empty", measures.area > 0
    bounds = [
        ("min_area", measures.area),
        ("max_area", measures.area),
        ("min_diameter", measures.equivalent_diameter_area),
        ("max_diameter", measures.equivalent_diameter_area),
        ("max_picture_share", selection.pixels / (height * width)),
        ("drop_touching_edge", measures.touches_edge),
        ("min_pixels", selection.pixels),
        ("min_circularity", measures.circularity),
        ("min_filled_circularity", measures.filled_circularity),
        ("min_solidity", measures.solidity),
        ("max_eccentricity", measures.eccentricity),
        ("max_parts", measures.parts),
        ("max_parts_distance", measures.parts_distance),
        ("min_mean_intensity", measures.mean_intensity),
        ("max_mean_intensity", measures.mean_intensity),
        ("min_edge_contrast", np.nan_to_num(measures.edge_contrast, nan=np.inf)),  # what is not known passes
        ("min_predicted_iou", np.array([record.predicted_iou for record in records])),
        ("min_stability_score", np.array([record.stability_score for record in records])),
    ]
    for name, values in bounds:
        bound = getattr(filters, name)
        if name == "drop_touching_edge" and bound:
            yield name, values == 0
        elif name.startswith("min_") and bound is not None:
            yield name, values >= bound
        elif name.startswith("max_") and bound is not None:
            yield name, values <= bound


def _duplicates(selection: Selection, left: BoolArray, max_iou: float, prefer_round: bool) -> BoolArray:
    """Masks that overlap a better one by more than max_iou: greedy non-maximum suppression."""
    overlaps, areas = selection.overlaps, selection.pixels
    union = areas[overlaps.first] + areas[overlaps.second] - overlaps.shared
    alike = overlaps.shared > max_iou * union
    neighbours: dict[int, list[int]] = {}
    for one, other in zip(overlaps.first[alike].tolist(), overlaps.second[alike].tolist(), strict=True):
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    gone = np.zeros(len(selection), np.bool_)
    for row in _best_first(selection, prefer_round):
        if left[row] and not gone[row]:
            gone[[other for other in neighbours.get(row, ()) if left[other]]] = True
    return gone


def _nested(selection: Selection, left: BoolArray, max_ratio: float) -> BoolArray:
    """Masks that fill more than max_ratio of a larger one's hull, or the larger one if clearly less sure."""
    pairs, areas = selection.hull_overlaps, selection.pixels
    hulls = areas / np.maximum(selection.measures.solidity, 1e-9)
    # The selection is sorted by area: a larger mask has a lower number.
    within = (pairs.shared >= _NESTED * areas[pairs.second]) & (pairs.first < pairs.second)
    within &= areas[pairs.second] > max_ratio * hulls[pairs.first]
    within &= left[pairs.first] & left[pairs.second]
    order = np.argsort(pairs.first[within], kind="stable")
    outer, inner = pairs.first[within][order], pairs.second[within][order]
    scores = _predicted_iou(selection)
    gone = np.zeros(len(selection), np.bool_)
    rows, starts = np.unique(outer, return_index=True)
    for row, (start, end) in zip(rows, pairwise([*starts, len(inner)]), strict=True):
        if gone[row]:
            continue
        inside = inner[start:end][~gone[inner[start:end]]]
        if np.any(scores[row] < _CLEARLY_LESS * scores[inside]):
            gone[row] = True
        else:
            gone[inside] = True
    return gone


def _best_first(selection: Selection, prefer_round: bool) -> list[int]:
    scores = _predicted_iou(selection)
    if prefer_round:
        scores *= selection.measures.filled_circularity
    return [int(row) for row in np.argsort(-scores, kind="stable")]


def _predicted_iou(selection: Selection) -> Column:
    records = selection.source.masks.records
    return np.array([records[i].predicted_iou for i in selection.index], np.float64)
