"""Where to look: the grid of points, the crops of a picture, its tiles."""

import math
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from sam_server.arrays import CoordArray


@dataclass(frozen=True)
class Crop:
    """A rectangle of the picture that is searched as a picture of its own.

    Attributes:
        x1, y1, x2, y2: its pixels, x2 and y2 exclusive.
        layer: 0 for the whole picture.
    """

    x1: int
    y1: int
    x2: int
    y2: int
    layer: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.y2 - self.y1, self.x2 - self.x1)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.y2 - self.y1) * (self.x2 - self.x1)

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """x, y, width, height."""
        return (self.x1, self.y1, self.x2 - self.x1, self.y2 - self.y1)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to cut the crop out of the picture."""
        return (slice(self.y1, self.y2), slice(self.x1, self.x2))

    def inside(self, outer: "Crop") -> "Crop":
        """This crop of `outer`, in the pixels that `outer` is in."""
        return Crop(self.x1 + outer.x1, self.y1 + outer.y1, self.x2 + outer.x1, self.y2 + outer.y1, self.layer)


def axes_within(points_per_side: int, crop: Crop, zone: Crop) -> tuple[CoordArray, CoordArray]:
    """Columns and rows of a crop's grid of points that lie in a zone, or less than half a cell beside it.

    Each point is in the middle of its cell. The points of neighbouring zones, whose grids do not meet, are nowhere
    farther apart than those of one.

    Args:
        points_per_side: of the crop.
        crop: in the picture's pixels.
        zone: in the picture's pixels.

    Returns:
        x of the columns and y of the rows, (N,) and (M,) float64, in the crop's pixels.
    """
    height, width = crop.size
    half_cell = 1 / (2 * points_per_side)
    axis = np.linspace(half_cell, 1 - half_cell, points_per_side)
    x, y = axis * width, axis * height
    beside_x, beside_y = half_cell * width, half_cell * height
    return (
        x[(x + crop.x1 >= zone.x1 - beside_x) & (x + crop.x1 < zone.x2 + beside_x)],
        y[(y + crop.y1 >= zone.y1 - beside_y) & (y + crop.y1 < zone.y2 + beside_y)],
    )


def crops(size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole picture, then the crops of each layer, column by column.

    Args:
        size: (H, W) of the picture.
        layers: layers of crops; layer n has 2^n by 2^n of them.
        overlap_ratio: overlap of the first layer's crops over the picture's shorter side.

    Returns:
        Crops with at least one pixel; a picture of a few pixels has no room for many.

    Source: generate_crop_boxes in segment_anything/utils/amg.py.
    """
    height, width = size
    found = [Crop(0, 0, width, height)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / count))
        crop_width = math.ceil((overlap * (count - 1) + width) / count)
        crop_height = math.ceil((overlap * (count - 1) + height) / count)
        lefts = [(crop_width - overlap) * i for i in range(count)]
        tops = [(crop_height - overlap) * i for i in range(count)]
        for x, y in product(lefts, tops):
            crop = Crop(x, y, min(x + crop_width, width), min(y + crop_height, height), layer)
            if crop.x1 < crop.x2 and crop.y1 < crop.y2:
                found.append(crop)
    return found


def tiles(size: tuple[int, int], tile_size: int, overlap: int) -> list[Crop]:
    """Square tiles that cover the picture, row by row, spread evenly.

    Args:
        size: (H, W) of the picture.
        tile_size: side of a tile in pixels; shorter where the picture is.
        overlap: least overlap of neighbours in pixels, below tile_size.
    """
    height, width = size
    tops, lefts = _starts(height, tile_size, overlap), _starts(width, tile_size, overlap)
    return [Crop(x, y, min(x + tile_size, width), min(y + tile_size, height)) for y in tops for x in lefts]


def zones(size: tuple[int, int], tile_size: int, overlap: int) -> list[Crop]:
    """The part of each of `tiles` that is nearer to its middle than to a neighbour's: together the picture, once.

    What is not larger than the overlap is whole in the tile in whose zone its middle lies, so each tile needs to be
    asked about its zone only.
    """
    rows, columns = (_between(length, tile_size, _starts(length, tile_size, overlap)) for length in size)
    return [Crop(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def _between(length: int, tile_size: int, starts: list[int]) -> list[tuple[int, int]]:
    ends = [(start + tile_size + following) // 2 for start, following in pairwise(starts)]
    return list(zip([0, *ends], [*ends, length], strict=True))


def _starts(length: int, tile_size: int, overlap: int) -> list[int]:
    if length <= tile_size:
        return [0]
    count = math.ceil((length - overlap) / (tile_size - overlap))
    return [round(i * (length - tile_size) / (count - 1)) for i in range(count)]
