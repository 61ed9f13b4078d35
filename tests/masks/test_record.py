"""Records, PNG, crops, mask sets and stability."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sam_server.masks import png, polygons, rle
from sam_server.masks.crop import CroppedMask
from sam_server.masks.mask_set import MAX_MASKS, MaskSet, MaskSetError
from sam_server.masks.record import MASK_FORMATS, MaskRecord, make_record
from sam_server.masks.stability import score_from_counts, stability_counts, stability_score


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((40, 60), np.bool_)
    mask[5:25, 10:40] = True
    mask[10:15, 15:20] = False
    mask[30:33, 50:60] = True
    return mask


@pytest.fixture
def record(mask: np.ndarray) -> MaskRecord:
    return make_record(CroppedMask.from_mask(mask), 0.91, 0.97, ((20.5, 8.0),))


def test_fields_of_sa_1b(record: MaskRecord, mask: np.ndarray) -> None:
    fields = record.to_dict()
    assert list(fields) == [
        *("segmentation", "bbox", "area", "predicted_iou", "stability_score", "crop_box", "point_coords")
    ]
    assert fields["bbox"] == [10, 5, 50, 28]
    assert fields["area"] == mask.sum()
    assert fields["crop_box"] == [0, 0, 60, 40]
    assert fields["point_coords"] == [[20.5, 8.0]]
    assert record.size == mask.shape


@pytest.mark.parametrize("mask_format", MASK_FORMATS)
def test_formats_are_json_and_give_the_mask_back(record: MaskRecord, mask: np.ndarray, mask_format: str) -> None:
    fields = json.loads(json.dumps(record.to_dict(mask_format)))
    segmentation = fields.get("segmentation")
    if mask_format == "none":
        assert segmentation is None
        return
    readers = {
        "rle": lambda: rle.decode(rle.Rle.from_dict(segmentation)),
        "polygon": lambda: polygons.to_mask(segmentation["coordinates"], mask.shape),
        "png": lambda: np.asarray(Image.open(io.BytesIO(base64.b64decode(segmentation)))),
    }
    np.testing.assert_array_equal(readers[mask_format](), mask)


def test_unknown_format_names_the_options(record: MaskRecord) -> None:
    with pytest.raises(ValueError, match="rle, polygon, png, none"):
        record.to_dict("svg")  # type: ignore[arg-type]


def test_record_of_an_empty_mask() -> None:
    record = make_record(CroppedMask.from_mask(np.zeros((3, 4), np.bool_)), 0.1, 0.0)
    assert (record.area, record.bbox) == (0, (0, 0, 0, 0))
    assert record.to_dict("polygon")["segmentation"]["coordinates"] == []
    assert not record.to_mask().any()


def test_png_is_one_bit(mask: np.ndarray) -> None:
    image = Image.open(io.BytesIO(png.encode(mask)))
    assert image.mode == "1"
    np.testing.assert_array_equal(np.asarray(image), mask)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png.encode(mask.T)))), mask.T)


@given(st.data())
def test_crop_round_trip(mask_strategy: st.SearchStrategy[np.ndarray], data: st.DataObject) -> None:
    mask = data.draw(mask_strategy)
    crop = CroppedMask.from_mask(mask)
    np.testing.assert_array_equal(crop.to_mask(), mask)
    if mask.any():
        assert crop.pixels[0].any()
        assert crop.pixels[-1].any()
        assert crop.pixels[:, 0].any()
        assert crop.pixels[:, -1].any()
        np.testing.assert_array_equal(mask[crop.slices], crop.pixels)


def test_mask_set_checks_what_it_holds(record: MaskRecord) -> None:
    colours = np.zeros((1, 3), np.float32)
    kept = MaskSet((40, 60), (record,), colours, np.zeros((1, 8), np.float32))
    assert len(kept) == 1
    assert kept.nbytes > colours.nbytes + len(record.segmentation.counts)
    with pytest.raises(MaskSetError, match="60 x 41"):
        MaskSet((41, 60), (record,))
    with pytest.raises(MaskSetError, match="colours"):
        MaskSet((40, 60), (record,), np.zeros((2, 3), np.float32))
    with pytest.raises(MaskSetError, match="embeddings"):
        MaskSet((40, 60), (record,), None, np.zeros((2, 3), np.float32))
    with pytest.raises(MaskSetError, match="at most"):
        MaskSet((40, 60), (record,) * (MAX_MASKS + 1))


def test_stability_is_the_iou_of_two_thresholds() -> None:
    logits = np.random.default_rng(3).normal(size=(4, 30, 50)).astype(np.float32) * 3
    for threshold, offset in ((0.0, 1.0), (0.5, 0.25)):
        raised, lowered = logits > threshold + offset, logits > threshold - offset
        iou = (raised & lowered).sum((1, 2)) / (raised | lowered).sum((1, 2))
        np.testing.assert_allclose(stability_score(logits, threshold, offset), iou, rtol=1e-6)


def test_stability_counts_add_up_over_bands() -> None:
    logits = np.random.default_rng(4).normal(size=(2, 30, 50)).astype(np.float32)
    bands = [stability_counts(logits[:, rows], 0.0, 0.5) for rows in (slice(0, 11), slice(11, 30))]
    inner, outer = (sum(counts) for counts in zip(*bands, strict=True))
    np.testing.assert_array_equal(score_from_counts(inner, outer), stability_score(logits, 0.0, 0.5))


def test_stability_of_an_empty_mask_is_zero() -> None:
    np.testing.assert_array_equal(stability_score(np.full((1, 4, 4), -9, np.float32), 0.0, 1.0), [0.0])
