"""Drawn droplets as true masks, without a model, and what their groups must say of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sam_server.masks.crop import CroppedMask
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.record import make_record
from training.droplet_scene import SIZE, Disc, disc_mask, place_droplets

# Of the real size; the groups are asked for with it.
PIXEL_SIZE, UNIT = 0.5, "µm"


@dataclass(frozen=True)
class DropletScene:
    """Droplets as true masks; mask i shows disc i."""

    discs: list[Disc]
    masks: MaskSet

    def of_kind(self, *kinds: str) -> list[int]:
        return [i for i, disc in enumerate(self.discs) if disc.kind in kinds]


def draw_droplets(seed: int, carved: bool) -> DropletScene:
    """500 droplets on 12 megapixels. Where `carved`, a mask shows only what is visible: what is in front is cut out."""
    discs = place_droplets(seed)
    masks = [disc_mask(disc, SIZE) for disc in discs]
    if carved:
        for front, disc in enumerate(discs):
            if disc.host >= 0:
                masks[disc.host] = _subtract(masks[disc.host], masks[front])
    return DropletScene(discs, MaskSet(SIZE, tuple(make_record(mask, 0.9, 0.95) for mask in masks)))


def _subtract(mask: CroppedMask, other: CroppedMask) -> CroppedMask:
    pixels = mask.pixels.copy()
    top, left = max(mask.y, other.y), max(mask.x, other.x)
    bottom = min(mask.y + mask.pixels.shape[0], other.y + other.pixels.shape[0])
    right = min(mask.x + mask.pixels.shape[1], other.x + other.pixels.shape[1])
    if top < bottom and left < right:
        part = other.pixels[top - other.y : bottom - other.y, left - other.x : right - other.x]
        pixels[top - mask.y : bottom - mask.y, left - mask.x : right - mask.x] &= ~part
    return CroppedMask(mask.size, mask.x, mask.y, pixels)


def check_droplets(scene: DropletScene, answer: dict[str, Any], size_tolerance: float) -> None:
    """Hold the groups of the droplets preset, as JSON values, against the truth."""
    inside = scene.of_kind("droplet", "satellite", "small droplet")
    assert answer["total"]["count"] == pytest.approx(len(inside), rel=0.03)
    removed = {entry["filter"]: entry["count"] for entry in answer["removed"]}
    assert removed["drop_touching_edge"] == len(scene.of_kind("edge"))
    assert not set(answer["kept"]) & set(scene.of_kind("edge"))

    sizes, grouping = answer["groupings"]
    found = {group["name"]: set(group["masks"]) for group in grouping["groups"]}
    assert set(sizes["groups"][0]["masks"]) == found["droplet"]
    true_large = [2 * scene.discs[i].radius * PIXEL_SIZE for i in scene.of_kind("droplet")]
    true_small = [2 * scene.discs[i].radius * PIXEL_SIZE for i in scene.of_kind("satellite", "small droplet")]
    for group, truth in zip(sizes["groups"], (true_large, true_small), strict=True):
        assert group["statistics"]["count"] == pytest.approx(len(truth), rel=0.03)
        mean = group["statistics"]["measures"]["equivalent_diameter_area"]["mean"]
        assert mean == pytest.approx(np.mean(truth), rel=size_tolerance)

    details = grouping["details"]
    host_of = {satellite: entry["droplet"] for entry in details["satellites"] for satellite in entry["masks"]}
    right = [host_of.get(i) == scene.discs[i].host for i in scene.of_kind("satellite")]
    assert np.mean(right) >= 0.95
    assert len(found["satellite"] & set(scene.of_kind("small droplet"))) <= 2

    pairs = {(disc.host, i) for i, disc in enumerate(scene.discs) if disc.kind == "droplet" and disc.host >= 0}
    aggregates = {tuple(sorted(masks)) for masks in details["aggregates"]}
    assert len(pairs & aggregates) >= 0.9 * len(pairs)
    assert len(aggregates - pairs) <= 1
