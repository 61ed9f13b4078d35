"""Size classes: k-means on the logarithm of the equivalent diameter, such as droplet and satellite."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_server.arrays import IntArray
from sam_server.grouping.errors import GroupingError, check_range
from sam_server.grouping.partition import MethodParameters, Partition
from sam_server.grouping.selection import Selection

Values = npt.NDArray[np.float64]

MAX_CLASSES = 10
# Sizes are told apart to this many steps: the exact search takes memory of the square.
_MAX_STEPS = 1024


@dataclass(frozen=True)
class SizeParameters(MethodParameters):
    """How size classes are found.

    Attributes:
        classes: number of classes, 1 to MAX_CLASSES; chosen by silhouette if None.
        max_classes: most classes to choose from, 1 to MAX_CLASSES.
        min_silhouette: mean silhouette, -1 to 1, below which all masks are one class. Sizes spread evenly around
            one mean reach about 0.6 when they are cut in two, two kinds of clearly different size 0.75 and more.
        max_cv: coefficient of variation of the diameters, > 0, above which the masks are cut even where no
            silhouette reaches min_silhouette; never if None.
        outlier_share: share of all masks, 0 to 1. Where the number of classes is chosen, a single mask that is less
            than this and would be a class of its own is an outlier: classes are found without it, and it joins the one
            that its size is nearest to. With 0 there are no outliers.
    """

    classes: int | None = None
    max_classes: int = 4
    min_silhouette: float = 0.7
    max_cv: float | None = None
    outlier_share: float = 0.05

    def __post_init__(self) -> None:
        check_range("size.classes", self.classes, 1, MAX_CLASSES)
        check_range("size.max_classes", self.max_classes, 1, MAX_CLASSES)
        check_range("size.min_silhouette", self.min_silhouette, -1, 1)
        check_range("size.max_cv", self.max_cv, 0)
        check_range("size.outlier_share", self.outlier_share, 0, 1)


def group_by_size(selection: Selection, parameters: SizeParameters) -> Partition:
    """Cut the masks into size classes, the largest first.

    k-means in one dimension is solved exactly, so that the classes depend on nothing but the sizes.

    Source: Wang & Song 2011, Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming;
    Rousseeuw 1987, Silhouettes.
    """
    diameters = selection.measures.equivalent_diameter_area
    if len(diameters) == 0:
        return Partition(np.zeros(0, np.int64), (), {"silhouette": None, "limits": []})
    logs = np.log(diameters)
    if not np.isfinite(logs).all():
        raise GroupingError("size classes need masks that are not empty: filter by min_area", "size")
    may_be_outliers = parameters.classes is None and parameters.outlier_share * len(logs) > 1
    kept = np.ones(len(logs), np.bool_)
    while True:
        classes = _find_classes(logs[kept], diameters[kept], parameters)
        counts = np.bincount(classes.labels)
        alone = counts[classes.labels] == 1
        if not may_be_outliers or len(counts) == 1 or not alone.any():
            break
        kept[np.flatnonzero(kept)[alone]] = False
    labels = np.searchsorted(-np.log(classes.limits), -logs)  # limits descend, as classes do
    labels[kept] = classes.labels
    names = tuple(f"size class {k + 1}" for k in range(len(counts)))
    return Partition(labels.astype(np.int64), names, {"silhouette": classes.silhouette, "limits": classes.limits})


@dataclass(frozen=True)
class _Classes:
    """Size classes.

    Attributes:
        labels: (n,) the class of each value; 0 has the largest.
        limits: diameters between the classes, descending.
        silhouette: mean over all; None for one class.
    """

    labels: IntArray
    limits: list[float]
    silhouette: float | None


def _find_classes(logs: Values, diameters: Values, parameters: SizeParameters) -> _Classes:
    values, weights, position = _steps(logs)
    wanted = [parameters.classes] if parameters.classes else range(1, parameters.max_classes + 1)
    cuts = _optimal_cuts(values, weights, min(max(wanted), len(values)))
    scores = {k: silhouette(values, weights, cuts[k - 1]) for k in {min(k, len(values)) for k in wanted} if k > 1}
    best = max(scores, key=lambda k: (scores[k], -k), default=1)
    if parameters.classes is None and not _worth_cutting(diameters, scores.get(best, -1.0), parameters):
        best = 1
    starts = cuts[best - 1]
    # Classes ascend with the values; the largest size is to come first.
    labels = best - 1 - (np.searchsorted(starts, position, side="right") - 1)
    limits = [float(np.exp((values[start - 1] + values[start]) / 2)) for start in starts[:0:-1]]
    return _Classes(labels.astype(np.int64), limits, scores.get(best))


def _worth_cutting(diameters: Values, score: float, parameters: SizeParameters) -> bool:
    if score >= parameters.min_silhouette:
        return True
    return parameters.max_cv is not None and float(diameters.std() / diameters.mean()) > parameters.max_cv


def silhouette(values: Values, weights: Values, starts: IntArray) -> float:
    """Mean silhouette of weighted points on a line, cut into classes.

    Args:
        values: (n,) ascending.
        weights: (n,) how many points each value stands for.
        starts: (k,) first index of each class, ascending from 0, k >= 2.
    """
    count = np.concatenate([[0.0], np.cumsum(weights)])
    total = np.concatenate([[0.0], np.cumsum(weights * values)])
    ends = np.append(starts[1:], len(values))
    position = np.arange(len(values))[:, None]
    # Sum of |value - other| over a class: those to the left of the value, then those to its right.
    split = np.clip(position, starts, ends)
    left = values[:, None] * (count[split] - count[starts]) - (total[split] - total[starts])
    right = (total[ends] - total[split]) - values[:, None] * (count[ends] - count[split])
    distance = left + right
    size = count[ends] - count[starts]
    own = np.searchsorted(starts, position[:, 0], side="right") - 1
    rows = position[:, 0]
    inner = distance[rows, own] / np.maximum(size[own] - 1, 1)
    mean = distance / size
    mean[rows, own] = np.inf
    outer = mean.min(axis=1)
    largest = np.maximum(inner, outer)
    scores = np.divide(outer - inner, largest, out=np.zeros_like(outer), where=largest > 0)
    # A class of one point scores 0 by definition.
    return float((np.where(size[own] > 1, scores, 0.0) @ weights) / count[-1])


def _steps(logs: Values) -> tuple[Values, Values, IntArray]:
    """Distinct values ascending, how often each occurs, and the position of each mask's value among them."""
    values, position, counts = np.unique(logs, return_inverse=True, return_counts=True)
    if len(values) > _MAX_STEPS:
        step = (values[-1] - values[0]) / (_MAX_STEPS - 1)
        rounded = values[0] + np.rint((logs - values[0]) / step) * step
        values, position, counts = np.unique(rounded, return_inverse=True, return_counts=True)
    return values, counts.astype(np.float64), position


def _optimal_cuts(values: Values, weights: Values, classes: int) -> list[IntArray]:
    """For 1 to `classes` classes, the first index of each class with the least squared deviation."""
    count = np.concatenate([[0.0], np.cumsum(weights)])
    centred = values - np.average(values, weights=weights)
    total = np.concatenate([[0.0], np.cumsum(weights * centred)])
    square = np.concatenate([[0.0], np.cumsum(weights * centred**2)])
    n = len(values)
    # cost[i, j]: squared deviation of values i..j from their mean, infinite for an empty stretch.
    size = count[None, 1:] - count[:n, None]
    sums = total[None, 1:] - total[:n, None]
    squares = square[None, 1:] - square[:n, None]
    cost = np.full((n, n), np.inf)
    valid = np.triu(np.ones((n, n), np.bool_))
    cost[valid] = np.maximum(squares[valid] - sums[valid] ** 2 / size[valid], 0.0)
    least = cost[0]
    origin: list[IntArray] = []
    cuts = [np.zeros(1, np.int64)]
    for _ in range(1, classes):
        # The last class starts at i: the best of what ends before i, and the cost from i on.
        candidates = np.concatenate([[np.inf], least[:-1]])[:, None] + cost
        origin.append(candidates.argmin(axis=0))
        least = candidates.min(axis=0)
        starts: list[int] = []
        end = n - 1
        for row in reversed(origin):
            starts.append(int(row[end]))
            end = starts[-1] - 1
        cuts.append(np.array([0, *reversed(starts)], np.int64))
    return cuts
