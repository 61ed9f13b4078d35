"""Small random mask sets."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import strategies as st

from sam_server.masks.crop import CroppedMask
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.record import make_record


def _set_of_masks(masks: list[np.ndarray]) -> MaskSet:
    records, colours, embeddings, contrasts = [], [], [], []
    for mask in masks:
        own = np.random.default_rng(np.packbits(mask).tolist())
        records.append(make_record(CroppedMask.from_mask(mask), own.random(), own.random()))
        colours.append(own.uniform(0, 255, 3))
        embeddings.append(own.normal(size=6))
        contrasts.append(own.uniform(5, 50))
    return MaskSet(
        masks[0].shape if masks else (24, 26),
        tuple(records),
        np.array(colours, np.float32).reshape(-1, 3),
        np.array(embeddings, np.float32).reshape(-1, 6),
        np.array(contrasts, np.float32),
    )


@pytest.fixture(scope="session")
def set_of_masks() -> Callable[[list[np.ndarray]], MaskSet]:
    """Makes a mask set of whole masks, with made-up scores, looks and embeddings that hang on the mask alone."""
    return _set_of_masks


def _ellipse(x: int, y: int, a: int, b: int, hole: bool) -> np.ndarray:
    rows, columns = np.ogrid[:24, :26]
    distance = ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2
    return (distance <= 1) & ~(hole & (distance <= 0.2))


@pytest.fixture(scope="session")
def mask_lists() -> st.SearchStrategy[list[np.ndarray]]:
    """Lists of up to 12 masks of 24 x 26 pixels: nested, overlapping, apart, equal, and now and then empty."""
    side = st.integers(1, 12)
    ellipses = st.builds(_ellipse, st.integers(0, 25), st.integers(0, 23), side, side, st.booleans())
    empty = st.just(np.zeros((24, 26), np.bool_))
    return st.lists(st.one_of(ellipses, ellipses, ellipses, empty), max_size=12)
