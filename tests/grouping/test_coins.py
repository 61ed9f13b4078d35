"""The droplets preset on a photograph: skimage's 24 coins, cut out by classical means."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage import data, filters, segmentation

from sam_server.grouping.group import group_masks
from sam_server.grouping.presets import preset
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set


@pytest.fixture(scope="module")
def coins() -> list[np.ndarray]:
    """Masks of the coins by watershed of the gradient (scikit-image's gallery), and specks of under 100 pixels."""
    picture = data.coins()
    markers = np.where(picture > 150, 2, np.where(picture < 30, 1, 0))
    filled = ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(picture), markers) == 2)
    labels, count = ndimage.label(filled)
    return [labels == label for label in range(1, count + 1)]


def test_coins_are_counted_in_two_size_classes(
    coins: list[np.ndarray], set_of_masks: Callable[[list[np.ndarray]], MaskSet]
) -> None:
    whole = [i for i, mask in enumerate(coins) if mask.sum() > 500]
    assert len(whole) == 24
    # What a model finds besides: the background, faces on coins, two coins as one, a coin twice.
    background = ~np.any(coins, axis=0)
    faces = [ndimage.binary_erosion(coins[i], iterations=6) for i in whole[:5]]
    pair = coins[whole[1]] | coins[whole[2]]
    double = ndimage.binary_dilation(coins[whole[7]])
    found = set_of_masks([*coins, background, *faces, pair, double])
    # A model is as sure of a coin as of its face.
    records = tuple(replace(record, predicted_iou=0.9) for record in found.records)
    measured = measure_set(replace(found, records=records))
    droplets = preset("droplets")
    result = group_masks(measured, droplets.methods, droplets.filters)
    assert len(result.kept) == 24
    # One coin stands twice, and either may stay.
    assert len(set(result.kept) & set(whole)) >= 23
    large, small = result.groupings[0].groups
    assert large.statistics.measures["area"].min > small.statistics.measures["area"].max  # type: ignore[operator]
