"""The measuring protocol of automatic masks: which of a picture's objects were found, and which masks show none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco

from sam_server.arrays import BoolArray, FloatArray, IntArray
from sam_server.automatic.generate import generate
from sam_server.automatic.parameters import AutomaticParameters
from sam_server.backend import SamBackend
from sam_server.grouping.group import group_masks
from sam_server.grouping.presets import Preset
from sam_server.masks.crop import CroppedMask
from sam_server.masks.features import edge_contrasts
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set
from sam_server.masks.record import make_record
from sam_server.masks.rle import Rle
from training.protocol import LabelledPicture

# A mask shows an object from this IoU on.
AUTOMATIC_IOU = 0.75


@dataclass(frozen=True)
class Matching:
    """The objects of one picture beside the masks found.

    Attributes:
        object_areas: (N,) int64 pixels of each object.
        wanted: (N,) bool, which objects the search is there to find; what shows another is not wrong.
        mask_areas: (M,) int64 pixels of each mask.
        object_of: (M,) int64 object that the mask shows; -1 if none.
        iou: (M,) float64 of the mask with that object; 0 if none.
    """

    object_areas: IntArray
    wanted: BoolArray
    mask_areas: IntArray
    object_of: IntArray
    iou: FloatArray


@dataclass(frozen=True)
class Found:
    """How well masks match objects.

    Attributes:
        objects, masks: how many there were.
        matched: pairs of them.
        mean_iou: of these pairs; not a number if there are none.
    """

    objects: int
    masks: int
    matched: int
    mean_iou: float

    @property
    def recall(self) -> float:
        """Share of objects that a mask shows."""
        return self.matched / max(self.objects, 1)

    @property
    def precision(self) -> float:
        """Share of masks that show an object."""
        return self.matched / max(self.masks, 1)


def match_automatic(
    backend: SamBackend,
    pictures: Iterable[LabelledPicture],
    threshold: float,
    preset: Preset | None = None,
    search: Mapping[str, Any] | None = None,
) -> list[Matching]:
    """Search pictures for masks, and match them with the pictures' objects at an IoU of `threshold`.

    Args:
        backend: searches with the thresholds of its model.
        pictures: with all their objects.
        threshold: 0 to 1.
        preset: searches in its way, and what its filters leave counts; wanted are the objects that they leave too,
            so that neither what the edge cuts nor what has no edge to see is missed.
        search: parameters of `generate` by name, beside the preset's.
    """
    values = {**(preset.search if preset else {}), **(search or {})}
    parameters = AutomaticParameters.from_values(values, model_type=backend.spec.model_type)
    out = []
    for picture in pictures:
        masks = generate(backend, picture.image, parameters)
        truth = _truth(picture)
        found = [masks.records[index].segmentation for index in _kept(masks, preset)]
        wanted = np.zeros(len(truth), bool)
        wanted[list(_kept(truth, preset))] = True
        out.append(match(found, [record.segmentation for record in truth.records], threshold, wanted))
    return out


def _kept(masks: MaskSet, preset: Preset | None) -> Sequence[int]:
    return group_masks(measure_set(masks), filters=preset.filters).kept if preset else range(len(masks))


def _truth(picture: LabelledPicture) -> MaskSet:
    """A picture's objects as masks that a search might have found."""
    records = [make_record(CroppedMask.from_mask(mask), 1.0, 1.0) for mask in picture.masks]
    height, width = picture.image.shape[:2]
    return MaskSet((height, width), tuple(records), edge_contrasts=edge_contrasts(picture.image, records))


def match(found: Sequence[Rle], truth: Sequence[Rle], threshold: float, wanted: BoolArray | None = None) -> Matching:
    """Pair masks with objects one to one, the best pairs first, from an IoU of `threshold` on.

    Args:
        found: M masks.
        truth: N objects.
        threshold: 0 to 1.
        wanted: see `Matching`; all objects if None.
    """
    shown, ious, used = np.full(len(found), -1, np.int64), np.zeros(len(found)), np.zeros(len(truth), bool)
    if found and truth:
        table = coco.iou([mask.to_coco() for mask in found], [mask.to_coco() for mask in truth], [0] * len(truth))
        for place in np.argsort(-table, axis=None, kind="stable")[: np.count_nonzero(table >= threshold)].tolist():
            mask, thing = divmod(place, len(truth))
            if shown[mask] < 0 and not used[thing]:
                shown[mask], ious[mask], used[thing] = thing, table[mask, thing], True
    wanted = np.ones(len(truth), bool) if wanted is None else wanted
    return Matching(_areas(truth), wanted, _areas(found), shown, ious)


def count_found(matchings: Iterable[Matching], min_area: int = 0) -> Found:
    """Add pictures up.

    Args:
        matchings: a picture each.
        min_area: as in COCO's sizes, smaller objects are neither wanted nor wrong, and neither are masks that show
            one of them, nor smaller masks that show nothing.
    """
    objects = masks = matched = 0
    total = 0.0
    for item in matchings:
        wanted = item.wanted & (item.object_areas >= min_area)
        shows = item.object_of >= 0
        right = np.zeros(len(shows), bool)
        right[shows] = wanted[item.object_of[shows]]
        objects += np.count_nonzero(wanted)
        matched += np.count_nonzero(right)
        total += float(item.iou[right].sum())
        masks += np.count_nonzero(right | (~shows & (item.mask_areas >= min_area)))
    return Found(objects, masks, matched, total / matched if matched else float("nan"))


def mean_of_pictures(matchings: Iterable[Matching], min_area: int = 0) -> tuple[float, float]:
    """Mean recall and precision of pictures, each of which counts alike, however many objects it shows.

    Args:
        matchings: a picture each; those without objects have no recall, and those without masks no precision.
        min_area: see `count_found`.
    """
    each = [count_found([item], min_area) for item in matchings]
    recalls = [found.recall for found in each if found.objects]
    precisions = [found.precision for found in each if found.masks]
    return _mean(recalls), _mean(precisions)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _areas(masks: Sequence[Rle]) -> IntArray:
    return np.array([mask.area for mask in masks], np.int64)
