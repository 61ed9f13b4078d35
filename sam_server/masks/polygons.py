"""Masks as polygons with holes and several parts, exact to the pixel.

A ring runs along the edges between pixels: pixel (x, y) is the square from (x, y) to (x + 1, y + 1), so the
polygon's area is the mask's area, and filling it gives the mask back. Pixels that meet only at a corner
belong to different parts. Rings follow RFC 7946 (GeoJSON): closed, the exterior first, then its holes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam_server.arrays import BoolArray, ByteArray, IntArray
from sam_server.masks.crop import CroppedMask

Ring = list[list[float]]
MultiPolygon = list[list[Ring]]


# How the four pixels around a vertex lie: foreground on one diagonal only, top left to bottom right or the other way.
_FALLING, _RISING = 1, 2


@dataclass(frozen=True, eq=False)
class _Edges:
    """Straight boundary edges, directed with the foreground on their right hand (y points down).

    Attributes:
        tail: (E,) key of the vertex where the edge starts, see `_key`.
        head: (E,) key of the vertex where it ends.
        label: (E,) number of the part that it bounds, from 1.
    """

    tail: IntArray
    head: IntArray
    label: IntArray


def from_mask(mask: BoolArray) -> MultiPolygon:
    """Trace a mask (H, W) bool; see `from_crop`."""
    return from_crop(CroppedMask.from_mask(mask))


def from_crop(mask: CroppedMask) -> MultiPolygon:
    """Trace the boundary of a mask.

    Returns:
        One polygon per 4-connected part: its exterior ring, clockwise as seen on the screen, then its holes,
        counter-clockwise. Every ring is simple, lists corners only and ends on its first point; coordinates
        are whole numbers of pixels. Empty for an empty mask.
    """
    if mask.area == 0:
        return []
    count, labels = cv2.connectedComponents(mask.pixels.view(np.uint8), connectivity=4)
    padded = np.pad(labels, 1).astype(np.int64)
    diagonal = _diagonals(padded > 0)
    horizontal, vertical = _horizontal_edges(padded, diagonal), _vertical_edges(padded, diagonal)
    # A corner joins one horizontal and one vertical edge, so each kind finds its successor among the other.
    successor = _find(vertical.head, horizontal.tail)[_find(horizontal.head, vertical.tail)]
    polygons: MultiPolygon = [[] for _ in range(count - 1)]  # without the background
    for members in _cycles(successor):
        rings = polygons[int(horizontal.label[members[0]]) - 1]
        corners = np.stack([horizontal.tail[members], horizontal.head[members]], axis=1).reshape(-1) // 2
        for keys in _simple_rings(corners):
            y, x = np.divmod(keys, diagonal.shape[1])
            points = np.stack([x + mask.x, y + mask.y], axis=1)
            place = 0 if _signed_area(points) > 0 else len(rings)
            rings.insert(place, np.concatenate([points, points[:1]]).tolist())
    return polygons


def to_mask(polygons: Sequence[Sequence[Sequence[Sequence[float]]]], size: tuple[int, int]) -> BoolArray:
    """Fill polygons by the even-odd rule, sampled at pixel centres.

    Args:
        polygons: rings of x, y as from `from_crop`, or any others; a ring need not be closed.
        size: (H, W) of the mask.

    Returns:
        (H, W) bool.
    """
    height, width = size
    toggles = np.zeros((height, width + 1), np.bool_)
    for ring in (ring for polygon in polygons for ring in polygon):
        ends = np.asarray(ring, np.float64)
        starts = np.roll(ends, 1, axis=0)
        # Rows whose centre the edge crosses, half open so that a shared corner counts once.
        low, high = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
        first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
        last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
        crossed = last - first
        edge = np.repeat(np.arange(len(ends)), crossed)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
        along = (row + 0.5 - starts[edge, 1]) / (ends[edge, 1] - starts[edge, 1])
        x = starts[edge, 0] + along * (ends[edge, 0] - starts[edge, 0])
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        np.logical_xor.at(toggles, (row, column), True)
    return np.logical_xor.accumulate(toggles, axis=1)[:, :width]


def to_geojson(polygons: MultiPolygon) -> dict[str, Any]:
    """A GeoJSON geometry in pixels of the picture."""
    return {"type": "MultiPolygon", "coordinates": polygons}


def _diagonals(filled: BoolArray) -> ByteArray:
    """(h + 1, w + 1) kind of each vertex between the (h + 2, w + 2) pixels: 0, _FALLING or _RISING."""
    top_left, top_right = filled[:-1, :-1], filled[:-1, 1:]
    bottom_left, bottom_right = filled[1:, :-1], filled[1:, 1:]
    falling = top_left & bottom_right & ~top_right & ~bottom_left
    rising = top_right & bottom_left & ~top_left & ~bottom_right
    return falling * np.uint8(_FALLING) + rising * np.uint8(_RISING)


def _horizontal_edges(labels: IntArray, diagonal: ByteArray) -> _Edges:
    above, below = labels[:-1, 1:-1], labels[1:, 1:-1]
    y, left, right, sign = _straight_runs((below > 0).view(np.int8) - (above > 0).view(np.int8))
    # At its left end the edge is the one to the right of the vertex. On a falling diagonal the edge to the right
    # bounds the lower pixel, on a rising one the edge to the left does.
    left_key = _key(diagonal, y, left, diagonal[y, left] == _FALLING)
    right_key = _key(diagonal, y, right, diagonal[y, right] == _RISING)
    rightward = sign > 0
    label = np.where(rightward, below[y, left], above[y, left])
    return _Edges(np.where(rightward, left_key, right_key), np.where(rightward, right_key, left_key), label)


def _vertical_edges(labels: IntArray, diagonal: ByteArray) -> _Edges:
    before, after = labels[1:-1, :-1], labels[1:-1, 1:]
    x, top, bottom, sign = _straight_runs(((after > 0).view(np.int8) - (before > 0).view(np.int8)).T)
    # At its top end the edge is the one below the vertex, which bounds the lower pixel of either diagonal.
    top_key = _key(diagonal, top, x, diagonal[top, x] > 0)
    bottom_key = _key(diagonal, bottom, x, np.zeros(len(x), np.bool_))
    upward = sign > 0
    label = np.where(upward, after[top, x], before[top, x])
    return _Edges(np.where(upward, bottom_key, top_key), np.where(upward, top_key, bottom_key), label)


def _straight_runs(side: npt.NDArray[np.int8]) -> tuple[IntArray, IntArray, IntArray, npt.NDArray[np.int8]]:
    """Line, start, stop and sign of the runs of equal nonzero values along the rows of `side`."""
    padded = np.pad(side, ((0, 0), (1, 1)))
    change = padded[:, 1:] != padded[:, :-1]
    line, start = np.nonzero(change & (padded[:, 1:] != 0))
    stop = np.nonzero(change & (padded[:, :-1] != 0))[1]
    return line, start, stop, side[line, start]


def _key(diagonal: ByteArray, y: IntArray, x: IntArray, lower: BoolArray) -> IntArray:
    """Number of a vertex; where two foreground pixels meet in it, the last bit says which of them is bounded."""
    keys: IntArray = (y * diagonal.shape[1] + x) * 2 + lower
    return keys


def _find(keys: IntArray, among: IntArray) -> IntArray:
    """Position in `among` of each key; both hold the same keys, each once."""
    order = np.argsort(among)
    return order[np.searchsorted(among, keys, sorter=order)]


def _cycles(successor: IntArray) -> Iterator[list[int]]:
    """The cycles of a permutation."""
    following = successor.tolist()
    seen = bytearray(len(following))
    for first in range(len(following)):
        members = []
        here = first
        while not seen[here]:
            seen[here] = 1
            members.append(here)
            here = following[here]
        if members:
            yield members


def _simple_rings(corners: IntArray) -> Iterator[IntArray]:
    """Cut a ring where it meets itself, so that no point occurs twice in one ring."""
    if len(np.unique(corners)) == len(corners):
        yield corners
        return
    path: list[int] = []
    position: dict[int, int] = {}
    for corner in corners.tolist():
        if corner in position:
            loop = path[position[corner] :]
            yield np.array(loop)
            del path[position[corner] :]
            for key in loop:
                del position[key]
        position[corner] = len(path)
        path.append(corner)
    yield np.array(path)


def _signed_area(points: IntArray) -> int:
    """Twice the area of a ring, positive if it runs clockwise on the screen."""
    x, y = points[:, 0], points[:, 1]
    return int(x @ np.roll(y, -1) - y @ np.roll(x, -1))
