"""A mask set with its measures and overlaps: measured once, grouped often."""

from dataclasses import dataclass

import numpy as np

from sam_server.masks import rle
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measures import NAMES, Column, Measures, measure
from sam_server.masks.rle import Overlaps

# Luma of RGB, ITU-R BT.601, as Pillow and OpenCV turn colour to grey.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class MeasuredSet:
    """Everything that grouping reads.

    Attributes:
        masks: the N masks.
        measures: N rows, in pixels.
        overlaps: pairs of masks that share pixels.
    """

    masks: MaskSet
    measures: Measures
    overlaps: Overlaps

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def nbytes(self) -> int:
        """Memory that the set holds, in bytes, near enough for a budget."""
        columns = len(NAMES) * self.measures.area.nbytes
        return self.masks.nbytes + columns + 3 * self.overlaps.first.nbytes


def measure_set(masks: MaskSet) -> MeasuredSet:
    """Measure every mask of a set and find the overlaps; the heavy part of grouping."""
    crops = (record.crop() for record in masks.records)
    measures = measure(crops, _brightness(masks))
    return MeasuredSet(masks, measures, rle.overlaps([record.segmentation for record in masks.records]))


def _brightness(masks: MaskSet) -> Column | None:
    if masks.colours is None:
        return None
    brightness: Column = masks.colours.astype(np.float64) @ np.array(_LUMA)
    return brightness
