"""The ways of grouping: one row each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam_server.grouping.appearance import AppearanceParameters, group_by_appearance
from sam_server.grouping.droplets import DropletParameters, group_droplets
from sam_server.grouping.errors import GroupingError
from sam_server.grouping.hierarchy import HierarchyParameters, group_by_containment
from sam_server.grouping.overlap import OverlapParameters, group_by_overlap
from sam_server.grouping.partition import MethodParameters, Partition
from sam_server.grouping.proximity import ProximityParameters, group_by_proximity
from sam_server.grouping.selection import Selection
from sam_server.grouping.shape import ShapeParameters, group_by_shape
from sam_server.grouping.size import SizeParameters, group_by_size


@dataclass(frozen=True)
class Method:
    """A way of grouping.

    Attributes:
        name: as the caller writes it.
        summary: one line for people.
        parameters: frozen dataclass of its parameters, all with defaults.
        run: cuts a selection into groups.
    """

    name: str
    summary: str
    parameters: type[MethodParameters]
    run: Callable[[Selection, Any], Partition]


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("hierarchy", "whole, part and subpart by containment", HierarchyParameters, group_by_containment),
        Method("overlap", "masks that overlap, directly or through others", OverlapParameters, group_by_overlap),
        Method("size", "size classes by equivalent diameter", SizeParameters, group_by_size),
        Method("shape", "round, compact, elongated and irregular", ShapeParameters, group_by_shape),
        Method("appearance", "masks that look alike", AppearanceParameters, group_by_appearance),
        Method("proximity", "masks that lie close together", ProximityParameters, group_by_proximity),
        Method("droplets", "droplets, their satellites, and aggregates", DropletParameters, group_droplets),
    )
}


def method_of(parameters: MethodParameters) -> Method:
    """The method that takes these parameters."""
    return next(method for method in METHODS.values() if method.parameters is type(parameters))


def make_parameters(name: str, values: dict[str, Any] | None = None) -> MethodParameters:
    """Parameters of a method from plain values.

    Raises:
        GroupingError: there is no such method or parameter, or a value makes no sense.
    """
    method = METHODS.get(name)
    if method is None:
        raise GroupingError(f"method must be one of {', '.join(METHODS)}, not {name!r}", "methods")
    known = method.parameters.__dataclass_fields__
    for key in values or {}:
        if key not in known:
            raise GroupingError(f"{name} has no parameter {key!r}; it has {', '.join(known)}", f"{name}.{key}")
    return method.parameters(**(values or {}))
