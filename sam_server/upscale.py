"""Low-res logits to the picture's own pixels, as two bilinear resizes in one banded matrix product.

The reference resizes low-res logits to the square model input, cuts off the padding and resizes the rest to the
picture. Both steps are linear and separable, so with the weights W of each step

    full = (W2 W1)_rows  low  (W2 W1)_columns^T

and no array of the model input's size is made. An output pixel depends on a few neighbouring inputs only: a band of
outputs reads a short span of inputs, and rows and columns that nobody asked for are not computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sam_server.arrays import BoolArray, FloatArray, IntArray

# Output rows or columns of one matrix product: small enough that its span of inputs stays in cache.
BAND = 128

# Operators that are kept; one is needed per side of a picture and takes at most a few hundred kilobytes.
KEPT_OPERATORS = 64


@dataclass(frozen=True)
class Band:
    """Outputs start..stop as weights (stop - start, high - low) over inputs low..high."""

    start: int
    stop: int
    low: int
    high: int
    weights: FloatArray


@lru_cache(maxsize=KEPT_OPERATORS)
def operator(low_res: int, square: int, filled: int, out: int) -> tuple[Band, ...]:
    """Bands of the operator along one axis.

    Args:
        low_res: length of the low-res logits, L.
        square: length of the model input, S.
        filled: how much of it the picture fills.
        out: length of the picture.
    """
    weights = bilinear(filled, out) @ bilinear(low_res, square)[:filled]
    bands = []
    for start in range(0, out, BAND):
        rows = weights[start : start + BAND]
        used = np.flatnonzero(rows.any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        bands.append(Band(start, start + len(rows), low, high, np.ascontiguousarray(rows[:, low:high])))
    return tuple(bands)


@dataclass(frozen=True, eq=False)
class Axis:
    """The operator along one axis, for callers that want only some of its outputs.

    Attributes:
        bands: its weights.
        first: (out,) int64 first input that an output reads, ascending.
        last: (out,) int64 last input that an output reads, ascending.
    """

    bands: tuple[Band, ...]
    first: IntArray
    last: IntArray

    def reached(self, inputs: IntArray) -> tuple[int, int]:
        """Outputs start..stop that read any input between the first and the last of (n,) ascending `inputs`.

        Start = stop where none does, or where there are no inputs.
        """
        if len(inputs) == 0:
            return 0, 0
        start = int(np.searchsorted(self.last, inputs[0], side="left"))
        return start, max(start, int(np.searchsorted(self.first, inputs[-1], side="right")))

    def read(self, start: int, stop: int) -> tuple[int, int]:
        """Inputs low..high that the outputs start..stop read; start < stop."""
        return int(self.first[start]), int(self.last[stop - 1]) + 1

    def rows(self, inputs: FloatArray, origin: int, start: int, stop: int) -> FloatArray:
        """Apply the operator to the rows of an array.

        Args:
            inputs: (n, m) float32, inputs origin..origin + n; they hold all that the outputs read.
            origin: number of the first one.
            start: first output.
            stop: one past the last output.

        Returns:
            (stop - start, m) float32.
        """
        out = np.empty((stop - start, inputs.shape[1]), np.float32)
        for first, last, low, high, weights in self._parts(start, stop):
            np.matmul(weights, inputs[low - origin : high - origin], out=out[first - start : last - start])
        return out

    def columns(self, inputs: FloatArray, origin: int, start: int, stop: int) -> FloatArray:
        """Apply the operator to the columns of an array (m, n), as `rows` does to rows: (m, stop - start)."""
        out = np.empty((inputs.shape[0], stop - start), np.float32)
        for first, last, low, high, weights in self._parts(start, stop):
            np.matmul(inputs[:, low - origin : high - origin], weights.T, out=out[:, first - start : last - start])
        return out

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int, FloatArray]]:
        """Outputs first..last of one band, the inputs low..high they read, and the weights between them."""
        for band in self.bands[start // BAND : (stop - 1) // BAND + 1]:
            first, last = max(start, band.start), min(stop, band.stop)
            low, high = self.read(first, last)
            weights = band.weights[first - band.start : last - band.start, low - band.low : high - band.low]
            yield first, last, low, high, weights


@lru_cache(maxsize=KEPT_OPERATORS)
def axis(low_res: int, square: int, filled: int, out: int) -> Axis:
    """The operator of `operator` with what each output reads."""
    bands = operator(low_res, square, filled, out)
    used = [band.weights != 0 for band in bands]
    first = [band.low + part.argmax(axis=1) for band, part in zip(bands, used, strict=True)]
    last = [band.high - 1 - part[:, ::-1].argmax(axis=1) for band, part in zip(bands, used, strict=True)]
    return Axis(bands, np.concatenate(first), np.concatenate(last))


def bilinear(length: int, out: int) -> FloatArray:
    """Weights (out, length) of a bilinear resize along one axis, with half-pixel centres and no antialiasing.

    Positions are rounded to float32 as `torch.nn.functional.interpolate` rounds them (one fused multiply-add), so that
    masks equal the reference's in every pixel.
    """
    scale = np.float64(np.float32(length) / np.float32(out))
    source = ((np.arange(out) + 0.5) * scale - 0.5).astype(np.float32)
    source = np.clip(source, 0, length - 1)
    first = source.astype(np.int64)
    second = np.minimum(first + 1, length - 1)
    fraction = source - first.astype(np.float32)
    weights = np.zeros((out, length), np.float32)
    rows = np.arange(out)
    weights[rows, first] = 1 - fraction
    weights[rows, second] += fraction
    return weights


def upscale(logits: FloatArray, square: int, filled: tuple[int, int], out: tuple[int, int]) -> FloatArray:
    """Full-size logits of one mask.

    Args:
        logits: (L, L) float32 low-res logits.
        square: side S of the model input.
        filled: (h, w) of the model input that the picture fills.
        out: (H, W) of the picture.

    Returns:
        (H, W) float32 logits.

    Source: Sam.postprocess_masks in segment_anything/modeling/sam.py.
    """
    length = logits.shape[0]
    tall = np.empty((out[0], length), np.float32)
    for band in operator(length, square, filled[0], out[0]):
        np.matmul(band.weights, logits[band.low : band.high], out=tall[band.start : band.stop])
    full = np.empty(out, np.float32)
    for band in operator(length, square, filled[1], out[1]):
        full[:, band.start : band.stop] = tall[:, band.low : band.high] @ band.weights.T
    return full


def above(logits: FloatArray, threshold: float, square: int, filled: tuple[int, int], mask: BoolArray) -> None:
    """Threshold the full-size logits of one mask, without ever holding them all.

    An output is a weighted mean of inputs, so what reads no input above the threshold is off the mask: of every few
    rows only the columns between are computed, and so few rows that they stay in cache.

    Args:
        logits: (L, L) float32 low-res logits.
        threshold: logit above which a pixel is on the mask.
        square: side S of the model input.
        filled: (h, w) of the model input that the picture fills.
        mask: (H, W) bool of the picture's size, all of which is written.
    """
    length, (height, width) = logits.shape[0], mask.shape
    rows, columns = axis(length, square, filled[0], height), axis(length, square, filled[1], width)
    on = logits > threshold
    mask.fill(False)
    top, bottom = rows.reached(np.flatnonzero(on.any(axis=1)))
    for start in range(top, bottom, BAND):
        stop = min(start + BAND, bottom)
        low, high = rows.read(start, stop)
        left, right = columns.reached(np.flatnonzero(on[low:high].any(axis=0)))
        if left == right:
            continue
        first, last = columns.read(left, right)
        tall = rows.rows(logits[low:high, first:last], low, start, stop)
        np.greater(columns.columns(tall, first, left, right), threshold, out=mask[start:stop, left:right])
