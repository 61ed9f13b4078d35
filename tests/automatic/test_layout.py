"""Points and crops equal the reference's; tiles cover the picture and overlap enough."""

from itertools import pairwise

import numpy as np
import pytest

from sam_server.automatic.layout import crops, point_grid, tiles
from tests.reference import torchvision_functions

torchvision_functions.supply()

from segment_anything.utils import amg  # noqa: E402


@pytest.mark.parametrize("side", [1, 2, 7, 32])
def test_point_grid_equals_the_reference(side: int) -> None:
    np.testing.assert_array_equal(np.array(point_grid(side)), amg.build_point_grid(side))


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (303, 384), (601, 601), (97, 1000)])
@pytest.mark.parametrize("ratio", [0.0, 512 / 1500, 0.9])
def test_crops_equal_the_reference(size: tuple[int, int], ratio: float) -> None:
    boxes, layers = amg.generate_crop_boxes(size, 3, ratio)
    found = crops(size, 3, ratio)
    assert [[crop.x1, crop.y1, crop.x2, crop.y2] for crop in found] == boxes
    assert [crop.layer for crop in found] == layers


def test_a_picture_of_few_pixels_has_no_crop_without_pixels() -> None:
    assert all(crop.area > 0 for crop in crops((3, 5), 4, 0.3))


@pytest.mark.parametrize("size", [(3000, 4000), (1025, 1024), (500, 2500), (700, 700)])
@pytest.mark.parametrize(("tile_size", "overlap"), [(1024, 256), (512, 0), (768, 384)])
def test_tiles_cover_the_picture_and_overlap(size: tuple[int, int], tile_size: int, overlap: int) -> None:
    found = tiles(size, tile_size, overlap)
    seen = np.zeros(size, np.uint8)
    for tile in found:
        assert max(tile.size) <= tile_size
        seen[tile.slices] += 1
    assert seen.min() >= 1
    for starts, length in (
        (sorted({tile.x1 for tile in found}), size[1]),
        (sorted({tile.y1 for tile in found}), size[0]),
    ):
        assert all(after - before <= tile_size - overlap for before, after in pairwise(starts))
        assert starts[-1] + min(tile_size, length) == length
