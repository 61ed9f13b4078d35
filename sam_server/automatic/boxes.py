"""Boxes of masks, x1, y1, x2, y2 with x2 and y2 the last column and row: duplicates, and masks that a crop cuts."""

from collections.abc import Callable, Sequence

import numpy as np

from sam_server.arrays import FloatArray, IntArray
from sam_server.automatic.layout import Crop
from sam_server.masks.record import MaskRecord

# Pixels within which a box counts as touching an edge (is_box_near_crop_edge in segment_anything/utils/amg.py).
EDGE_TOLERANCE = 20


def non_maximum_suppression(
    boxes: IntArray, scores: FloatArray, threshold: float, accept: Callable[[int], bool] | None = None
) -> list[int]:
    """Keep the best of boxes that overlap.

    Args:
        boxes: (N, 4) int64.
        scores: (N,) float32; of equal scores the first one comes first.
        threshold: IoU above which the box of lower score goes.
        accept: asked about a box just before it would be kept, best first; one that is refused goes and suppresses
            nothing. What is already suppressed is never asked about.

    Returns:
        Indices of the boxes that stay, best first.

    Source: torchvision.ops.nms, which computes in float32 too.
    """
    corners = boxes.astype(np.float32)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    limit = np.float64(threshold)  # torchvision compares in double precision
    kept_corners, kept_areas = np.empty_like(corners), np.empty_like(areas)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        count = len(kept)
        inner = np.minimum(kept_corners[:count, 2:], corners[index, 2:])
        inner -= np.maximum(kept_corners[:count, :2], corners[index, :2])
        shared = inner.clip(min=0).prod(axis=1)
        union = kept_areas[:count] + areas[index] - shared
        # 0 / 0, two empty boxes, is no overlap.
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        if (iou > limit).any() or (accept is not None and not accept(index)):
            continue
        kept_corners[count], kept_areas[count] = corners[index], areas[index]
        kept.append(index)
    return kept


def touches_crop_edge(box: IntArray, crop: Crop, bounds: Crop) -> bool:
    """Whether a box (4,) ends at an edge of the crop that is no edge of `bounds`, the picture or tile around it."""
    near_crop = np.abs(box - (crop.x1, crop.y1, crop.x2, crop.y2)) <= EDGE_TOLERANCE
    near_bounds = np.abs(box - (bounds.x1, bounds.y1, bounds.x2, bounds.y2)) <= EDGE_TOLERANCE
    return bool((near_crop & ~near_bounds).any())


def box_of(record: MaskRecord) -> tuple[int, int, int, int]:
    """The box of a record; zeros for an empty mask."""
    x, y, width, height = (int(value) for value in record.bbox)
    return (x, y, x + max(width - 1, 0), y + max(height - 1, 0))


def drop_duplicates(records: Sequence[MaskRecord], scores: FloatArray, threshold: float) -> list[int]:
    """`non_maximum_suppression` of the boxes of N records with (N,) float32 scores."""
    boxes = np.array([box_of(record) for record in records], np.int64).reshape(-1, 4)
    return non_maximum_suppression(boxes, scores, threshold)
