"""Measures against skimage.measure.regionprops, and features against plain sums."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from scipy.spatial.distance import cdist
from skimage import data as pictures
from skimage.draw import disk, ellipse
from skimage.measure import label, perimeter, regionprops

from sam_server.masks import rle
from sam_server.masks.crop import CroppedMask
from sam_server.masks.features import edge_contrasts, mean_colours, pooled_embeddings
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set
from sam_server.masks.measures import MIN_PART_SHARE, NAMES, hull, measure
from sam_server.masks.record import make_record

PLAIN = ("area", "equivalent_diameter_area", "perimeter", "eccentricity", "axis_major_length", "axis_minor_length")


def measure_one(mask: np.ndarray) -> dict[str, float]:
    measures = measure([CroppedMask.from_mask(mask)])
    return {name: float(measures.column(name)[0]) for name in NAMES}


@given(st.data())
def test_measures_are_those_of_regionprops(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    assume(mask.any())
    (region,) = regionprops(mask.astype(np.uint8))
    found = measure_one(mask)
    for name in PLAIN:
        # The root of a difference that is zero keeps half of the digits.
        assert found[name] == pytest.approx(getattr(region, name), rel=1e-6, abs=1e-6)
    filled = 4 * math.pi * region.area_filled / max(perimeter(region.image_filled), 1e-9) ** 2
    assert found["filled_circularity"] == pytest.approx(min(1, filled), rel=1e-6)
    assert (found["centroid_y"], found["centroid_x"]) == pytest.approx(region.centroid)
    a, b, _, c = region.inertia_tensor.flat
    if math.hypot(a - c, b) > 1e-6:  # else the ellipse is a circle, and has no direction
        difference = abs(found["orientation"] - region.orientation) % math.pi
        assert min(difference, math.pi - difference) < 1e-6


@given(st.data())
def test_hull_is_that_of_regionprops(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    assume(mask.any())
    (region,) = regionprops(mask.astype(np.uint8))
    np.testing.assert_array_equal(rle.decode_crop(hull(CroppedMask.from_mask(mask))).pixels, region.image_convex)
    assert measure_one(mask)["solidity"] == pytest.approx(region.solidity)


@given(st.data())
def test_parts_and_their_distance(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    assume(mask.any())
    regions = sorted(regionprops(label(mask, connectivity=2)), key=lambda region: -region.area)
    parts = [region for region in regions if region is regions[0] or region.area >= MIN_PART_SHARE * mask.sum()]
    found = measure_one(mask)
    assert found["parts"] == len(parts)
    assume(len(regions) == 1 or regions[0].area > regions[1].area)
    farthest = max((cdist(part.coords, parts[0].coords).min() for part in parts[1:]), default=0)
    assert found["parts_distance"] == pytest.approx(farthest, rel=1e-5)


def test_a_disc_is_round() -> None:
    mask = np.zeros((120, 140), np.bool_)
    mask[disk((60, 70), 50)] = True
    found = measure_one(mask)
    assert found["circularity"] == pytest.approx(0.91, abs=0.04)
    assert found["solidity"] > 0.98
    assert found["eccentricity"] < 0.05
    assert found["equivalent_diameter_area"] == pytest.approx(100, rel=0.01)
    assert found["touches_edge"] == 0
    assert (found["parts"], found["parts_distance"]) == (1, 0)


@pytest.mark.parametrize(("row", "column"), [(0, 5), (9, 5), (5, 0), (5, 11)])
def test_touching_the_edge(row: int, column: int) -> None:
    mask = np.zeros((10, 12), np.bool_)
    mask[3:7, 3:9] = True
    assert measure_one(mask)["touches_edge"] == 0
    mask[row, column] = True
    assert measure_one(mask)["touches_edge"] == 0  # a speck
    mask[min(row, 5) : max(row, 5) + 1, min(column, 5) : max(column, 5) + 1] = True
    assert measure_one(mask)["touches_edge"] == 1


def test_specks_are_no_parts() -> None:
    mask = np.zeros((60, 60), np.bool_)
    mask[5:45, 5:45] = True
    mask[50:58, 50:58] = True
    assert measure_one(mask)["parts"] == 1
    mask[46:60, 46:60] = True
    found = measure_one(mask)
    assert found["parts"] == 2
    assert found["parts_distance"] == pytest.approx(math.hypot(2, 2))


def test_empty_mask_and_no_masks() -> None:
    found = measure_one(np.zeros((4, 4), np.bool_))
    assert (found["area"], found["parts"]) == (0, 0)
    assert math.isnan(found["solidity"])
    assert len(measure([])) == 0


def test_real_units() -> None:
    mask = np.zeros((50, 50), np.bool_)
    mask[ellipse(25, 25, 10, 20)] = True
    measures = measure([CroppedMask.from_mask(mask)])
    scaled = measures.scaled(0.5)
    assert scaled.area[0] == measures.area[0] / 4
    for name in ("equivalent_diameter_area", "perimeter", "axis_major_length", "parts_distance", "centroid_x"):
        assert scaled.column(name)[0] == measures.column(name)[0] / 2
    for name in ("circularity", "solidity", "eccentricity", "orientation", "parts", "touches_edge"):
        assert scaled.column(name)[0] == measures.column(name)[0]


def test_mean_colour_and_intensity_of_a_photograph() -> None:
    photo = pictures.chelsea()
    masks = np.zeros((2, *photo.shape[:2]), np.bool_)
    masks[0][disk((100, 200), 60)] = True
    masks[1][200:250, 100:300] = True
    records = [make_record(CroppedMask.from_mask(mask), 0.9, 0.9) for mask in masks]
    colours = mean_colours(photo, records)
    np.testing.assert_allclose(colours, [photo[mask].mean(axis=0) for mask in masks], rtol=1e-5)
    measured = measure_set(MaskSet(photo.shape[:2], tuple(records), colours))
    grey = photo @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(measured.measures.mean_intensity, [grey[mask].mean() for mask in masks], rtol=1e-5)
    assert measured.nbytes > measured.masks.nbytes
    assert np.isnan(measure_set(MaskSet(photo.shape[:2], tuple(records))).measures.mean_intensity).all()


def test_edge_contrast_is_the_deviation_along_the_outline() -> None:
    photo = pictures.chelsea()
    masks = np.zeros((2, *photo.shape[:2]), np.bool_)
    masks[0][disk((100, 200), 30)] = True
    masks[1][:12, 440:] = True  # in a corner: only two sides are an outline
    records = [make_record(CroppedMask.from_mask(mask), 0.9, 0.9) for mask in masks]
    contrasts = edge_contrasts(photo, records)
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float64)
    for mask, width, contrast in zip(masks, (6, 2), contrasts, strict=True):
        square = np.ones((2 * width + 1, 2 * width + 1))
        inner = ~binary_dilation(~mask, square)
        band = binary_dilation(mask, square) & ~inner
        assert contrast == pytest.approx(grey[band].std(), rel=1e-5)
    measures = measure_set(MaskSet(photo.shape[:2], tuple(records), edge_contrasts=contrasts)).measures
    np.testing.assert_array_equal(measures.edge_contrast, contrasts)
    assert np.isnan(measure_set(MaskSet(photo.shape[:2], tuple(records))).measures.edge_contrast).all()


def test_edge_contrast_tells_a_thing_from_bare_ground() -> None:
    rows, columns = np.ogrid[:100, :300]
    level = np.broadcast_to(100 + rows / 50, (100, 300)).copy()  # shaded
    things = [(50, 50), (50, 150), (50, 250)]
    spots = [np.hypot(rows - y, columns - x) <= 20 for y, x in things]
    level[spots[0]] += 30  # brighter
    level[spots[1] & (np.hypot(rows - 50, columns - 150) > 17)] -= 30  # as bright as the ground, with a rim
    picture = np.repeat(level.round().astype(np.uint8)[:, :, None], 3, axis=2)
    whole = np.ones((100, 300), np.bool_)
    masks = [*spots, whole, ~whole]
    contrasts = edge_contrasts(picture, [make_record(CroppedMask.from_mask(mask), 0.9, 0.9) for mask in masks])
    assert contrasts[:2].min() > 10
    assert contrasts[2] < 1
    assert contrasts[3] == 0  # no outline
    assert np.isnan(contrasts[4])


@pytest.mark.parametrize("shape", [(96, 128), (300, 200), (30, 40)])
def test_pooled_embedding_is_the_mean_over_the_mask(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    cells, image_size = 16, 256
    scale = image_size / max(shape)
    input_size = (round(shape[0] * scale), round(shape[1] * scale))
    embedding = rng.normal(size=(8, cells, cells)).astype(np.float32)
    mask = np.zeros(shape, np.bool_)
    mask[disk((shape[0] // 2, shape[1] // 3), 14)] = True
    pooled = pooled_embeddings(embedding, input_size, image_size, [make_record(CroppedMask.from_mask(mask), 1, 1)])
    y, x = np.nonzero(mask)
    cell_y = ((y + 0.5) * input_size[0] / shape[0] * cells / image_size).astype(int)
    cell_x = ((x + 0.5) * input_size[1] / shape[1] * cells / image_size).astype(int)
    np.testing.assert_allclose(pooled[0], embedding[:, cell_y, cell_x].mean(axis=1, dtype=np.float64), atol=1e-5)


def test_pooled_embedding_of_an_empty_mask_is_zero() -> None:
    record = make_record(CroppedMask.from_mask(np.zeros((20, 20), np.bool_)), 1, 1)
    assert not pooled_embeddings(np.ones((4, 8, 8), np.float32), (128, 128), 128, [record]).any()
