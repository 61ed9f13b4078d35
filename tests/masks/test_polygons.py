"""Polygons against the masks they were traced from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage import draw

from sam_server.masks import polygons
from sam_server.masks.crop import CroppedMask


def signed_area(ring: list[list[float]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


@given(st.data())
def test_filling_gives_the_mask_back(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    traced = polygons.from_mask(mask)
    np.testing.assert_array_equal(polygons.to_mask(traced, mask.shape), mask)
    assert sum(signed_area(ring) for polygon in traced for ring in polygon) == mask.sum()


@given(st.data())
def test_rings_are_simple_closed_and_wound_like_geojson(
    mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject
):
    mask = data.draw(mask_strategy)
    traced = polygons.from_mask(mask)
    assert len(traced) == ndimage.label(mask)[1]
    for polygon in traced:
        assert [signed_area(ring) > 0 for ring in polygon] == [True] + [False] * (len(polygon) - 1)
        for ring in polygon:
            assert ring[0] == ring[-1]
            assert len({tuple(point) for point in ring}) == len(ring) - 1
            steps = np.diff(np.array(ring), axis=0)
            # Corners only: steps go along one axis, and every step turns.
            assert ((steps != 0).sum(axis=1) == 1).all()
            assert ((steps[:, 0] != 0) != np.roll(steps[:, 0] != 0, 1)).all()


@given(st.data())
def test_each_polygon_is_one_part_with_its_own_holes(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    labels, _ = ndimage.label(mask)
    for number, polygon in enumerate(polygons.from_mask(mask), start=1):
        np.testing.assert_array_equal(polygons.to_mask([polygon], mask.shape), labels == number)


def test_ring_with_an_island() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[1:8, 1:8] = True
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    assert polygons.from_mask(mask) == [
        [[[1, 1], [8, 1], [8, 8], [1, 8], [1, 1]], [[7, 2], [2, 2], [2, 7], [7, 7], [7, 2]]],
        [[[4, 4], [5, 4], [5, 5], [4, 5], [4, 4]]],
    ]


def test_pixels_that_meet_at_a_corner_are_two_parts() -> None:
    assert len(polygons.from_mask(np.eye(2, dtype=np.bool_))) == 2
    assert len(polygons.from_mask(np.eye(2, dtype=np.bool_)[::-1])) == 2


def test_a_ring_closed_over_a_corner_has_a_hole() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.bool_)
    (polygon,) = polygons.from_mask(mask)
    assert len(polygon) == 2
    assert [signed_area(ring) for ring in polygon] == [8, -1]


def test_crops_are_traced_in_the_pixels_of_the_picture() -> None:
    crop = CroppedMask((100, 200), 150, 40, np.ones((3, 5), np.bool_))
    assert polygons.from_crop(crop) == [[[[150, 40], [155, 40], [155, 43], [150, 43], [150, 40]]]]
    assert polygons.from_mask(np.zeros((4, 4), np.bool_)) == []
    assert polygons.to_geojson([])["type"] == "MultiPolygon"


@pytest.mark.parametrize("seed", range(5))
def test_filling_any_polygon_agrees_with_scikit_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.random(12)) * 2 * np.pi
    radius = rng.uniform(5, 24, 12)
    x, y = 25.3 + radius * np.cos(angle), 24.7 + radius * np.sin(angle)
    expected = draw.polygon2mask((50, 60), np.stack([y - 0.5, x - 0.5], axis=1))
    np.testing.assert_array_equal(polygons.to_mask([[np.stack([x, y], axis=1).tolist()]], (50, 60)), expected)


def test_polygons_that_leave_the_picture_are_cut_off() -> None:
    mask = polygons.to_mask([[[[-5, -5], [3, -5], [3, 99], [-5, 99]]]], (4, 6))
    np.testing.assert_array_equal(mask, np.tile(np.arange(6) < 3, (4, 1)))
