"""A mask set with its measures and overlaps: measured once, grouped often."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sam_server.arrays import IntArray
from sam_server.masks import rle
from sam_server.masks.crop import CroppedMask
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measures import NAMES, Column, Measures, hull, measure
from sam_server.masks.overlaps import Overlaps, RunTable, find_overlaps, find_reaches, make_run_table
from sam_server.masks.rle import Rle

# Luma of RGB, ITU-R BT.601, as Pillow and OpenCV turn colour to grey.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class MeasuredSet:
    """Everything that grouping reads.

    Attributes:
        masks: the N masks.
        measures: N rows, in pixels.
        overlaps: pairs of masks that share pixels, each once.
        hull_overlaps: pairs where the second mask reaches into the convex hull of the first: a satellite that was
            cut out of its droplet lies within the droplet's hull all the same.
        runs: the masks' runs, for the area of a union.
        order: (N,) int64 the masks' indices, largest first, in an order that depends on the masks alone.
    """

    masks: MaskSet
    measures: Measures
    overlaps: Overlaps
    hull_overlaps: Overlaps
    runs: RunTable
    order: IntArray

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def nbytes(self) -> int:
        """Memory that the set holds, in bytes, near enough for a budget."""
        columns = (len(NAMES) + 1) * self.measures.area.nbytes
        return self.masks.nbytes + columns + self.overlaps.nbytes + self.hull_overlaps.nbytes + self.runs.nbytes


def measure_set(masks: MaskSet, check: Callable[[], None] = lambda: None) -> MeasuredSet:
    """Measure every mask of a set and find the overlaps; the heavy part of grouping.

    Args:
        masks: N masks.
        check: called before every mask; what it raises ends the work.
    """
    rles = [record.segmentation for record in masks.records]
    hulls = []
    for mask in rles:
        check()
        hulls.append(_hull(mask))
    return MeasuredSet(
        masks=masks,
        measures=measure(_crops(masks, check), _brightness(masks), _edge_contrast(masks)),
        overlaps=find_overlaps(rles),
        hull_overlaps=find_reaches(hulls, rles),
        runs=make_run_table(rles),
        order=_order(masks),
    )


def _crops(masks: MaskSet, check: Callable[[], None]) -> Iterator[CroppedMask]:
    for record in masks.records:
        check()
        yield record.crop()


def _hull(mask: Rle) -> Rle:
    crop = rle.decode_crop(mask)
    return hull(crop) if crop.area else mask


def _order(masks: MaskSet) -> IntArray:
    # Masks that are equal in all of this may stand in any order: nothing tells them apart.
    keys = [
        (-record.area, record.bbox, record.segmentation.counts, -record.predicted_iou, -record.stability_score)
        for record in masks.records
    ]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _brightness(masks: MaskSet) -> Column | None:
    if masks.colours is None:
        return None
    brightness: Column = masks.colours.astype(np.float64) @ np.array(_LUMA)
    return brightness


def _edge_contrast(masks: MaskSet) -> Column | None:
    return None if masks.edge_contrasts is None else masks.edge_contrasts.astype(np.float64)
