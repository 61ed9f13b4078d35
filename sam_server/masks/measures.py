"""Measures of masks, under the names of skimage.measure.regionprops and equal to them.

scikit-image takes seconds for the solidity of one mask of a thousand pixels across, since it tests every pixel
against every side of the hull. Here each mask is measured on its crop, its hull row by row, its perimeter and
moments by OpenCV; tests hold the figures against regionprops.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from sam_server.arrays import BoolArray, ByteArray, IntArray
from sam_server.masks import rle
from sam_server.masks.crop import CroppedMask
from sam_server.masks.rle import Rle

Column = npt.NDArray[np.float64]

# A part counts from this share of the mask's area on: small models leave specks of some per cent beside an object.
MIN_PART_SHARE = 0.1

# Lengths and areas scale with the pixel; the rest are pure numbers, angles or brightness.
LENGTHS = (
    *("equivalent_diameter_area", "perimeter", "axis_major_length", "axis_minor_length"),
    *("centroid_x", "centroid_y", "parts_distance"),
)
AREAS = ("area",)

# Weights of the border pixel patterns, skimage.measure.perimeter after Benkrid & Crookes: the sum of
# 1 (itself), 2 (each of the four neighbours) and 10 (each diagonal one) names a pattern.
_PATTERN = np.array([[10, 2, 10], [2, 1, 2], [10, 2, 10]], np.float32)
_PATTERN_LENGTH = np.zeros(50)
_PATTERN_LENGTH[[5, 7, 15, 17, 25, 27]] = 1
_PATTERN_LENGTH[[21, 33]] = math.sqrt(2)
_PATTERN_LENGTH[[13, 23]] = (1 + math.sqrt(2)) / 2
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of N masks, each an (N,) float64 column in pixels.

    Attributes:
        area: pixels on the mask.
        equivalent_diameter_area: diameter of the circle of that area.
        perimeter: length of the 4-connected border, as skimage.measure.perimeter; 0 for a single pixel.
        circularity: 4 pi area / perimeter^2, at most 1: the digital perimeter of small discs comes out short.
        filled_circularity: circularity with the holes filled: what was cut out of a disc, such as a satellite that
            sits on its droplet, leaves it round.
        eccentricity: of the ellipse with the same second moments, 0 (circle) to 1.
        solidity: area / area of the convex hull.
        orientation: angle of the major axis with the rows, -pi/2 to pi/2, counter-clockwise.
        axis_major_length: of the ellipse with the same second moments.
        axis_minor_length: of the same ellipse.
        centroid_x: mean column of the pixels.
        centroid_y: mean row of the pixels.
        parts: 8-connected parts that hold at least MIN_PART_SHARE of the area; the largest always counts.
        parts_distance: how far the farthest of these parts lies from the largest, nearest pixels, centre to centre.
        touches_edge: 1 where one of these parts reaches the first or last row or column of the picture, else 0.
        mean_intensity: mean brightness on the mask, 0 to 255; NaN where the picture is not known.
        edge_contrast: RMS contrast along the outline, 0 to 127.5 (`features.edge_contrasts`); NaN where the
            picture is not known or a caller brought the masks.
    """

    area: Column
    equivalent_diameter_area: Column
    perimeter: Column
    circularity: Column
    filled_circularity: Column
    eccentricity: Column
    solidity: Column
    orientation: Column
    axis_major_length: Column
    axis_minor_length: Column
    centroid_x: Column
    centroid_y: Column
    parts: Column
    parts_distance: Column
    touches_edge: Column
    mean_intensity: Column
    edge_contrast: Column

    def __len__(self) -> int:
        return len(self.area)

    def column(self, name: str) -> Column:
        """The measure of that name."""
        values: Column = getattr(self, name)
        return values

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> "Measures":
        """The measures of some of the masks."""
        return Measures(**{name: self.column(name)[rows] for name in NAMES})

    def scaled(self, pixel_size: float) -> "Measures":
        """The measures with lengths and areas in real units.

        Args:
            pixel_size: side of a pixel in the unit, > 0.
        """
        power = {**dict.fromkeys(LENGTHS, 1), **dict.fromkeys(AREAS, 2)}
        return Measures(**{name: self.column(name) * pixel_size ** power.get(name, 0) for name in NAMES})


NAMES: tuple[str, ...] = tuple(field.name for field in fields(Measures))


def measure(
    masks: Iterable[CroppedMask], mean_intensity: Column | None = None, edge_contrast: Column | None = None
) -> Measures:
    """Measure masks, one crop in memory at a time.

    Args:
        masks: N masks of one picture. An empty mask measures 0, with NaN for what has no meaning.
        mean_intensity: (N,) mean brightness on each mask, if known.
        edge_contrast: (N,) RMS contrast along each outline, if known.
    """
    rows = [_measure_one(mask) for mask in masks]
    table = np.array(rows, np.float64).reshape(len(rows), len(NAMES) - 2)
    unknown = np.full(len(rows), np.nan)
    looks = [unknown if column is None else column for column in (mean_intensity, edge_contrast)]
    return Measures(**dict(zip(NAMES, [*table.T, *looks], strict=True)))


def _measure_one(mask: CroppedMask) -> tuple[float, ...]:
    if mask.area == 0:
        return (0.0, 0.0, 0.0, *[math.nan] * 9, 0.0, 0.0, 0.0)
    pixels = np.ascontiguousarray(mask.pixels).view(np.uint8)
    area = mask.area
    length = perimeter(pixels)
    parts, distance, at_edge = _parts(pixels, mask)
    left, right = _hull_spans(mask.pixels)
    return (
        area,
        math.sqrt(4 * area / math.pi),
        length,
        _circularity(area, length),
        _circularity(*_filled(pixels, area, length)),
        *_ellipse(pixels, area / int((right - left + 1).sum()), mask),
        parts,
        distance,
        float(at_edge),
    )


def _circularity(area: float, length: float) -> float:
    return min(1.0, 4 * math.pi * area / length**2) if length > 0 else 1.0


def _filled(pixels: ByteArray, area: int, length: float) -> tuple[int, float]:
    """Area and perimeter with the holes filled as regionprops fills them: what an 8-connected flood does not reach."""
    flooded = np.pad(pixels, 1)
    cv2.floodFill(flooded, None, (0, 0), (2,), flags=8)
    filled = (flooded != 2)[1:-1, 1:-1]
    area_filled = int(np.count_nonzero(filled))
    return (area, length) if area_filled == area else (area_filled, perimeter(filled.view(np.uint8)))


def perimeter(pixels: ByteArray) -> float:
    """Length of the border of (h, w) uint8 pixels of 0 and 1, equal to skimage.measure.perimeter."""
    framed = np.pad(pixels, 1)
    border = framed - cv2.erode(framed, _CROSS)
    pattern = cv2.filter2D(border, cv2.CV_8U, _PATTERN, borderType=cv2.BORDER_CONSTANT)
    counts = np.bincount(pattern[border.view(np.bool_)], minlength=len(_PATTERN_LENGTH))
    return float(counts @ _PATTERN_LENGTH)


def hull(mask: CroppedMask) -> Rle:
    """Pixels whose centre lies in the convex hull of a mask, equal to regionprops' image_convex.

    Args:
        mask: in its smallest rectangle, not empty.
    """
    # RLE runs down the columns, and a column crosses the hull once.
    top, bottom = _hull_spans(mask.pixels.T)
    place = (np.arange(len(top)) + mask.x) * mask.size[0] + mask.y
    return rle.from_runs(mask.size, place + top, place + bottom + 1)


def _hull_spans(pixels: BoolArray) -> tuple[IntArray, IntArray]:
    """First and last column of the hull in each row of (h, w) bool pixels, whose first and last row are not empty.

    The hull is that of the middles of all pixel sides. In half pixels they are whole numbers, so that every row's
    span is found without rounding.
    """
    rows = np.flatnonzero(pixels.any(axis=1))
    left = pixels[rows].argmax(axis=1)
    right = pixels.shape[1] - 1 - pixels[rows, ::-1].argmax(axis=1)
    x = 2 * np.concatenate([left, left, left, right, right, right]) + np.repeat([-1, 0, 0, 0, 0, 1], len(rows))
    y = 2 * np.tile(rows, 6) + np.repeat([0, -1, 1, -1, 1, 0], len(rows))
    corners = cv2.convexHull(np.stack([x, y], axis=1).astype(np.int32))[:, 0].astype(np.int64)
    following = np.roll(corners, -1, axis=0)
    falls = corners[:, 1] > following[:, 1]
    top = np.where(falls[:, None], following, corners)
    bottom = np.where(falls[:, None], corners, following)
    height = bottom[:, 1] - top[:, 1]
    first, last = -(-top[:, 1] // 2), bottom[:, 1] // 2
    crossed = np.where(height > 0, last - first + 1, 0)
    side = np.repeat(np.arange(len(corners)), crossed)
    row = np.arange(len(side)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[side]
    # Along a side x = top_x + (2 row - top_y) * dx / dy, in half pixels.
    over = top[side, 0] * height[side] + (2 * row - top[side, 1]) * (bottom - top)[side, 0]
    leftmost = np.full(pixels.shape[0], pixels.shape[1], np.int64)
    rightmost = np.full(pixels.shape[0], -1, np.int64)
    np.minimum.at(leftmost, row, -(-over // (2 * height[side])))
    np.maximum.at(rightmost, row, over // (2 * height[side]))
    return leftmost, rightmost


def _ellipse(pixels: ByteArray, solidity: float, mask: CroppedMask) -> tuple[float, ...]:
    """Eccentricity, solidity, orientation, axes and centroid from the second moments, as regionprops."""
    moments = cv2.moments(pixels, True)
    area = moments["m00"]
    a, b, c = moments["mu20"] / area, -moments["mu11"] / area, moments["mu02"] / area
    # regionprops' inertia tensor is [[a, b], [b, c]] in (row, column) order.
    middle, spread = (a + c) / 2, math.hypot((a - c) / 2, b)
    large, small = middle + spread, max(middle - spread, 0.0)
    eccentricity = math.sqrt(1 - small / large) if large > 0 else 0.0
    orientation = 0.5 * math.atan2(-2 * b, c - a)
    x, y = moments["m10"] / area + mask.x, moments["m01"] / area + mask.y
    return (eccentricity, solidity, orientation, 4 * math.sqrt(large), 4 * math.sqrt(small), x, y)


def _parts(pixels: ByteArray, mask: CroppedMask) -> tuple[int, float, bool]:
    """Number of parts that count, distance of the farthest from the largest, and whether one is at the edge."""
    if cv2.connectedComponents(pixels, connectivity=8)[0] == 2:
        return 1, 0.0, touches_edge(mask.bbox, mask.size)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    largest = int(areas.argmax())
    large = areas >= max(1.0, MIN_PART_SHARE * mask.area)
    large[largest] = True
    boxes = stats[large, : cv2.CC_STAT_AREA] + (mask.x, mask.y, 0, 0)
    at_edge = any(touches_edge(box, mask.size) for box in boxes.tolist())
    others = [label for label in np.flatnonzero(large) if label != largest]
    if not others:
        return 1, 0.0, at_edge
    away = cv2.distanceTransform((labels != largest).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return 1 + len(others), max(float(away[labels == label].min()) for label in others), at_edge


def touches_edge(box: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a box (x, y, width, height) reaches the first or last row or column of a picture of size (H, W)."""
    x, y, width, height = box
    return x == 0 or y == 0 or x + width == size[1] or y + height == size[0]
