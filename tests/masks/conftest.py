"""Masks for property tests."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage


def _blobs(seed: int, height: int, width: int, smooth: float, share: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), smooth)
    return noise <= np.quantile(noise, share)


def masks(max_side: int = 40) -> st.SearchStrategy[np.ndarray]:
    """Masks (H, W) bool: any pixels on small pictures, and smooth blobs with holes and islands on larger ones."""
    small = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
    sides = st.integers(1, max_side)
    blobs = st.builds(_blobs, st.integers(0, 2**32 - 1), sides, sides, st.floats(0.5, 4), st.floats(0.05, 0.95))
    return st.one_of(small, blobs)


@pytest.fixture(scope="session")
def mask_strategy() -> st.SearchStrategy[np.ndarray]:
    return masks()
