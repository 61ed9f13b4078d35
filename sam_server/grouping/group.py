"""Filter, group and describe the masks of a measured set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sam_server.grouping.errors import GroupingError
from sam_server.grouping.filters import Filters, Removed, apply_filters
from sam_server.grouping.partition import MethodParameters
from sam_server.grouping.registry import method_of
from sam_server.grouping.selection import Scale, Selection, select
from sam_server.grouping.statistics import Statistics, describe, histogram_edges
from sam_server.masks.measured_set import MeasuredSet
from sam_server.masks.measures import Measures


@dataclass(frozen=True)
class Group:
    """Some masks under one name.

    Attributes:
        name: such as "droplet" or "cluster 3".
        masks: indices in the mask set, ascending.
        statistics: of these masks.
    """

    name: str
    masks: tuple[int, ...]
    statistics: Statistics


@dataclass(frozen=True)
class Grouping:
    """What one method answered: every kept mask in exactly one group.

    Attributes:
        method: its name.
        parameters: as they were used.
        groups: in the method's order; a class that nothing fell into has no masks.
        details: what it found besides, as JSON values.
    """

    method: str
    parameters: MethodParameters
    groups: tuple[Group, ...]
    details: dict[str, Any] = field(default_factory=dict)

    def group_of(self) -> dict[int, int]:
        """Number of each mask's group."""
        return {mask: number for number, group in enumerate(self.groups) for mask in group.masks}

    def to_dict(self) -> dict[str, Any]:
        """The grouping as JSON values."""
        return {
            "method": self.method,
            "parameters": asdict(self.parameters),
            "groups": [
                {"name": group.name, "masks": list(group.masks), "statistics": group.statistics.to_dict()}
                for group in self.groups
            ],
            "details": self.details,
        }


@dataclass(frozen=True, eq=False)
class GroupResult:
    """Kept masks, groups and statistics.

    Attributes:
        scale: size of a pixel; everything measured is in its unit.
        kept: indices of the masks that passed the filters, ascending.
        measures: one row per kept mask, in real units.
        removed: what each filter took away, in the order in which they were applied.
        groupings: one per method.
        total: statistics of all kept masks.
        histogram_edges: edges of the bins of every histogram, equivalent diameters.
    """

    scale: Scale
    kept: tuple[int, ...]
    measures: Measures
    removed: tuple[Removed, ...]
    groupings: tuple[Grouping, ...]
    total: Statistics
    histogram_edges: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; the measures of each mask stand in the tables (grouping/tables.py)."""
        return {
            "pixel_size": self.scale.pixel_size,
            "unit": self.scale.unit,
            "kept": list(self.kept),
            "removed": [{"filter": entry.filter, "count": entry.count} for entry in self.removed],
            "groupings": [grouping.to_dict() for grouping in self.groupings],
            "total": self.total.to_dict(),
            "histogram_edges": list(self.histogram_edges),
        }


def group_masks(
    measured: MeasuredSet,
    methods: Sequence[MethodParameters] = (),
    filters: Filters | None = None,
    scale: Scale | None = None,
) -> GroupResult:
    """Filter masks, group what is left by each method, and describe the groups.

    Args:
        measured: the masks with their measures; nothing else is read, and no model runs.
        methods: parameters of each method, every method at most once.
        filters: what is removed first; nothing but empty masks if None.
        scale: size of a pixel; pixels if None.

    Raises:
        GroupingError: a method is given twice, or needs what the set does not hold.
    """
    names = [method_of(parameters).name for parameters in methods]
    for name in names:
        if names.count(name) > 1:
            raise GroupingError(f"method {name} is given more than once", "methods")
    selection, removed = apply_filters(measured, filters or Filters(), scale or Scale())
    edges = histogram_edges(selection)
    (total,) = describe(selection, np.zeros(len(selection), np.int64), 1, edges)
    ascending = np.argsort(selection.index)
    return GroupResult(
        scale=selection.scale,
        kept=tuple(selection.index[ascending].tolist()),
        measures=selection.measures[ascending],
        removed=removed,
        groupings=tuple(_group(selection, parameters, edges) for parameters in methods),
        total=total,
        histogram_edges=tuple(edges.tolist()),
    )


def _group(
    selection: Selection, parameters: MethodParameters, edges: np.ndarray[Any, np.dtype[np.float64]]
) -> Grouping:
    method = method_of(parameters)
    partition = method.run(selection, parameters)
    statistics = describe(selection, partition.labels, len(partition.names), edges)
    # Sorted by group, then by index, so that each group is a stretch.
    order = np.lexsort((selection.index, partition.labels))
    ends = np.cumsum([entry.count for entry in statistics], dtype=np.int64)
    members = np.split(selection.index[order], ends[:-1]) if len(ends) else []
    groups = tuple(
        Group(name, tuple(masks.tolist()), entry)
        for name, masks, entry in zip(partition.names, members, statistics, strict=True)
    )
    return Grouping(method.name, parameters, groups, dict(partition.details))


def restrict(measured: MeasuredSet, result: GroupResult, masks: Sequence[int]) -> GroupResult:
    """The same groups with only some of their masks, described anew.

    Args:
        measured: what was grouped.
        result: its groups.
        masks: numbers of the masks that stay; those that are not kept are left out.
    """
    wanted = np.intersect1d(np.asarray(result.kept, np.int64), np.asarray(masks, np.int64))
    selection = select(measured, wanted, result.scale)
    edges = np.array(result.histogram_edges)
    (total,) = describe(selection, np.zeros(len(selection), np.int64), 1, edges)
    rows = np.searchsorted(np.asarray(result.kept, np.int64), wanted)
    return replace(
        result,
        kept=tuple(wanted.tolist()),
        measures=result.measures[rows],
        groupings=tuple(_restrict(selection, grouping, edges) for grouping in result.groupings),
        total=total,
    )


def _restrict(selection: Selection, grouping: Grouping, edges: np.ndarray[Any, np.dtype[np.float64]]) -> Grouping:
    group_of = grouping.group_of()
    labels = np.array([group_of[mask] for mask in selection.index.tolist()], np.int64)
    left = set(selection.index.tolist())
    groups = tuple(
        Group(group.name, tuple(mask for mask in group.masks if mask in left), statistics)
        for group, statistics in zip(
            grouping.groups, describe(selection, labels, len(grouping.groups), edges), strict=True
        )
    )
    return replace(grouping, groups=groups)
