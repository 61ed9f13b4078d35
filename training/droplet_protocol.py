"""The measuring protocol of counted droplets: what the preset `droplets` made of a drawn scene, beside the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam_server.arrays import CoordArray
from sam_server.grouping.group import GroupResult
from sam_server.masks import rle
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.rle import Rle
from training.droplet_scene import Disc, disc_mask
from training.protocol_automatic import AUTOMATIC_IOU, Found, count_found, match

# A mask shows a droplet if their middles and their diameters differ by less than this share of the droplet's diameter.
NEAR = 0.3


@dataclass(frozen=True)
class Shown:
    """The masks that the filters left, and which of them sits on which.

    Attributes:
        size: (H, W) of the picture, in pixels.
        numbers: N numbers of masks in their set.
        circles: (N, 3) float64 x and y of the middle and diameter, in pixels.
        masks: N masks.
        host_of: from a satellite's number to that of its droplet.
    """

    size: tuple[int, int]
    numbers: Sequence[int]
    circles: CoordArray
    masks: Sequence[Rle]
    host_of: Mapping[int, int]


def shown_in(masks: MaskSet, result: GroupResult) -> Shown:
    """What the groups of the preset say, within the process."""
    measures = result.measures
    return Shown(
        size=masks.size,
        numbers=result.kept,
        circles=np.stack([measures.centroid_x, measures.centroid_y, measures.equivalent_diameter_area], axis=1),
        masks=[masks.records[index].segmentation for index in result.kept],
        host_of=_hosts(result.groupings[1].details),
    )


def shown_by_server(groups: Mapping[str, Any], mask_set: Mapping[str, Any]) -> Shown:
    """The same out of the answers of POST /group_masks, with measures, and GET /mask_sets/ID."""
    measures = groups["measures"]
    columns = [measures[name] for name in ("centroid_x", "centroid_y", "equivalent_diameter_area")]
    return Shown(
        size=(groups["height"], groups["width"]),
        numbers=groups["kept"],
        circles=np.array(columns, np.float64).T.reshape(-1, 3),
        masks=[Rle.from_dict(mask_set["masks"][number]["segmentation"]) for number in groups["kept"]],
        host_of=_hosts(groups["groupings"][1]["details"]),
    )


def _hosts(details: Mapping[str, Any]) -> dict[int, int]:
    return {mask: entry["droplet"] for entry in details["satellites"] for mask in entry["masks"]}


@dataclass(frozen=True)
class Counted:
    """What was found in one scene, beside the truth.

    Attributes:
        count, true_count: whole droplets of all kinds.
        matched: masks that show a droplet, each droplet once.
        diameters, true_diameters: means of all, of the larger and of the smaller ones, in pixels; NaN where there are
            none.
        satellites: share of the satellites that are found and assigned to the right droplet.
        outlined: masks that outline a whole droplet.
    """

    count: int
    true_count: int
    matched: int
    diameters: tuple[float, float, float]
    true_diameters: tuple[float, float, float]
    satellites: float
    outlined: Found


def compare(discs: Sequence[Disc], found: Shown) -> Counted:
    """Hold the groups of the droplets preset against the truth."""
    whole = [number for number, disc in enumerate(discs) if disc.kind != "edge"]
    shown = _match([discs[number] for number in whole], found)
    mask_of = {whole[row]: mask for row, mask in shown.items()}
    right = [
        number in mask_of and disc.host in mask_of and found.host_of.get(mask_of[number]) == mask_of[disc.host]
        for number, disc in enumerate(discs)
        if disc.kind == "satellite"
    ]
    diameters = found.circles[:, 2]
    true = 2 * np.array([discs[number].radius for number in whole])
    limit = float(np.sqrt(true.min() * true.max()))
    return Counted(
        count=len(found.numbers),
        true_count=len(whole),
        matched=len(shown),
        diameters=_means(diameters, limit),
        true_diameters=_means(true, limit),
        satellites=float(np.mean(right)),
        outlined=_outlined(discs, found),
    )


def _outlined(discs: Sequence[Disc], found: Shown) -> Found:
    """Masks against whole discs; those that the edge cuts are neither wanted nor wrong."""
    truth = [rle.encode_crop(disc_mask(disc, found.size)) for disc in discs]
    wanted = np.array([disc.kind != "edge" for disc in discs], bool)
    return count_found([match(found.masks, truth, AUTOMATIC_IOU, wanted)])


def _match(discs: Sequence[Disc], found: Shown) -> dict[int, int]:
    """Number of the mask that shows each disc, nearest first; each mask and each disc once."""
    true = np.array([(disc.x - 0.5, disc.y - 0.5, 2 * disc.radius) for disc in discs])
    away = np.abs(found.circles[None] - true[:, None])
    away = np.maximum(np.hypot(away[..., 0], away[..., 1]), away[..., 2]) / true[:, 2:]
    matched: dict[int, int] = {}
    used: set[int] = set()
    for row, column in np.argwhere(away < NEAR)[np.argsort(away[away < NEAR])].tolist():
        if row not in matched and column not in used:
            matched[row] = found.numbers[column]
            used.add(column)
    return matched


def _means(diameters: CoordArray, limit: float) -> tuple[float, float, float]:
    return _mean(diameters), _mean(diameters[diameters >= limit]), _mean(diameters[diameters < limit])


def _mean(values: CoordArray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def total(every: Sequence[Counted]) -> Counted:
    """All scenes as one: sums of what is counted, and means of the scenes' means."""
    outlined = [counted.outlined for counted in every]
    matched = sum(found.matched for found in outlined)
    return Counted(
        count=sum(counted.count for counted in every),
        true_count=sum(counted.true_count for counted in every),
        matched=sum(counted.matched for counted in every),
        diameters=_mean_of_scenes([counted.diameters for counted in every]),
        true_diameters=_mean_of_scenes([counted.true_diameters for counted in every]),
        satellites=float(np.mean([counted.satellites for counted in every])),
        outlined=Found(
            objects=sum(found.objects for found in outlined),
            masks=sum(found.masks for found in outlined),
            matched=matched,
            mean_iou=sum(found.mean_iou * found.matched for found in outlined if found.matched) / max(matched, 1),
        ),
    )


def _mean_of_scenes(each: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    every, large, small = np.mean(each, axis=0)
    return float(every), float(large), float(small)
