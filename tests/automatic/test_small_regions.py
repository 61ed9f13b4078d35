"""Small holes and islands go as they do in the reference, wherever the mask lies."""

import numpy as np
import pytest

from sam_server.automatic.small_regions import remove_small_regions
from sam_server.masks.crop import CroppedMask
from tests.reference import torchvision_functions

torchvision_functions.supply()

from segment_anything.utils import amg  # noqa: E402


def expected(mask: np.ndarray, min_area: int) -> np.ndarray | None:
    filled, holes = amg.remove_small_regions(mask, min_area, "holes")
    cleaned, islands = amg.remove_small_regions(filled, min_area, "islands")
    return cleaned if holes or islands else None


def check(mask: np.ndarray, min_area: int) -> bool:
    found, wanted = remove_small_regions(CroppedMask.from_mask(mask), min_area), expected(mask, min_area)
    if wanted is None:
        assert found is None
        return False
    assert found is not None
    np.testing.assert_array_equal(found.to_mask(), wanted)
    return True


@pytest.mark.parametrize("min_area", [1, 2, 5, 30, 300, 2000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.7, 0.98, 1.0])
def test_speckles_equal_the_reference(min_area: int, share: float) -> None:
    for seed, size in enumerate([(40, 50), (1, 30), (30, 1), (45, 45)]):
        check(np.random.default_rng(seed).random(size) < share, min_area)


def test_rectangles_that_reach_some_edges_of_the_picture_equal_the_reference() -> None:
    """The background beside, above and below a mask is one region or several, some of them small."""
    changed = 0
    for top in (0, 1, 3):
        for left in (0, 1, 3):
            for bottom in (20, 19, 17):
                for right in (24, 23, 21):
                    mask = np.zeros((20, 24), np.bool_)
                    mask[top:bottom, left:right] = True
                    mask[8:10, 8:11] = False
                    changed += sum(check(mask, min_area) for min_area in (3, 7, 25, 61, 150))
    assert changed > 100


def test_the_largest_island_stays() -> None:
    mask = np.zeros((30, 30), np.bool_)
    mask[2:4, 2:4] = mask[10:13, 10:13] = True
    found = remove_small_regions(CroppedMask.from_mask(mask), 50)
    assert found is not None
    assert found.bbox == (10, 10, 3, 3)
