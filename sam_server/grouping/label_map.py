"""Label maps: one 16-bit number a pixel."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from sam_server.masks.measured_set import MeasuredSet

Labels = npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A picture of labels, and what it cannot show.

    Attributes:
        labels: (H, W) uint16, 0 where there is no mask.
        overlapping_pixels: pixels on more than one mask; they show the smallest.
        hidden: pixels that each mask lost to smaller ones, for the masks that lost any.
    """

    labels: Labels
    overlapping_pixels: int
    hidden: Mapping[int, int]

    def to_png(self) -> bytes:
        """A 16-bit grey PNG."""
        return cv2.imencode(".png", self.labels)[1].tobytes()

    def to_tiff(self) -> bytes:
        """A 16-bit grey TIFF, compressed by deflate."""
        data = io.BytesIO()
        tifffile.imwrite(data, self.labels, compression="zlib", photometric="minisblack", metadata=None)
        return data.getvalue()


def make_label_map(measured: MeasuredSet, kept: Sequence[int], label_of: Mapping[int, int] | None = None) -> LabelMap:
    """Paint masks into a label map, the largest first, so that a part stays visible on its whole.

    Args:
        measured: the masks.
        kept: indices of the masks to paint.
        label_of: label 1 to 65535 of each mask, such as its group's number + 1; its index + 1 if None.
    """
    labels = np.zeros(measured.masks.size, np.uint16)
    covered = np.zeros(measured.masks.size, np.bool_)
    owner = np.full(measured.masks.size, -1, np.int32)
    overlapping = np.zeros(measured.masks.size, np.bool_)
    wanted = set(kept)
    order = [int(mask) for mask in measured.order if int(mask) in wanted]
    for mask in order:
        crop = measured.masks.records[mask].crop()
        part = crop.slices
        overlapping[part] |= covered[part] & crop.pixels
        covered[part] |= crop.pixels
        owner[part][crop.pixels] = mask
        labels[part][crop.pixels] = mask + 1 if label_of is None else label_of[mask]
    visible = np.bincount(owner[covered], minlength=len(measured))
    hidden = {mask: int(measured.measures.area[mask]) - int(visible[mask]) for mask in sorted(order)}
    lost = {mask: pixels for mask, pixels in hidden.items() if pixels}
    return LabelMap(labels, int(np.count_nonzero(overlapping)), lost)
