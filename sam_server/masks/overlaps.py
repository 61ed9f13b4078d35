"""Which masks of a picture share pixels, and how many; without decoding any."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from sam_server.arrays import IntArray
from sam_server.masks import rle
from sam_server.masks.rle import Rle

# Regions that are compared with all masks in one call: its table has _BLOCK * MAX_MASKS doubles, 20 MB at most.
_BLOCK = 256

Positions = npt.NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of masks that share pixels.

    Attributes:
        first: (P,) int64 index of one mask.
        second: (P,) int64 index of the other.
        shared: (P,) int64 pixels on both.
    """

    first: IntArray
    second: IntArray
    shared: IntArray

    @property
    def nbytes(self) -> int:
        """Memory of the pairs in bytes."""
        return self.first.nbytes + self.second.nbytes + self.shared.nbytes


def find_overlaps(rles: Sequence[Rle]) -> Overlaps:
    """Find every pair of masks that share pixels.

    Args:
        rles: N masks of one picture.

    Returns:
        Each pair once, first < second.
    """
    return _overlaps(rles, rles, mutual=True)


def find_reaches(regions: Sequence[Rle], rles: Sequence[Rle]) -> Overlaps:
    """Find the masks that reach into the region of another one, such as its convex hull.

    Args:
        regions: N regions, one of each mask.
        rles: N masks of the same picture.

    Returns:
        Pairs of a region (first) and another mask (second) that share pixels.
    """
    return _overlaps(regions, rles, mutual=False)


def _overlaps(regions: Sequence[Rle], rles: Sequence[Rle], mutual: bool) -> Overlaps:
    packed, packed_regions = [mask.to_coco() for mask in rles], [region.to_coco() for region in regions]
    # One by one: for more than 255 masks pycocotools 2.0.11 overflows a uint8 under NumPy 2.
    areas = np.array([coco.area(mask) for mask in packed], np.float64)
    found: list[IntArray] = [np.zeros((3, 0), np.int64)]
    for start in range(0, len(packed), _BLOCK):
        block = packed_regions[start : start + _BLOCK]
        # Each pair is looked at once where it is mutual. pycocotools compares boxes before runs.
        behind = start if mutual else 0
        # With iscrowd the union is the area of the first mask, so share * area is the intersection.
        shares = coco.iou(packed[behind:], block, [1] * len(block))
        second, first = np.nonzero(shares)
        shared = np.rint(shares[second, first] * areas[second + behind]).astype(np.int64)
        first, second = first + start, second + behind
        wanted = first < second if mutual else first != second
        pairs = np.stack([first, second, shared])[:, wanted]
        found.append(pairs[:, np.lexsort((pairs[1], pairs[0]))])
    return Overlaps(*np.concatenate(found, axis=1))


@dataclass(frozen=True, eq=False)
class RunTable:
    """The foreground runs of all masks of a set, sorted by where they start.

    Attributes:
        start: (R,) uint32 first position of each run, column * H + row.
        end: (R,) uint32 position behind its last.
        mask: (R,) int32 index of its mask.
    """

    start: Positions
    end: Positions
    mask: npt.NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Memory of the table in bytes."""
        return self.start.nbytes + self.end.nbytes + self.mask.nbytes

    def union_areas(self, groups_of: IntArray, groups: int, pixels: int) -> IntArray:
        """Pixels on at least one mask of each group.

        Args:
            groups_of: (N,) group of each mask, -1 for none.
            groups: number of groups.
            pixels: H * W.

        Returns:
            (groups,) int64.
        """
        group = groups_of[self.mask]
        order = np.argsort(group, kind="stable")
        order = order[np.searchsorted(group[order], 0) :]
        group = group[order]
        # Each group gets a range of positions of its own, so that one pass over all runs serves every group.
        start = self.start[order] + group * pixels
        end = self.end[order] + group * pixels
        # A run adds what lies behind everything that started before it.
        covered = np.concatenate([[0], np.maximum.accumulate(end)[:-1]]) if len(end) else end
        added = np.maximum(end - np.maximum(start, covered), 0)
        return np.bincount(group, added, groups).astype(np.int64)


def make_run_table(rles: Iterable[Rle]) -> RunTable:
    """Collect the runs of N masks of one picture."""
    runs = [rle.runs(mask) for mask in rles]
    if not runs:
        return RunTable(np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.int32))
    start = np.concatenate([starts for starts, _ in runs]).astype(np.uint32)
    end = np.concatenate([ends for _, ends in runs]).astype(np.uint32)
    mask = np.repeat(np.arange(len(runs), dtype=np.int32), [len(starts) for starts, _ in runs])
    order = np.argsort(start, kind="stable")
    return RunTable(start[order], end[order], mask[order])
