"""Holes and islands of a mask that are too small to mean anything."""

import cv2
import numpy as np
import numpy.typing as npt

from sam_server.arrays import BoolArray, IntArray
from sam_server.masks.crop import CroppedMask

# Pixels that meet at a corner belong together.
CONNECTIVITY = 8


def remove_small_regions(mask: CroppedMask, min_area: int) -> CroppedMask | None:
    """Fill holes, then drop islands, of fewer than `min_area` pixels; the largest island stays in any case.

    The background around the mask counts as a hole if it is that small.

    Args:
        mask: trimmed or not; only its rectangle and one pixel around it are looked at.
        min_area: in pixels.

    Returns:
        The changed mask, trimmed, or None if nothing was small.

    Source: remove_small_regions in segment_anything/utils/amg.py.
    """
    filled = _fill_holes(mask, min_area)
    cleaned = _drop_islands(mask if filled is None else filled, min_area)
    changed = filled if cleaned is None else cleaned
    return None if changed is None else changed.trimmed()


def _fill_holes(mask: CroppedMask, min_area: int) -> CroppedMask | None:
    framed = _with_margin(mask)
    regions, sizes = _regions(~framed.pixels)
    outside = _pixels_outside(framed, regions, len(sizes))
    small = sizes + outside < min_area
    small[0] = False
    if not small.any():
        return None
    if outside[small].any():
        # The hole reaches out of the rectangle: fill it in the whole picture.
        return _fill_holes(CroppedMask(mask.size, 0, 0, mask.to_mask()), min_area)
    return CroppedMask(framed.size, framed.x, framed.y, framed.pixels | small[regions])


def _drop_islands(mask: CroppedMask, min_area: int) -> CroppedMask | None:
    if mask.pixels.size == 0:
        return None
    regions, sizes = _regions(mask.pixels)
    large = sizes >= min_area
    large[0] = False
    if large[1:].all():
        return None
    if not large.any():
        large[1 + int(np.argmax(sizes[1:]))] = True
    return CroppedMask(mask.size, mask.x, mask.y, large[regions])


def _with_margin(mask: CroppedMask) -> CroppedMask:
    """The mask in a rectangle that is a pixel wider on every side that is not the picture's edge."""
    height, width = mask.size
    bottom, right = mask.y + mask.pixels.shape[0], mask.x + mask.pixels.shape[1]
    top, left = int(mask.y > 0), int(mask.x > 0)
    pixels = np.pad(mask.pixels, ((top, int(bottom < height)), (left, int(right < width))))
    return CroppedMask(mask.size, mask.x - left, mask.y - top, pixels)


def _regions(pixels: BoolArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Number of the region at each pixel, 0 where `pixels` is false, and the (R,) pixels of each region."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(pixels.view(np.uint8), connectivity=CONNECTIVITY)
    return np.asarray(regions, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int32)


def _pixels_outside(framed: CroppedMask, regions: npt.NDArray[np.int32], count: int) -> IntArray:
    """Pixels that each of `count` background regions has outside of the rectangle, whose margin is background."""
    height, width = framed.size
    rows, columns = framed.pixels.shape
    bottom, right = framed.y + rows, framed.x + columns
    outside = np.zeros(count, np.int64)
    # The strips left and right take the corners; each joins the margin that it lies behind.
    if framed.x > 0:
        outside[regions[0, 0]] += framed.x * height
    if right < width:
        outside[regions[0, -1]] += (width - right) * height
    if framed.y > 0:
        outside[regions[0, 0]] += framed.y * columns
    if bottom < height:
        outside[regions[-1, 0]] += (height - bottom) * columns
    return outside
