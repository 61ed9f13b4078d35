"""The count of drawn droplets: true masks give the truth, missing ones are missed, and the scene shows its droplets."""

import numpy as np
import pytest

from sam_server.grouping.group import group_masks
from sam_server.grouping.presets import preset
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set
from tests.grouping.droplet_scenes import draw_droplets
from training.droplet_count import SIZE, TILES, Counted, compare, total
from training.droplet_scene import magnify, paint_droplets, place_droplets
from training.protocol_automatic import Found


@pytest.mark.parametrize("left_out", [0, 100])
def test_true_masks_give_the_truth(left_out: int) -> None:
    """The droplets that are left out are the last ones, small and alone."""
    scene = draw_droplets(0, carved=False)
    droplets = preset("droplets")
    masks = MaskSet(scene.masks.size, scene.masks.records[: 500 - left_out])
    counted = compare(scene.discs, masks, group_masks(measure_set(masks), droplets.methods, droplets.filters))
    assert counted.true_count == 485
    assert counted.count == counted.matched == 485 - left_out
    assert counted.diameters == pytest.approx(counted.true_diameters, rel=0.01)
    assert counted.satellites >= 0.95
    assert counted.outlined == Found(485, 485 - left_out, 485 - left_out, 1.0)


def test_a_total_adds_scenes_up() -> None:
    one = Counted(90, 100, 80, (60.0, 15.0), (64.0, 16.0), 0.9, Found(100, 90, 60, 0.9))
    two = Counted(310, 300, 300, (68.0, 16.0), (64.0, 16.0), 1.0, Found(300, 310, 180, 0.8))
    summed = total([one, two])
    assert (summed.count, summed.true_count, summed.matched) == (400, 400, 380)
    assert (summed.diameters, summed.true_diameters) == ((64.0, 15.5), (64.0, 16.0))
    assert summed.satellites == pytest.approx(0.95)
    assert summed.outlined == Found(400, 400, 240, pytest.approx(0.825))


@pytest.mark.parametrize("magnification", TILES)
def test_the_picture_shows_the_droplets(magnification: int) -> None:
    size = (SIZE[0] * magnification, SIZE[1] * magnification)
    discs = magnify(place_droplets(1, SIZE), magnification)
    picture = paint_droplets(discs, 1, size)
    assert (picture.shape, picture.dtype) == ((*size, 3), np.uint8)
    rows, columns = np.ogrid[: size[0], : size[1]]
    bare = np.ones(size, np.bool_)
    for disc in discs:
        left, top = (max(0, int(place - disc.radius - 4)) for place in (disc.x, disc.y))
        part = np.s_[top : int(disc.y + disc.radius) + 5, left : int(disc.x + disc.radius) + 5]
        away = np.hypot(columns[:, part[1]] + 0.5 - disc.x, rows[part[0]] + 0.5 - disc.y)
        bare[part] &= away > disc.radius + 3
    assert picture[~bare].std() > 1.2 * picture[bare].std()
