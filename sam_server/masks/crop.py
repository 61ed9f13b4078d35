"""A mask kept as the rectangle that holds its pixels: small objects on large pictures cost little."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sam_server.arrays import BoolArray


@dataclass(frozen=True, eq=False)
class CroppedMask:
    """A boolean mask, stored as its bounding rectangle.

    Attributes:
        size: (H, W) of the whole mask in pixels.
        x: column of the rectangle's left pixel.
        y: row of the rectangle's top pixel.
        pixels: (h, w) bool, true on the mask; (0, 0) for an empty mask.
    """

    size: tuple[int, int]
    x: int
    y: int
    pixels: BoolArray

    @classmethod
    def from_mask(cls, mask: BoolArray) -> "CroppedMask":
        """Cut a whole mask (H, W) down to the smallest rectangle that holds it."""
        return cls((mask.shape[0], mask.shape[1]), 0, 0, mask).trimmed()

    def trimmed(self) -> "CroppedMask":
        """The same mask in the smallest rectangle; the pixels are copied, so a large parent can be freed."""
        rows = np.flatnonzero(self.pixels.any(axis=1))
        if len(rows) == 0:
            return CroppedMask(self.size, 0, 0, np.zeros((0, 0), np.bool_))
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(self.pixels[top:bottom].any(axis=0))
        left, right = int(columns[0]), int(columns[-1]) + 1
        pixels = self.pixels[top:bottom, left:right].copy()
        return CroppedMask(self.size, self.x + left, self.y + top, pixels)

    @cached_property
    def area(self) -> int:
        """Number of pixels on the mask."""
        return int(np.count_nonzero(self.pixels))

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """COCO box of the rectangle: x, y, width, height in pixels."""
        height, width = self.pixels.shape
        return (self.x, self.y, width, height)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the rectangle, to cut the same part out of a picture."""
        height, width = self.pixels.shape
        return (slice(self.y, self.y + height), slice(self.x, self.x + width))

    def to_mask(self) -> BoolArray:
        """The whole mask, (H, W) bool."""
        mask = np.zeros(self.size, np.bool_)
        mask[self.slices] = self.pixels
        return mask
