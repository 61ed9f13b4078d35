"""RLE against pycocotools and against the masks themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from sam_server.masks import rle
from sam_server.masks.crop import CroppedMask
from sam_server.masks.rle import Rle, RleError

# pycocotools 2.0.11 hands out arrays in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@given(st.data())
def test_round_trip_and_agreement_with_pycocotools(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    encoded = rle.encode(mask)
    assert encoded.to_coco() == coco.encode(np.asfortranarray(mask, np.uint8))
    np.testing.assert_array_equal(coco.decode(encoded.to_coco()), mask)
    np.testing.assert_array_equal(rle.decode(encoded), mask)
    assert rle.decode(encoded).flags.c_contiguous
    assert encoded.area == mask.sum()


@given(st.data())
def test_crops_give_the_same_rle(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    crop = CroppedMask.from_mask(mask)
    encoded = rle.encode_crop(crop)
    assert encoded == rle.encode(mask)
    assert encoded.bbox == crop.bbox
    again = rle.decode_crop(encoded)
    assert again.bbox == crop.bbox
    np.testing.assert_array_equal(again.pixels, crop.pixels)
    np.testing.assert_array_equal(again.to_mask(), mask)
    assert again.area == mask.sum()


@given(st.data())
def test_a_crop_with_empty_margins_gives_the_same_rle(
    mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject
):
    mask = data.draw(mask_strategy)
    top, left = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    whole = np.pad(mask, ((top, 2), (left, 3)))
    loose = CroppedMask((whole.shape[0], whole.shape[1]), left, top, mask)
    assert rle.encode_crop(loose) == rle.encode(whole)


@given(st.data())
def test_json_form(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    encoded = rle.encode(mask)
    assert Rle.from_dict(encoded.to_dict()) == encoded
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    assert Rle.from_dict({"size": list(mask.shape), "counts": counts}) == encoded


@given(st.data())
def test_runs_are_the_foreground(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject):
    mask = data.draw(mask_strategy)
    filled = np.zeros(mask.size, np.bool_)
    for start, end in zip(*rle.runs(rle.encode(mask)), strict=True):
        filled[start:end] = True
    np.testing.assert_array_equal(filled.reshape(mask.T.shape).T, mask)


def test_batch_encodes_like_one_by_one() -> None:
    masks = np.random.default_rng(0).random((5, 17, 23)) > 0.6
    assert rle.encode_batch(masks) == [rle.encode(mask) for mask in masks]
    assert rle.encode_batch(masks[:0]) == []


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"size": [4, 4]},
        {"size": [4], "counts": [16]},
        {"size": [4, -4], "counts": [16]},
        {"size": [4, True], "counts": [4]},
        {"size": [4, 4], "counts": [15]},
        {"size": [4, 4], "counts": [20, -4]},
        {"size": [4, 4], "counts": [16.0]},
        {"size": [4, 4], "counts": []},
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": "  "},
        {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": "ooooooooooooooooo0"},
        {"size": [4, 4], "counts": "o"},
        {"size": [4, 4], "counts": "1"},
        {"size": [4, 4], "counts": 16},
        {"size": "44", "counts": [16]},
    ],
)
def test_bad_rle_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(RleError):
        Rle.from_dict(bad)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_any_text_is_refused_or_decodes(text: str) -> None:
    try:
        encoded = Rle.from_dict({"size": [7, 5], "counts": text})
    except RleError:
        return
    assert rle.decode(encoded).shape == (7, 5)
    assert rle.decode(encoded).sum() == encoded.area


def test_a_small_mask_of_a_large_picture_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CroppedMask, "to_mask", None)
    crop = CroppedMask((30_000, 40_000), 39_000, 29_990, np.ones((10, 1000), np.bool_))
    encoded = rle.encode_crop(crop)
    assert encoded.area == 10_000
    assert rle.decode_crop(encoded).bbox == (39_000, 29_990, 1000, 10)
