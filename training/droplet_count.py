"""Count and size drawn droplets with a model, and print how far it is off: `python -m training.droplet_count`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from sam_server.automatic.generate import generate
from sam_server.automatic.parameters import AutomaticParameters
from sam_server.backend import SamBackend
from sam_server.grouping.group import GroupResult, group_masks
from sam_server.grouping.presets import preset
from sam_server.masks import rle
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set
from training.droplet_scene import Disc, disc_mask, magnify, paint_droplets, place_droplets
from training.model_arguments import add_model_arguments, load_model
from training.protocol_automatic import AUTOMATIC_IOU, Found, count_found, match

# The model is unsure of satellites.
SEARCH = {"pred_iou_thresh": 0.45, "stability_score_thresh": 0.76}
# By magnification: small droplets are 16 pixels across, or 32. Half of their size and more would be lost if a larger
# part of the picture went through a small model at once. Points lie nearer to each other than a small droplet is wide,
# and tiles overlap by more than a large one.
TILES = {
    1: {"tile_size": 512, "tile_overlap": 96, "points_per_side": 48},
    2: {"tile_size": 640, "tile_overlap": 160, "points_per_side": 30},
}
# All droplets of the scene are round: what is less so is a highlight, or the gap between two. But 0.8 takes droplets
# that another covers in part for such, and on a scene drawn large these are more than the highlights.
MIN_CIRCULARITY = {1: 0.8, 2: 0.7}
SIZE = (1500, 2000)
# A mask shows a droplet if their middles and their diameters differ by less than this share of the droplet's diameter.
NEAR = 0.3


@dataclass(frozen=True)
class Counted:
    """What was found in one scene, beside the truth.

    Attributes:
        count, true_count: whole droplets of all kinds.
        matched: masks that show a droplet, each droplet once.
        diameters, true_diameters: means of the larger and the smaller ones, in pixels; NaN where there are none.
        satellites: share of the satellites that are found and assigned to the right droplet.
        outlined: masks that outline a whole droplet.
    """

    count: int
    true_count: int
    matched: int
    diameters: tuple[float, float]
    true_diameters: tuple[float, float]
    satellites: float
    outlined: Found


def count_droplets(backend: SamBackend, seed: int, magnification: int = 1) -> Counted:
    """Draw a scene, find its droplets with the preset, a closer search and a stricter filter, and compare.

    Args:
        backend: searches.
        seed: of the scene.
        magnification: a key of TILES; the scene is drawn with so many times SIZE.
    """
    size = (SIZE[0] * magnification, SIZE[1] * magnification)
    discs = magnify(place_droplets(seed, SIZE), magnification)
    droplets = preset("droplets")
    values = {**droplets.search, **SEARCH, **TILES[magnification]}
    parameters = AutomaticParameters.from_values(values, model_type=backend.spec.model_type)
    masks = generate(backend, paint_droplets(discs, seed, size), parameters)
    filters = replace(droplets.filters, min_filled_circularity=MIN_CIRCULARITY[magnification])
    return compare(discs, masks, group_masks(measure_set(masks), droplets.methods, filters))


def compare(discs: list[Disc], masks: MaskSet, result: GroupResult) -> Counted:
    """Hold the groups of the droplets preset, made of `masks`, against the truth."""
    whole = [number for number, disc in enumerate(discs) if disc.kind != "edge"]
    shown = _match([discs[number] for number in whole], result)
    mask_of = {whole[row]: mask for row, mask in shown.items()}
    details: dict[str, Any] = result.groupings[1].details
    host_of = {mask: entry["droplet"] for entry in details["satellites"] for mask in entry["masks"]}
    right = [
        number in mask_of and disc.host in mask_of and host_of.get(mask_of[number]) == mask_of[disc.host]
        for number, disc in enumerate(discs)
        if disc.kind == "satellite"
    ]
    found = result.measures.equivalent_diameter_area
    true = 2 * np.array([discs[number].radius for number in whole])
    limit = float(np.sqrt(true.min() * true.max()))
    return Counted(
        count=len(result.kept),
        true_count=len(whole),
        matched=len(shown),
        diameters=(_mean(found[found >= limit]), _mean(found[found < limit])),
        true_diameters=(_mean(true[true >= limit]), _mean(true[true < limit])),
        satellites=float(np.mean(right)),
        outlined=_outlined(discs, masks, result),
    )


def _outlined(discs: list[Disc], masks: MaskSet, result: GroupResult) -> Found:
    """Masks against whole discs; those that the edge cuts are neither wanted nor wrong."""
    truth = [rle.encode_crop(disc_mask(disc, masks.size)) for disc in discs]
    wanted = np.array([disc.kind != "edge" for disc in discs], bool)
    found = [masks.records[index].segmentation for index in result.kept]
    return count_found([match(found, truth, AUTOMATIC_IOU, wanted)])


def _match(discs: list[Disc], result: GroupResult) -> dict[int, int]:
    """Number of the mask that shows each disc, nearest first; each mask and each disc once."""
    measures = result.measures
    found = np.stack([measures.centroid_x, measures.centroid_y, measures.equivalent_diameter_area], axis=1)
    true = np.array([(disc.x - 0.5, disc.y - 0.5, 2 * disc.radius) for disc in discs])
    away = np.abs(found[None] - true[:, None])
    away = np.maximum(np.hypot(away[..., 0], away[..., 1]), away[..., 2]) / true[:, 2:]
    matched: dict[int, int] = {}
    used: set[int] = set()
    for row, column in np.argwhere(away < NEAR)[np.argsort(away[away < NEAR])].tolist():
        if row not in matched and column not in used:
            matched[row] = result.kept[column]
            used.add(column)
    return matched


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def total(every: Sequence[Counted]) -> Counted:
    """All scenes as one: sums of what is counted, and means of the scenes' means."""
    outlined = [counted.outlined for counted in every]
    matched = sum(found.matched for found in outlined)
    return Counted(
        count=sum(counted.count for counted in every),
        true_count=sum(counted.true_count for counted in every),
        matched=sum(counted.matched for counted in every),
        diameters=_mean_pair([counted.diameters for counted in every]),
        true_diameters=_mean_pair([counted.true_diameters for counted in every]),
        satellites=float(np.mean([counted.satellites for counted in every])),
        outlined=Found(
            objects=sum(found.objects for found in outlined),
            masks=sum(found.masks for found in outlined),
            matched=matched,
            mean_iou=sum(found.mean_iou * found.matched for found in outlined if found.matched) / max(matched, 1),
        ),
    )


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(pairs, axis=0)
    return float(first), float(second)


def print_row(name: str, counted: Counted) -> None:
    """One row of the table."""
    sizes = zip(counted.diameters, counted.true_diameters, strict=True)
    cells = [
        name,
        f"{counted.count} of {counted.true_count} ({counted.count / counted.true_count - 1:+.1%})",
        f"{counted.matched / counted.true_count:.1%}",
        f"{counted.matched / max(counted.count, 1):.1%}",
        *(f"{found:.1f} of {true:.1f} ({found / true - 1:+.1%})" for found, true in sizes),
        f"{counted.satellites:.1%}",
        f"{counted.outlined.recall:.3f}, {counted.outlined.precision:.3f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3, help="how many scenes")
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument(
        "--magnification", type=int, choices=sorted(TILES), default=1, help="2 draws the scenes twice as large"
    )
    arguments = parser.parse_args()
    backend = load_model(arguments)
    print(
        "| seed | count | recall | precision | large diameter, px | small diameter, px | satellites assigned "
        f"| recall, precision at IoU {AUTOMATIC_IOU} |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    every = []
    for seed in tqdm(range(arguments.first, arguments.first + arguments.seeds), unit="scene", leave=False):
        every.append(count_droplets(backend, seed, arguments.magnification))
        print_row(str(seed), every[-1])
    if len(every) > 1:
        print_row("all", total(every))


if __name__ == "__main__":
    main()
