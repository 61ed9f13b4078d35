"""Statistics of masks, per group and in total."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sam_server.arrays import IntArray
from sam_server.grouping.selection import Selection

Values = npt.NDArray[np.float64]

# The measures that are described; all of them stand in the table of masks.
DESCRIBED = (
    *("area", "equivalent_diameter_area", "perimeter", "circularity"),
    *("eccentricity", "solidity", "mean_intensity", "edge_contrast"),
)
# The measure of the histogram: the size distribution.
HISTOGRAM_OF = "equivalent_diameter_area"
MAX_BINS = 50


@dataclass(frozen=True)
class Description:
    """One measure of the masks of a group, in real units; None where it is not known.

    Attributes:
        mean: arithmetic mean.
        median: middle value.
        std: standard deviation of the sample (n - 1); None for fewer than two masks.
        coefficient_of_variation: std / mean, which laboratories call polydispersity.
        min: smallest value.
        max: largest value.
    """

    mean: float | None
    median: float | None
    std: float | None
    coefficient_of_variation: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True)
class Statistics:
    """What is said of a group.

    Attributes:
        count: number of masks.
        covered_share: share of the picture's pixels on at least one of them, 0 to 1.
        measures: description of each measure in DESCRIBED.
        histogram: masks in each bin of equivalent diameters; the edges belong to the whole result.
    """

    count: int
    covered_share: float
    measures: dict[str, Description]
    histogram: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The statistics as JSON values."""
        measures = {name: dict(vars(description)) for name, description in self.measures.items()}
        return {**vars(self), "measures": measures, "histogram": list(self.histogram)}


def histogram_edges(selection: Selection) -> Values:
    """Edges of the bins of all groups, chosen from all masks (Freedman-Diaconis or Sturges, at most MAX_BINS)."""
    diameters = selection.measures.column(HISTOGRAM_OF)
    if len(diameters) == 0:
        return np.zeros(0)
    bins = len(np.histogram_bin_edges(diameters, "auto")) - 1 if np.ptp(diameters) > 0 else 1
    edges: Values = np.histogram_bin_edges(diameters, min(bins, MAX_BINS))
    return edges


def describe(selection: Selection, labels: IntArray, groups: int, edges: Values) -> list[Statistics]:
    """Describe every group of a partition, all groups at once.

    Args:
        selection: n masks.
        labels: (n,) group of each.
        groups: number of groups.
        edges: of the histogram's bins.
    """
    counts = np.bincount(labels, minlength=groups).tolist()
    shares = _covered_shares(selection, labels, groups).tolist()
    described = {name: _describe(selection.measures.column(name), labels, groups) for name in DESCRIBED}
    histograms = _histograms(selection.measures.column(HISTOGRAM_OF), labels, groups, edges).tolist()
    return [
        Statistics(
            count=counts[group],
            covered_share=shares[group],
            measures={name: described[name][group] for name in DESCRIBED},
            histogram=tuple(histograms[group]),
        )
        for group in range(groups)
    ]


def _describe(values: Values, labels: IntArray, groups: int) -> list[Description]:
    known = ~np.isnan(values)
    values, labels = values[known], labels[known]
    order = np.lexsort((values, labels))
    values, labels = values[order], labels[order]
    count = np.bincount(labels, minlength=groups)
    some = np.maximum(count, 1)
    mean = np.bincount(labels, values, groups) / some
    deviation = np.bincount(labels, (values - mean[labels]) ** 2, groups)
    std = np.sqrt(deviation / np.maximum(count - 1, 1))
    # Values ascend within a group, so that the middle and the ends are read off; the last place is for empty groups.
    padded = np.append(values, 0.0)
    begin = np.where(count > 0, np.cumsum(count) - count, len(values))
    low, high, last = begin + (some - 1) // 2, begin + some // 2, begin + some - 1
    median = (padded[low] + padded[np.minimum(high, last)]) / 2
    variation = np.divide(std, mean, out=np.zeros_like(std), where=mean != 0)
    columns = [
        _numbers(mean, count > 0),
        _numbers(median, count > 0),
        _numbers(std, count > 1),
        _numbers(variation, (count > 1) & (mean != 0)),
        _numbers(padded[begin], count > 0),
        _numbers(padded[last], count > 0),
    ]
    return [Description(*row) for row in zip(*columns, strict=True)]


def _numbers(values: Values, known: npt.NDArray[np.bool_]) -> list[float | None]:
    return [value if is_known else None for value, is_known in zip(values.tolist(), known.tolist(), strict=True)]


def _histograms(values: Values, labels: IntArray, groups: int, edges: Values) -> IntArray:
    bins = max(len(edges) - 1, 0)
    if bins == 0:
        return np.zeros((groups, 0), np.int64)
    # As numpy.histogram: the last bin holds its right edge.
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    return np.bincount(labels * bins + place, minlength=groups * bins).reshape(groups, bins)


def _covered_shares(selection: Selection, labels: IntArray, groups: int) -> Values:
    of_mask = np.full(len(selection.source), -1, np.int64)
    of_mask[selection.index] = labels
    height, width = selection.source.masks.size
    shares: Values = selection.source.runs.union_areas(of_mask, groups, height * width) / (height * width)
    return shares
