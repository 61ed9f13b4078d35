"""What masks look like: mean colour and mean image embedding. Computed once, while picture and embedding are there."""

from collections.abc import Sequence

import cv2
import numpy as np

from sam_server.arrays import ByteArray, FloatArray, IntArray
from sam_server.masks.record import MaskRecord


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
