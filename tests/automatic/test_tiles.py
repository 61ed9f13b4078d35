"""Objects that tile borders cut come out whole and once."""

import numpy as np
import pytest

from sam_server.automatic.layout import Crop, tiles
from sam_server.automatic.tiles import join_tiles
from sam_server.masks.crop import CroppedMask
from sam_server.masks.record import MaskRecord, make_record

SIZE = (420, 600)
NMS = 0.7


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """(H, W) bool."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(rows - y, columns - x) <= radius


def seen(mask: np.ndarray, tile: Crop, predicted_iou: float = 0.9) -> MaskRecord:
    """The mask as a perfect model sees it through one tile."""
    part = np.zeros_like(mask)
    part[tile.slices] = mask[tile.slices]
    x, y = np.argwhere(part)[0][::-1].tolist()
    return make_record(CroppedMask.from_mask(part), predicted_iou, 0.95, ((x, y),), tile.bbox)


def look(objects: list[np.ndarray], layout: list[Crop]) -> list[list[MaskRecord]]:
    return [[seen(mask, tile) for mask in objects if mask[tile.slices].any()] for tile in layout]


def as_set(masks: list[np.ndarray]) -> set[bytes]:
    return {np.packbits(mask).tobytes() for mask in masks}


@pytest.mark.parametrize("overlap", [20, 40, 90])
def test_every_object_comes_out_whole_and_once(overlap: int) -> None:
    rng = np.random.default_rng(overlap)
    # Discs on a grid with room between them: within a tile, cut by one border or two, larger than the overlap.
    objects = [
        disc(x + rng.uniform(-9, 9), y + rng.uniform(-9, 9), rng.uniform(7, 29))
        for y in range(36, 390, 70)
        for x in range(36, 570, 70)
    ]
    layout = tiles(SIZE, 180, overlap)
    joined = join_tiles(look(objects, layout), layout, SIZE, NMS)
    assert as_set([record.to_mask() for record in joined]) == as_set(objects)
    assert len(joined) == len(objects)


def test_hundreds_of_objects_in_one_overlap() -> None:
    """More than 255, which pycocotools cannot tell the areas of at once."""
    objects = [disc(x, y, 3) for y in range(8, 412, 12) for x in range(205, 390, 12)]
    layout = [Crop(0, 0, 400, 420), Crop(195, 0, 600, 420)]
    joined = join_tiles(look(objects, layout), layout, SIZE, NMS)
    assert as_set([record.to_mask() for record in joined]) == as_set(objects)
    assert len(joined) == len(objects) > 500


def test_an_object_over_many_tiles_is_one() -> None:
    bar = np.zeros(SIZE, np.bool_)
    bar[120:258, 20:570] = True
    layout = tiles(SIZE, 180, 36)
    pieces = look([bar], layout)
    assert sum(map(len, pieces)) >= 8
    (whole,) = join_tiles(pieces, layout, SIZE, NMS)
    np.testing.assert_array_equal(whole.to_mask(), bar)
    assert whole.crop_box == (0, 0, 600, 420)
    assert len(whole.point_coords) == sum(map(len, pieces))
    assert whole.predicted_iou == pytest.approx(0.9)


def test_a_part_stays_apart_from_the_whole_that_is_cut() -> None:
    whole, part = disc(300, 210, 105), disc(300, 210, 25)
    layout = tiles(SIZE, 240, 60)
    joined = join_tiles(look([whole, part], layout), layout, SIZE, NMS)
    assert as_set([record.to_mask() for record in joined]) == as_set([whole, part])


def test_rough_edges_do_not_keep_pieces_apart() -> None:
    bar = np.zeros(SIZE, np.bool_)
    bar[60:110, 60:480] = True
    layout = tiles(SIZE, 240, 60)
    rng = np.random.default_rng(0)
    pieces = []
    for tile in layout:
        moved = np.roll(bar, rng.integers(-3, 4, 2), (0, 1))
        pieces.append([seen(moved, tile)] if moved[tile.slices].any() else [])
    (found,) = join_tiles(pieces, layout, SIZE, NMS)
    mask = found.to_mask()
    assert (mask & bar).sum() > 0.8 * (mask | bar).sum()


def test_a_piece_that_no_tile_continues_is_dropped() -> None:
    whole = disc(300, 210, 80)
    layout = tiles(SIZE, 240, 60)
    pieces = look([whole], layout)
    only_one = [records if number == 0 else [] for number, records in enumerate(pieces)]
    assert pieces[0]
    assert join_tiles(only_one, layout, SIZE, NMS) == []


def test_masks_at_the_edge_of_the_picture_are_not_cut() -> None:
    corner = disc(0, 0, 30)
    layout = tiles(SIZE, 240, 60)
    (found,) = join_tiles(look([corner], layout), layout, SIZE, NMS)
    np.testing.assert_array_equal(found.to_mask(), corner)


def test_no_masks() -> None:
    layout = tiles(SIZE, 240, 60)
    assert join_tiles([[] for _ in layout], layout, SIZE, NMS) == []
