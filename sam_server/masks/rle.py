"""COCO run-length encoding, read and written without ever building the whole mask where a crop will do.

Runs go down the columns, left to right, background first. The compressed string is that of
pycocotools (common/maskApi.c, rleToString and rleFrString).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco

from sam_server.arrays import BoolArray, IntArray
from sam_server.masks.crop import CroppedMask

# maskApi.c packs a count into characters of 5 bits from ASCII 48 on; bit 32 says that more follow, bit 16 of
# the last one is the sign.
_CHAR_BASE, _CHAR_BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10
# Seven characters hold 35 bits: more than any uint32 count of pycocotools needs.
_MAX_CHARS = 7


class RleError(ValueError):
    """An RLE that describes no mask; the message says what is wrong with it."""


@dataclass(frozen=True)
class Rle:
    """A mask as COCO RLE.

    Attributes:
        size: (H, W) of the mask in pixels.
        counts: the compressed string of pycocotools.
    """

    size: tuple[int, int]
    counts: bytes

    @property
    def area(self) -> int:
        """Number of pixels on the mask."""
        return int(coco.area(self.to_coco()))

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """x, y, width, height of the smallest box around the mask in pixels; zeros if it is empty."""
        x, y, width, height = (int(value) for value in coco.toBbox(self.to_coco()))
        return (x, y, width, height) if width and height else (0, 0, 0, 0)

    def to_coco(self) -> dict[str, Any]:
        """The dictionary that the functions of pycocotools.mask take."""
        return {"size": list(self.size), "counts": self.counts}

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of SA-1B: `{"size": [H, W], "counts": "..."}`."""
        return {"size": list(self.size), "counts": self.counts.decode("ascii")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Rle":
        """Read the JSON form, with a compressed string or a list of counts, and check that it fills its size.

        Raises:
            RleError: size is not two positive numbers, or the counts do not add up to H * W.
        """
        size, counts = data.get("size"), data.get("counts")
        if not isinstance(size, Sequence) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
            raise RleError("size must be [height, width] with two positive whole numbers")
        height, width = size
        if isinstance(counts, str | bytes):
            packed = counts if isinstance(counts, bytes) else counts.encode("ascii", "replace")
            _check_counts(_unpack(packed), height * width)
            return cls((height, width), packed)
        if not isinstance(counts, Sequence) or not all(type(n) is int for n in counts):
            raise RleError("counts must be a string or a list of whole numbers")
        numbers = np.array(counts, np.float64)
        _check_counts(numbers, height * width)
        return _from_counts((height, width), numbers.astype(np.int64))


def encode(mask: BoolArray) -> Rle:
    """Encode one mask, (H, W) bool."""
    return encode_batch(mask[None])[0]


def encode_batch(masks: BoolArray) -> list[Rle]:
    """Encode N masks, (N, H, W) bool, one by one so that memory stays that of the input."""
    size = (int(masks.shape[1]), int(masks.shape[2]))
    # A Fortran view of the transposed mask needs the copy that pycocotools asks for, once per mask.
    return [Rle(size, coco.encode(np.asfortranarray(mask.view(np.uint8)))["counts"]) for mask in masks]


def encode_crop(mask: CroppedMask) -> Rle:
    """Encode a cropped mask; the work is that of the crop, whatever the size of the picture."""
    if mask.pixels.size == 0:
        return from_runs(mask.size, np.zeros(0, np.int64), np.zeros(0, np.int64))
    height, width = mask.pixels.shape
    # A background pixel before the first column and behind each: no run goes on from one column to the next.
    columns = np.zeros(width * (height + 1) + 1, np.bool_)
    columns[1:].reshape(width, height + 1)[:, :-1] = mask.pixels.T
    edges = np.flatnonzero(columns[1:] != columns[:-1])
    column, row = np.divmod(edges, height + 1)
    places = (column + mask.x) * mask.size[0] + row + mask.y
    return from_runs(mask.size, places[0::2], places[1::2])


def from_runs(size: tuple[int, int], starts: IntArray, ends: IntArray) -> Rle:
    """Pack foreground runs; those that touch, such as one that goes on in the next column, are joined.

    Args:
        size: (H, W) of the mask.
        starts: (R,) first position of each run, column * H + row, ascending.
        ends: (R,) position behind its last.
    """
    gaps = starts[1:] != ends[:-1]
    keep_start = np.concatenate([np.ones(min(len(starts), 1), np.bool_), gaps])
    keep_end = np.concatenate([gaps, np.ones(min(len(starts), 1), np.bool_)])
    edges = np.stack([starts[keep_start], ends[keep_end]], axis=1).reshape(-1)
    edges = np.concatenate([[0], edges, [size[0] * size[1]]])
    counts = np.diff(edges)
    return _from_counts(size, counts[:-1] if counts[-1] == 0 else counts)


def decode(rle: Rle) -> BoolArray:
    """The whole mask, (H, W) bool in row order."""
    return decode_crop(rle).to_mask()


def decode_crop(rle: Rle) -> CroppedMask:
    """The mask in its smallest rectangle, without building the whole of it."""
    x, y, width, height = rle.bbox
    if width == 0:
        return CroppedMask(rle.size, 0, 0, np.zeros((0, 0), np.bool_))
    starts, ends = _split_at_columns(*runs(rle), rle.size[0])
    # +1 where a run starts and -1 behind its end; one spare row takes the ends that fall below the crop.
    marks = np.zeros((width, height + 1), np.int8)
    column = starts // rle.size[0]
    marks[column - x, starts - column * rle.size[0] - y] = 1
    marks[column - x, ends - column * rle.size[0] - y] = -1
    pixels = np.cumsum(marks[:, :-1], axis=1, dtype=np.int8).view(np.bool_)
    return CroppedMask(rle.size, x, y, np.ascontiguousarray(pixels.T))


def runs(rle: Rle) -> tuple[IntArray, IntArray]:
    """Starts and ends (exclusive) of the foreground runs, as positions column * H + row, ascending."""
    edges = np.cumsum(_unpack(rle.counts))
    ends = edges[1::2]
    starts = edges[0::2][: len(ends)]
    filled = starts < ends
    return starts[filled], ends[filled]


def _from_counts(size: tuple[int, int], counts: IntArray) -> Rle:
    packed = coco.frPyObjects({"size": list(size), "counts": counts.tolist()}, *size)
    return Rle(size, packed["counts"])


def _split_at_columns(starts: IntArray, ends: IntArray, height: int) -> tuple[IntArray, IntArray]:
    """Cut runs where a column ends, so that each stays within one column."""
    first, last = starts // height, (ends - 1) // height
    pieces = last - first + 1
    if len(pieces) == 0 or pieces.max() == 1:
        return starts, ends
    run = np.repeat(np.arange(len(starts)), pieces)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    column = first[run] + nth
    return np.maximum(starts[run], column * height), np.minimum(ends[run], (column + 1) * height)


def _unpack(counts: bytes) -> IntArray:
    """Counts of a compressed string, all characters at once."""
    chars = np.frombuffer(counts, np.uint8).astype(np.int64) - _CHAR_BASE
    if len(chars) == 0 or chars.min() < 0 or chars.max() >= 2 * _MORE or chars[-1] & _MORE:
        raise RleError("counts is not a compressed COCO RLE string")
    last = np.flatnonzero((chars & _MORE) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > _MAX_CHARS:
        raise RleError("counts holds a number that is too large")
    nth = np.arange(len(chars)) - np.repeat(first, length)
    values = np.add.reduceat((chars & (_MORE - 1)) << (_CHAR_BITS * nth), first)
    values -= np.where(chars[last] & _SIGN, 1 << (_CHAR_BITS * length), 0)
    # From the fourth count on the string holds the difference to the count two before it.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _check_counts(counts: np.ndarray[Any, Any], pixels: int) -> None:
    if len(counts) == 0 or counts.min() < 0 or counts.sum() != pixels:
        raise RleError(f"counts must be zero or more and add up to height * width = {pixels}")
