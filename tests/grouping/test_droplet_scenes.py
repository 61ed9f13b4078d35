"""The droplets preset on drawn scenes whose truth is known: 500 droplets, two sizes, satellites, aggregates, edges."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sam_server.grouping.group import group_masks
from sam_server.grouping.presets import preset
from sam_server.grouping.selection import Scale
from sam_server.masks import rle
from sam_server.masks.measured_set import measure_set
from tests.grouping.droplet_scenes import PIXEL_SIZE, UNIT, check_droplets, draw_droplets


# What satellites and neighbours hide is missing from visible parts: 5 % of the large droplets' area here.
@pytest.mark.parametrize(
    ("seed", "carved", "size_tolerance"),
    [(seed, False, 0.02) for seed in range(20)] + [(seed, True, 0.04) for seed in range(3)],
)
def test_droplets_are_counted_sized_and_assigned(seed: int, carved: bool, size_tolerance: float) -> None:
    scene = draw_droplets(seed, carved)
    assert len(scene.discs) == 500
    droplets = preset("droplets")
    measured = measure_set(scene.masks)
    result = group_masks(measured, droplets.methods, droplets.filters, Scale(PIXEL_SIZE, UNIT))
    check_droplets(scene, result.to_dict(), size_tolerance)


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


def test_regrouping_decodes_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of threshold answers in milliseconds, since everything that takes pixels was measured once."""
    measured = measure_set(draw_droplets(0, True).masks)
    everything = preset("everything")
    first = group_masks(measured, everything.methods, everything.filters)
    monkeypatch.setattr(rle, "decode_crop", None)
    monkeypatch.setattr(rle, "runs", None)
    again = group_masks(measured, everything.methods, replace(everything.filters, min_diameter=30))
    assert 0 < again.total.count < first.total.count
