"""The droplets preset on drawn scenes whose truth is known: 500 droplets, two sizes, satellites, aggregates, edges."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sam_server.grouping.group import Grouping, group_masks
from sam_server.grouping.presets import preset
from sam_server.grouping.selection import Scale
from sam_server.masks import rle
from sam_server.masks.measured_set import measure_set

Draw = Callable[[int, bool], Any]


def members(grouping: Grouping) -> dict[str, set[int]]:
    return {group.name: set(group.masks) for group in grouping.groups}


# What satellites and neighbours hide is missing from visible parts: 5 % of the large droplets' area here.
@pytest.mark.parametrize(
    ("seed", "carved", "size_tolerance"),
    [(seed, False, 0.02) for seed in range(20)] + [(seed, True, 0.04) for seed in range(3)],
)
def test_droplets_are_counted_sized_and_assigned(
    draw_droplets: Draw, seed: int, carved: bool, size_tolerance: float
) -> None:
    scene = draw_droplets(seed, carved)
    assert len(scene.discs) == 500
    droplets = preset("droplets")
    result = group_masks(measure_set(scene.masks), droplets.methods, droplets.filters, Scale(0.5, "µm"))

    inside = scene.of_kind("droplet", "satellite", "small droplet")
    assert result.total.count == pytest.approx(len(inside), rel=0.03)
    (edge,) = [entry for entry in result.removed if entry.filter == "drop_touching_edge"]
    assert set(edge.masks) == set(scene.of_kind("edge"))

    sizes, grouping = result.groupings
    found = members(grouping)
    assert members(sizes)["size class 1"] == found["droplet"]
    true_large = [2 * scene.discs[i].radius * 0.5 for i in scene.of_kind("droplet")]
    true_small = [2 * scene.discs[i].radius * 0.5 for i in scene.of_kind("satellite", "small droplet")]
    for group, truth in zip(sizes.groups, (true_large, true_small), strict=True):
        assert group.statistics.count == pytest.approx(len(truth), rel=0.03)
        mean = group.statistics.measures["equivalent_diameter_area"].mean
        assert mean == pytest.approx(np.mean(truth), rel=size_tolerance)

    host_of = {satellite: entry["droplet"] for entry in grouping.details["satellites"] for satellite in entry["masks"]}
    right = [host_of.get(i) == scene.discs[i].host for i in scene.of_kind("satellite")]
    assert np.mean(right) >= 0.95
    assert len(found["satellite"] & set(scene.of_kind("small droplet"))) <= 2

    pairs = {(disc.host, i) for i, disc in enumerate(scene.discs) if disc.kind == "droplet" and disc.host >= 0}
    aggregates = {tuple(sorted(masks)) for masks in grouping.details["aggregates"]}
    assert len(pairs & aggregates) >= 0.9 * len(pairs)
    assert len(aggregates - pairs) <= 1


@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_droplets_of_one_size_are_one_class(spread: float, set_of_masks: Callable[..., Any]) -> None:
    rng = np.random.default_rng(5)
    rows, columns = np.ogrid[:200, :300]
    masks = [
        (columns - x) ** 2 + (rows - y) ** 2 <= rng.normal(14, 14 * spread) ** 2
        for x in range(25, 290, 40)
        for y in range(25, 180, 40)
    ]
    droplets = preset("droplets")
    result = group_masks(measure_set(set_of_masks(masks)), droplets.methods, droplets.filters)
    assert [len(group.masks) for group in result.groupings[0].groups] == [len(masks)]
    assert [len(group.masks) for group in result.groupings[1].groups] == [len(masks), 0, 0]


def test_regrouping_decodes_no_mask(draw_droplets: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of threshold answers in milliseconds, since everything that takes pixels was measured once."""
    measured = measure_set(draw_droplets(0, True).masks)
    everything = preset("everything")
    first = group_masks(measured, everything.methods, everything.filters)
    monkeypatch.setattr(rle, "decode_crop", None)
    monkeypatch.setattr(rle, "runs", None)
    again = group_masks(measured, everything.methods, replace(everything.filters, min_diameter=30))
    assert 0 < again.total.count < first.total.count
