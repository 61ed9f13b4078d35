"""The masks that are grouped, as the methods see them."""

import re
from dataclasses import dataclass

import numpy as np

from sam_server.arrays import FloatArray, IntArray
from sam_server.grouping.errors import GroupingError, check_range
from sam_server.masks.measured_set import MeasuredSet
from sam_server.masks.measures import Measures
from sam_server.masks.overlaps import Overlaps

# Units go into tables that spreadsheets open, so that nothing but a unit may stand there.
_UNIT = re.compile(r"[^\W\d_][\w²³/^%·-]{0,15}")


@dataclass(frozen=True)
class Scale:
    """The real size of a pixel.

    Attributes:
        pixel_size: side of a pixel in `unit`, > 0.
        unit: such as "µm"; "px" with a pixel_size of 1 leaves measures in pixels.
    """

    pixel_size: float = 1.0
    unit: str = "px"

    def __post_init__(self) -> None:
        check_range("pixel_size", self.pixel_size, 1e-12, 1e12)
        if not _UNIT.fullmatch(self.unit):
            raise GroupingError("unit must be a short word such as px, µm or mm", "unit")


@dataclass(frozen=True, eq=False)
class Selection:
    """n masks of a set, in the set's own order (MeasuredSet.order), whatever order the caller gave them in.

    Attributes:
        source: the whole set.
        index: (n,) int64 index of each mask in the set.
        measures: n rows in real units.
        overlaps: pairs of these masks that share pixels, numbered 0 to n - 1.
        hull_overlaps: pairs where the second mask reaches into the convex hull of the first, numbered likewise.
        scale: size of a pixel.
    """

    source: MeasuredSet
    index: IntArray
    measures: Measures
    overlaps: Overlaps
    hull_overlaps: Overlaps
    scale: Scale

    def __len__(self) -> int:
        return len(self.index)

    @property
    def pixels(self) -> IntArray:
        """(n,) int64 area of each mask in pixels, the unit of overlaps."""
        areas: IntArray = self.source.measures.area[self.index].astype(np.int64)
        return areas

    @property
    def colours(self) -> FloatArray | None:
        """(n, 3) float32 mean RGB, or None."""
        colours = self.source.masks.colours
        return None if colours is None else colours[self.index]

    @property
    def embeddings(self) -> FloatArray | None:
        """(n, C) float32 mean image embedding, or None."""
        embeddings = self.source.masks.embeddings
        return None if embeddings is None else embeddings[self.index]


def select(measured: MeasuredSet, kept: IntArray, scale: Scale) -> Selection:
    """Take some masks of a set.

    Args:
        measured: the set.
        kept: indices of the masks, each once, in any order.
        scale: size of a pixel.
    """
    chosen = np.zeros(len(measured), np.bool_)
    chosen[kept] = True
    index = measured.order[chosen[measured.order]]
    number = np.full(len(measured), -1)
    number[index] = np.arange(len(index))
    return Selection(
        source=measured,
        index=index,
        measures=measured.measures[index].scaled(scale.pixel_size),
        overlaps=_renumbered(measured.overlaps, number),
        hull_overlaps=_renumbered(measured.hull_overlaps, number),
        scale=scale,
    )


def _renumbered(overlaps: Overlaps, number: IntArray) -> Overlaps:
    first, second = number[overlaps.first], number[overlaps.second]
    both = (first >= 0) & (second >= 0)
    return Overlaps(first[both], second[both], overlaps.shared[both])
