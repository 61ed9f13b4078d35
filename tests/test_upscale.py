"""Upscaling equals torch's two interpolations, which the reference uses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sam_server.transforms import input_size
from sam_server.upscale import above, bilinear, operator, upscale

SHAPES = [(1080, 1920), (517, 333), (40, 30), (1, 900), (900, 1), (1024, 1024), (3000, 2000)]

# Two float32 matrix products in place of two interpolations: a few units in the last place of logits near 20.
ROUNDING = 2e-5


@pytest.mark.parametrize("picture", SHAPES)
@pytest.mark.parametrize(("low_res", "square"), [(256, 1024), (128, 512)])
def test_upscale_equals_torch(picture: tuple[int, int], low_res: int, square: int) -> None:
    logits = np.random.default_rng(0).normal(0, 5, (low_res, low_res)).astype(np.float32)
    height, width = input_size(picture, square)
    step = F.interpolate(torch.from_numpy(logits)[None, None], (square, square), mode="bilinear", align_corners=False)
    step = step[..., :height, :width]
    expected = F.interpolate(step, picture, mode="bilinear", align_corners=False)[0, 0].numpy()
    found = upscale(logits, square, (height, width), picture)
    np.testing.assert_allclose(found, expected, atol=ROUNDING)
    np.testing.assert_array_equal(found > 0, expected > 0)


@pytest.mark.parametrize(("length", "out"), [(256, 1024), (576, 1080), (1024, 1920), (659, 333), (1024, 40), (5, 1)])
def test_weights_equal_torch_bit_for_bit(length: int, out: int) -> None:
    rows = torch.eye(length)[None, :, :, None]
    expected = F.interpolate(rows, (out, 1), mode="bilinear", align_corners=False)[0, :, :, 0].T.numpy()
    np.testing.assert_array_equal(bilinear(length, out), expected)


def test_bands_cover_every_output_once_and_weights_sum_to_one() -> None:
    bands = operator(256, 1024, 683, 1500)
    assert [band.start for band in bands[1:]] == [band.stop for band in bands[:-1]]
    assert (bands[0].start, bands[-1].stop) == (0, 1500)
    for band in bands:
        np.testing.assert_allclose(band.weights.sum(axis=1), 1, atol=1e-6)
        assert band.high - band.low < 256, "a band reads a short span"


@pytest.mark.parametrize("picture", SHAPES)
@pytest.mark.parametrize("kind", ["noise", "blob", "far apart", "padding", "empty", "full"])
def test_above_is_the_thresholded_upscaling(picture: tuple[int, int], kind: str) -> None:
    rows, columns = np.mgrid[:256, :256]
    logits = {
        "noise": np.random.default_rng(0).normal(0, 5, (256, 256)),
        "blob": 20 - np.hypot(rows - 90, columns - 60),  # most bands read nothing above the threshold
        "far apart": np.where((rows % 120 == 7) & (columns % 50 == 3), 4.0, -3.0),
        "padding": np.where(rows + columns > 500, 4.0, -3.0),  # above it only where there is no picture
        "empty": np.full((256, 256), -3.0),
        "full": np.full((256, 256), 3.0),
    }[kind].astype(np.float32)
    filled = input_size(picture, 1024)
    mask = np.random.default_rng(1).random(picture) > 0.5  # whatever was there is written over
    above(logits, 0.0, 1024, filled, mask)
    full = upscale(logits, 1024, filled, picture)
    differs = mask != (full > 0)
    assert np.abs(full[differs]).max(initial=0) < ROUNDING
    assert differs.mean() <= 1e-5
