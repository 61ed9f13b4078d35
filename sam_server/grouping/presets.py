"""Filters and methods under names that a laboratory knows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sam_server.grouping.droplets import MAX_CV, DropletParameters
from sam_server.grouping.errors import GroupingError
from sam_server.grouping.filters import Filters
from sam_server.grouping.hierarchy import HierarchyParameters
from sam_server.grouping.overlap import OverlapParameters
from sam_server.grouping.partition import MethodParameters
from sam_server.grouping.proximity import ProximityParameters
from sam_server.grouping.shape import ShapeParameters
from sam_server.grouping.size import SizeParameters

# A disc of five pixels across: below it neither size nor shape means much.
MIN_PIXELS = 20
# Grey levels, half of the step between a thing and its ground: people see no less, but a model sees the traces of
# compression on bare ground.
MIN_EDGE_CONTRAST = 2.0


@dataclass(frozen=True)
class Preset:
    """A documented set of filters and methods.

    Attributes:
        name: as the caller writes it.
        summary: what it is for, in a sentence.
        filters: applied first.
        methods: parameters of each method.
        search: parameters of automatic masks, by name, where masks must be found first.
    """

    name: str
    summary: str
    filters: Filters
    methods: tuple[MethodParameters, ...]
    search: Mapping[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "droplets",
            "Whole, round droplets in one piece (circularity of at least 0.53, holes filled) with an edge to see, each"
            " once: two size classes, satellites on each droplet (at least 80 % within it), aggregates of droplets that"
            " overlap.",
            Filters(
                drop_touching_edge=True,
                min_filled_circularity=0.53,
                max_parts=1,
                max_picture_share=0.5,
                min_edge_contrast=MIN_EDGE_CONTRAST,
                # Two droplets that overlap share less; two outlines of one blurred droplet may share little more.
                max_duplicate_iou=0.5,
                prefer_round=True,
                max_nested_ratio=0.2,
                min_pixels=MIN_PIXELS,
            ),
            (SizeParameters(max_classes=2, max_cv=MAX_CV), DropletParameters(min_satellite_overlap=0.8)),
            # Leaves the whole beside its half for the filters to choose from.
            {"box_nms_thresh": 0.9},
        ),
        Preset(
            "cells",
            "Whole cells or nuclei: size and shape classes, and colonies of cells that lie within half a diameter.",
            Filters(
                min_pixels=MIN_PIXELS,
                drop_touching_edge=True,
                min_solidity=0.8,
                max_parts=1,
                max_picture_share=0.25,
                max_duplicate_iou=0.7,
            ),
            (SizeParameters(), ShapeParameters(), ProximityParameters()),
        ),
        Preset(
            "parts",
            "Things and the parts they are made of: whole, part and subpart.",
            Filters(max_duplicate_iou=0.9),
            (HierarchyParameters(),),
        ),
        Preset(
            "everything",
            "All masks but exact doubles: containment, overlap, size and shape.",
            Filters(max_duplicate_iou=0.95),
            (HierarchyParameters(), OverlapParameters(), SizeParameters(), ShapeParameters()),
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        GroupingError: there is none.
    """
    if name not in PRESETS:
        raise GroupingError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}", "preset")
    return PRESETS[name]
