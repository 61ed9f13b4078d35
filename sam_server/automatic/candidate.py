"""A mask that may be kept: its low-res logits, and only as much of its pixels as the next decision needs.

Upscaling is a convex combination of neighbours, so a pixel lies above a level only if a low-res logit that it reads
does. The rectangle of low-res logits above the level, and the neighbours that its pixels read, are all that is kept
of a mask: outside of it every pixel lies below.
"""

from dataclasses import dataclass, replace

import numpy as np

from sam_server.arrays import FloatArray, IntArray
from sam_server.backend import ModelSpec
from sam_server.masks.crop import CroppedMask
from sam_server.masks.stability import score_from_counts, stability_counts
from sam_server.upscale import Axis, axis

# Rows that are upscaled at a time: those of a wide picture (32 x 1920 float32, 240 KB) stay in cache.
STRIP = 32

# Weights add up to 1 within some 1e-7, so a pixel may lie above its inputs by that share of them.
ROUNDING = 1e-5

NO_BOX = np.zeros(4, np.int64)


@dataclass(frozen=True)
class Levels:
    """Logits at which masks are cut.

    Attributes:
        threshold: above it a pixel is foreground.
        offset: how far it is moved both ways for the stability score.
    """

    threshold: float
    offset: float

    @property
    def low(self) -> float:
        """The lowered threshold."""
        return self.threshold - self.offset


@dataclass(frozen=True, eq=False)
class Frame:
    """How low-res logits lie on one picture or crop.

    Attributes:
        size: (H, W) in pixels.
        rows: from low-res rows to rows of pixels.
        columns: from low-res columns to columns of pixels.
        levels: where masks are cut.
    """

    size: tuple[int, int]
    rows: Axis
    columns: Axis
    levels: Levels

    @classmethod
    def of(cls, spec: ModelSpec, input_size: tuple[int, int], size: tuple[int, int], offset: float) -> "Frame":
        """The frame of an encoded picture.

        Args:
            spec: of the model.
            input_size: (h, w) that the picture fills of the model input.
            size: (H, W) of the picture.
            offset: for the stability score, in logits.
        """
        axes = [
            axis(spec.low_res_size, spec.image_size, filled, out) for filled, out in zip(input_size, size, strict=True)
        ]
        return cls(size, axes[0], axes[1], Levels(spec.mask_threshold, offset))


@dataclass(frozen=True)
class Window:
    """Pixels top..bottom, left..right of a frame, ends exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def empty(self) -> bool:
        """Whether it has no pixels."""
        return self.top >= self.bottom or self.left >= self.right


@dataclass(frozen=True, eq=False)
class Candidate:
    """One mask of one prompt, before stability and duplicates are known.

    Attributes:
        frame: of the crop it was found in.
        window: outside of it every pixel lies below the lowered threshold.
        logits: (h, w) float32, the low-res logits that the window's pixels read.
        row: low-res row of the first of them.
        column: low-res column of the first of them.
    """

    frame: Frame
    window: Window
    logits: FloatArray
    row: int
    column: int

    @classmethod
    def cut(cls, logits: FloatArray, frame: Frame) -> "Candidate":
        """Keep what matters of the (L, L) float32 low-res logits of one mask; the kept part is copied."""
        window = _window(logits, 0, 0, frame, frame.levels.low)
        if window.empty:
            return cls(frame, window, np.zeros((0, 0), np.float32), 0, 0)
        top, bottom = frame.rows.read(window.top, window.bottom)
        left, right = frame.columns.read(window.left, window.right)
        return cls(frame, window, logits[top:bottom, left:right].copy(), top, left)

    @property
    def nbytes(self) -> int:
        """Memory that its logits hold, in bytes."""
        return self.logits.nbytes

    def pixels(self, window: Window) -> FloatArray:
        """Full-size logits of a part of the window, (bottom - top, right - left) float32."""
        rows, columns = self.frame.rows, self.frame.columns
        low, high = rows.read(window.top, window.bottom)
        wide = columns.columns(self.logits[low - self.row : high - self.row], self.column, window.left, window.right)
        return rows.rows(wide, low, window.top, window.bottom)

    def box(self) -> IntArray:
        """First column, first row, last column, last row of the mask's pixels; zeros for an empty mask.

        Strips are upscaled from each side inwards until one of them meets the mask.
        """
        window = _window(self.logits, self.row, self.column, self.frame, self.frame.levels.threshold)
        found = self._first_hit(window, 0, _strips(window.top, window.bottom))
        if found is None:
            return NO_BOX
        top, bottom = found
        found = self._first_hit(window, 0, _strips(bottom, window.bottom)[::-1])
        bottom = bottom if found is None else found[1]
        window = replace(window, top=top, bottom=bottom + 1)
        left, right = self._first_hit(window, 1, _strips(window.left, window.right)) or (0, 0)
        found = self._first_hit(window, 1, _strips(right, window.right)[::-1])
        right = right if found is None else found[1]
        return np.array([left, top, right, bottom])

    def _first_hit(self, window: Window, axis: int, strips: list[tuple[int, int]]) -> tuple[int, int] | None:
        """First and last row (axis 0) or column (axis 1) on the mask, in the first strip that meets it."""
        for start, stop in strips:
            part = replace(window, top=start, bottom=stop) if axis == 0 else replace(window, left=start, right=stop)
            on_mask = self.pixels(part) > self.frame.levels.threshold
            hits = np.flatnonzero(on_mask.any(axis=1 - axis))
            if len(hits):
                return start + int(hits[0]), start + int(hits[-1])
        return None

    def finish(self) -> tuple[CroppedMask, float]:
        """The mask in its crop, and its stability score, in one pass over its pixels.

        Source: `masks.stability`, whose counts are summed over strips.
        """
        window, levels = self.window, self.frame.levels
        if window.empty:
            return CroppedMask(self.frame.size, 0, 0, np.zeros((0, 0), np.bool_)), 0.0
        wide = self.frame.columns.columns(self.logits, self.column, window.left, window.right)
        mask = np.empty((window.bottom - window.top, window.right - window.left), np.bool_)
        inner = outer = np.zeros(1, np.int64)
        for start, stop in _strips(window.top, window.bottom):
            pixels = self.frame.rows.rows(wide, self.row, start, stop)
            counts = stability_counts(pixels[None], levels.threshold, levels.offset)
            inner, outer = inner + counts[0], outer + counts[1]
            np.greater(pixels, levels.threshold, out=mask[start - window.top : stop - window.top])
        score = float(score_from_counts(inner, outer)[0])
        return CroppedMask(self.frame.size, window.left, window.top, mask), score


def _strips(start: int, stop: int) -> list[tuple[int, int]]:
    """start..stop in pieces of STRIP."""
    return [(first, min(first + STRIP, stop)) for first in range(start, stop, STRIP)]


def _window(logits: FloatArray, row: int, column: int, frame: Frame, level: float) -> Window:
    """Pixels that may lie above `level`, for low-res logits whose first one is at row, column."""
    above = logits > level - ROUNDING * max(1.0, abs(level))
    top, bottom = frame.rows.reached(row + np.flatnonzero(above.any(axis=1)))
    left, right = frame.columns.reached(column + np.flatnonzero(above.any(axis=0)))
    return Window(top, bottom, left, right)
