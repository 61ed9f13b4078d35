"""Errors that stand beside the speed."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from benchmarks.quality import compare, packed_iou, relative_error
from benchmarks.results import Measurement
from benchmarks.settings import Side


def test_packed_iou_equals_that_of_the_masks():
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 3, 20, 30)) > 0.4 for _ in range(2))
    a[0, 0] = b[0, 0] = False
    b[1, 2] = a[1, 2]
    found = packed_iou(np.packbits(a, axis=-1), np.packbits(b, axis=-1))
    shared, either = (a & b).sum((2, 3)).ravel(), (a | b).sum((2, 3)).ravel()
    assert found[0] == 1
    assert found[5] == 1
    np.testing.assert_allclose(found[1:], shared[1:] / either[1:])


def test_relative_error():
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == 0
    assert relative_error(np.array([3.0, 5.0]), np.array([3.0, 4.0])) == pytest.approx(0.2)


def write_masks(path, masks):
    rows = [{"segmentation": coco.encode(np.asfortranarray(mask.astype(np.uint8)))} for mask in masks]
    for row in rows:
        row["segmentation"]["counts"] = row["segmentation"]["counts"].decode()
    path.with_suffix(".json").write_text(json.dumps(rows))
    return path


def test_automatic_masks_are_matched(tmp_path):
    first, second, third = np.zeros((3, 40, 60), bool)
    first[5:20, 5:20] = second[10:30, 30:50] = third[0:4, 0:4] = True
    almost = second.copy()
    almost[10:14] = False
    reference = write_masks(tmp_path / "reference.npz", [first, second])
    own = write_masks(tmp_path / "own.npz", [third, almost, first])
    found = compare(Measurement("automatic", Side("pytorch", "vit_b"), seconds=(1.0,)), own, reference)
    assert found.masks == 3
    assert found.matched == 0.5
    assert found.mask_iou == pytest.approx((0.9, 0.8))


def test_no_masks_found_at_all(tmp_path):
    mask = np.ones((8, 8), bool)
    reference = write_masks(tmp_path / "reference.npz", [mask])
    own = write_masks(tmp_path / "own.npz", [])
    found = compare(Measurement("automatic", Side("onnx", "vit_b")), own, reference)
    assert (found.masks, found.matched) == (0, 0)
