"""Points and crops equal the reference's; tiles cover the picture and overlap enough."""

from itertools import pairwise

import numpy as np
import pytest

from sam_server.automatic.layout import Crop, axes_within, crops, tiles, zones
from tests.reference import torchvision_functions

torchvision_functions.supply()

from segment_anything.utils import amg  # noqa: E402


@pytest.mark.parametrize("side", [1, 2, 7, 32])
def test_point_grid_equals_the_reference(side: int) -> None:
    whole = Crop(0, 0, 1, 1)
    x, y = axes_within(side, whole, whole)
    np.testing.assert_array_equal([(a, b) for b in y for a in x], amg.build_point_grid(side))


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


@pytest.mark.parametrize("size", [(3000, 4000), (1025, 1024), (500, 2500), (700, 700)])
@pytest.mark.parametrize(("tile_size", "overlap"), [(1024, 256), (512, 0), (768, 384)])
def test_zones_are_the_picture_once_and_far_from_where_tiles_end(
    size: tuple[int, int], tile_size: int, overlap: int
) -> None:
    seen = np.zeros(size, np.uint8)
    for tile, zone in zip(tiles(size, tile_size, overlap), zones(size, tile_size, overlap), strict=True):
        seen[zone.slices] += 1
        assert zone.x1 - tile.x1 >= overlap // 2 or tile.x1 == zone.x1 == 0
        assert zone.y1 - tile.y1 >= overlap // 2 or tile.y1 == zone.y1 == 0
        assert tile.x2 - zone.x2 >= overlap // 2 or tile.x2 == zone.x2 == size[1]
        assert tile.y2 - zone.y2 >= overlap // 2 or tile.y2 == zone.y2 == size[0]
    assert (seen == 1).all()


@pytest.mark.parametrize("side", [1, 7, 30])
def test_points_of_zones_leave_no_gap_that_a_tile_does_not_have(side: int) -> None:
    size, tile_size, overlap = (1500, 2000), 640, 160
    columns, rows = set(), set()
    parts = list(zip(tiles(size, tile_size, overlap), zones(size, tile_size, overlap), strict=True))
    for tile, zone in parts:
        x, y = axes_within(side, tile, zone)
        columns |= set((x + tile.x1).tolist())
        rows |= set((y + tile.y1).tolist())
    cell = tile_size / side
    for places, length in ((columns, size[1]), (rows, size[0])):
        gaps = np.diff([-cell / 2, *sorted(places), length + cell / 2])
        assert gaps.max() <= cell + 1e-9
    if side == 30:  # about the points of one grid over the picture, where all tiles' grids have 1.8 times as many
        points = sum(len(x) * len(y) for x, y in (axes_within(side, tile, zone) for tile, zone in parts))
        assert points < 1.15 * size[0] * size[1] / cell**2 < 0.75 * len(parts) * side**2


def test_a_picture_that_is_its_own_zone_has_the_whole_grid() -> None:
    whole = Crop(0, 0, 640, 480)
    x, y = axes_within(8, whole, whole)
    np.testing.assert_array_equal([(a, b) for b in y for a in x], amg.build_point_grid(8) * (640, 480))
