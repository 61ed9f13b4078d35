"""What masks look like: colour, edge and mean image embedding. Computed once, while picture and embedding are there."""

from collections.abc import Sequence

import cv2
import numpy as np

from sam_server.arrays import ByteArray, FloatArray, IntArray
from sam_server.masks.record import MaskRecord

# The band along an outline, on each side: a tenth of the diameter, but so many pixels at least and at most.
_BAND_SHARE = 0.1
_BAND_PIXELS = (2, 8)


def mean_colours(pixels: ByteArray, records: Sequence[MaskRecord]) -> FloatArray:
    """Mean colour on each mask.

    Args:
        pixels: (H, W, 3) uint8 RGB picture.
        records: N masks of its size.

    Returns:
        (N, 3) float32 RGB, 0 to 255; NaN for an empty mask.
    """
    colours = np.full((len(records), 3), np.nan, np.float32)
    for colour, record in zip(colours, records, strict=True):
        mask = record.crop()
        if mask.area:
            colour[:] = cv2.mean(pixels[mask.slices], mask.pixels.view(np.uint8))[:3]
    return colours


def edge_contrasts(pixels: ByteArray, records: Sequence[MaskRecord]) -> FloatArray:
    """RMS contrast of the band along each mask's outline: how much there is to see where the mask ends.

    A thing stands out from what surrounds it, or has a rim, and droplets that touch have at least a line between
    them; on bare ground and within a thing there is next to nothing.

    Args:
        pixels: (H, W, 3) uint8 RGB picture.
        records: N masks of its size.

    Returns:
        (N,) float32 standard deviation of brightness (ITU-R BT.601), 0 to 127.5, of the pixels within a tenth of the
        mask's diameter, 2 to 8 pixels, of the outline; NaN for an empty mask.
    """
    contrasts = np.full(len(records), np.nan, np.float32)
    for number, record in enumerate(records):
        mask = record.crop()
        if mask.area == 0:
            continue
        diameter = 2 * np.sqrt(mask.area / np.pi)
        width = int(np.clip(round(_BAND_SHARE * diameter), *_BAND_PIXELS))
        top, left = max(0, mask.y - width), max(0, mask.x - width)
        height, length = mask.pixels.shape
        window = pixels[top : mask.y + height + width, left : mask.x + length + width]
        on = np.zeros(window.shape[:2], np.uint8)
        on[mask.y - top :, mask.x - left :][:height, :length] = mask.pixels
        kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        # The picture's edge is no outline: what lies beyond it is taken to go on as it is.
        band = cv2.dilate(on, kernel) - cv2.erode(on, kernel)
        if not band.any():  # a mask of the whole picture has no outline
            contrasts[number] = 0
            continue
        grey = cv2.cvtColor(np.ascontiguousarray(window), cv2.COLOR_RGB2GRAY)
        _, deviation = cv2.meanStdDev(grey, mask=band)
        contrasts[number] = deviation[0, 0]
    return contrasts


def pooled_embeddings(
    embedding: FloatArray, input_size: tuple[int, int], image_size: int, records: Sequence[MaskRecord]
) -> FloatArray:
    """Mean image embedding on each mask, every cell weighted by the mask's pixels in it.

    Args:
        embedding: (C, E, E) image embedding of the picture.
        input_size: (h, w) that the picture fills of the model input, ImageEmbedding.input_size.
        image_size: side of the model input, ModelSpec.image_size.
        records: N masks of the picture.

    Returns:
        (N, C) float32; 0 for an empty mask.
    """
    cells = embedding.shape[1]
    pooled = np.zeros((len(records), embedding.shape[0]), np.float32)
    for row, record in zip(pooled, records, strict=True):
        mask = record.crop()
        if mask.area == 0:
            continue
        height, width = mask.pixels.shape
        rows, first_y = _cells(mask.y, height, input_size[0] / mask.size[0] * cells / image_size, cells)
        columns, first_x = _cells(mask.x, width, input_size[1] / mask.size[1] * cells / image_size, cells)
        counts = np.add.reduceat(mask.pixels, rows, axis=0, dtype=np.float32)
        counts = np.add.reduceat(counts, columns, axis=1)
        part = embedding[:, first_y : first_y + len(rows), first_x : first_x + len(columns)]
        row[:] = np.einsum("chw,hw->c", part, counts / counts.sum())
    return pooled


def _cells(start: int, length: int, scale: float, cells: int) -> tuple[IntArray, int]:
    """Where each cell begins among `length` pixels from `start` on, and the number of the first cell."""
    cell = np.minimum(((np.arange(start, start + length) + 0.5) * scale).astype(np.int64), cells - 1)
    # Where pixels are larger than cells, a cell without a pixel's centre takes the next pixel.
    begins = np.searchsorted(cell, np.arange(cell[0], cell[-1] + 1))
    return begins, int(cell[0])
