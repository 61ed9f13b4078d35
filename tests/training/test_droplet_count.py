"""The count of drawn droplets: true masks give the truth, missing ones are missed, and the scene shows its droplets."""

import numpy as np
import pytest

from sam_server.grouping.group import group_masks
from sam_server.grouping.presets import preset
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set
from tests.grouping.droplet_scenes import draw_droplets
from training.droplet_count import SIZE, compare
from training.droplet_scene import paint_droplets, place_droplets
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


def test_the_picture_shows_the_droplets() -> None:
    discs = place_droplets(1, SIZE)
    picture = paint_droplets(discs, 1, SIZE)
    assert (picture.shape, picture.dtype) == ((*SIZE, 3), np.uint8)
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    bare = np.ones(SIZE, np.bool_)
    for disc in discs:
        bare &= (columns + 0.5 - disc.x) ** 2 + (rows + 0.5 - disc.y) ** 2 > (disc.radius + 3) ** 2
    assert picture[~bare].std() > 1.2 * picture[bare].std()
