"""The picture with its masks in colour, for people to look at."""

from collections.abc import Sequence

import cv2
import numpy as np

from sam_server.arrays import BoolArray, ByteArray
from sam_server.masks.crop import CroppedMask
from sam_server.masks.measured_set import MeasuredSet

# RGB that people of every kind of colour vision tell apart: Okabe & Ito 2008, Color Universal Design.
PALETTE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
# Past the palette's end colours come again under stripes: none, falling, rising, level, upright.
_STRIPES = ((0, 0), (1, -1), (1, 1), (1, 0), (0, 1))
_STRIPE_PERIOD = 8
_OPACITY = 0.45
# Width of outlines as a share of the picture's longer side, at least one pixel.
_OUTLINE = 0.0015
_BLANK = 255


def look(number: int) -> tuple[tuple[int, int, int], int]:
    """Colour and stripes (0 for none) of a group's number; they repeat after 35 groups."""
    return PALETTE[number % len(PALETTE)], number // len(PALETTE) % len(_STRIPES)


def draw_overlay(
    measured: MeasuredSet,
    kept: Sequence[int],
    group_of: dict[int, int] | None = None,
    pixels: ByteArray | None = None,
) -> ByteArray:
    """Lay masks over the picture, the largest first.

    Args:
        measured: the masks.
        kept: indices of the masks to draw.
        group_of: number of each mask's group, see `Grouping.group_of`; every mask has a look of its own if None.
        pixels: (H, W, 3) uint8 RGB picture; white if None.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the picture is not the one of the masks.
    """
    height, width = measured.masks.size
    if pixels is None:
        canvas = np.full((height, width, 3), _BLANK, np.uint8)
    elif pixels.shape != (height, width, 3):
        raise ValueError(f"the picture has shape {pixels.shape}, its masks {(height, width, 3)}")
    else:
        canvas = pixels.copy()
    thickness = max(1, round(_OUTLINE * max(height, width)))
    wanted = set(kept)
    for mask in measured.order.tolist():
        if mask in wanted:
            _paint(canvas, measured.masks.records[mask].crop(), mask if group_of is None else group_of[mask], thickness)
    return canvas


def to_png(pixels: ByteArray) -> bytes:
    """Write (H, W, 3) uint8 RGB as PNG."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def _paint(canvas: ByteArray, mask: CroppedMask, number: int, thickness: int) -> None:
    if mask.area == 0:
        return
    colour, stripes = look(number)
    part = canvas[mask.slices]
    inside = part[mask.pixels].astype(np.float32)
    opacity = np.where(_striped(mask, stripes)[mask.pixels], 1.0, _OPACITY).astype(np.float32)[:, None]
    part[mask.pixels] = np.rint(inside + (np.array(colour, np.float32) - inside) * opacity).astype(np.uint8)
    framed = np.pad(mask.pixels.view(np.uint8), thickness)
    kernel = np.ones((3, 3), np.uint8)
    inner = cv2.erode(framed, kernel, iterations=thickness)[thickness:-thickness, thickness:-thickness]
    part[mask.pixels & (inner == 0)] = colour


def _striped(mask: CroppedMask, stripes: int) -> BoolArray:
    """(h, w) bool, true on the stripes; aligned to the picture, so that neighbours of one group match."""
    along_y, along_x = _STRIPES[stripes]
    if (along_y, along_x) == (0, 0):
        return np.zeros(mask.pixels.shape, np.bool_)
    height, width = mask.pixels.shape
    y, x = np.ogrid[mask.y : mask.y + height, mask.x : mask.x + width]
    pattern: BoolArray = (along_y * y + along_x * x) % _STRIPE_PERIOD < _STRIPE_PERIOD // 3
    return np.broadcast_to(pattern, mask.pixels.shape)
