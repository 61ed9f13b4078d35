"""What is computed of a part of a mask equals the same of the whole mask."""

import numpy as np
import pytest

from sam_server.automatic.candidate import Candidate, Frame
from sam_server.backend import ModelSpec
from sam_server.masks.stability import stability_score
from sam_server.transforms import input_size, to_full_size

SPEC = ModelSpec("test", image_size=512, embedding_size=32, mask_threshold=0.0)
LOW = SPEC.low_res_size
PICTURES = [(303, 384), (600, 400), (40, 30), (31, 640), (1080, 1920), (512, 512)]


def blob(seed: int, size: float) -> np.ndarray:
    """(L, L) float32 logits of a wobbly blob of a radius `size`, as a share of the side, with noise around it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:LOW, :LOW] / LOW
    centre = rng.uniform(0.1, 0.6, 2)
    angle = np.arctan2(y - centre[0], x - centre[1])
    radius = size * (1 + 0.3 * np.sin(3 * angle + seed))
    distance = np.hypot(y - centre[0], x - centre[1])
    return ((radius - distance) * 60 - 1.5 + rng.normal(0, 0.4, (LOW, LOW))).astype(np.float32)


def whole(logits: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
    return to_full_size(logits, SPEC.image_size, input_size(picture, SPEC.image_size), picture)


def frame(picture: tuple[int, int], offset: float = 1.0) -> Frame:
    return Frame.of(SPEC, input_size(picture, SPEC.image_size), picture, offset)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("size", [0.003, 0.03, 0.2, 0.9])
def test_mask_box_and_stability_equal_those_of_the_whole_mask(picture: tuple[int, int], size: float) -> None:
    for seed in range(3):
        logits = blob(seed, size)
        full = whole(logits, picture)
        candidate = Candidate.cut(logits, frame(picture))
        mask, score = candidate.finish()
        np.testing.assert_array_equal(mask.to_mask(), full > 0)
        assert score == stability_score(full[None], 0.0, 1.0)[0]
        x, y, width, height = mask.trimmed().bbox
        expected = [x, y, x + width - 1, y + height - 1] if width else [0, 0, 0, 0]
        assert candidate.box().tolist() == expected


@pytest.mark.parametrize("picture", PICTURES)
def test_nothing_above_the_lowered_threshold_lies_outside_of_the_window(picture: tuple[int, int]) -> None:
    for offset in (0.0, 1.0, 2.5):
        for seed, size in enumerate((0.003, 0.03, 0.2)):
            logits = blob(seed, size)
            window = Candidate.cut(logits, frame(picture, offset)).window
            rest = whole(logits, picture)
            rest[window.top : window.bottom, window.left : window.right] = -np.inf
            assert rest.max() <= -offset


def test_a_small_mask_costs_little() -> None:
    candidate = Candidate.cut(blob(0, 0.03) - 1, frame((1080, 1920)))
    window = candidate.window
    assert (window.bottom - window.top) * (window.right - window.left) < 1080 * 1920 / 20
    assert candidate.nbytes < LOW * LOW * 4 / 20


@pytest.mark.parametrize("picture", PICTURES)
def test_a_mask_without_pixels(picture: tuple[int, int]) -> None:
    for level in (-20.0, -0.5):
        logits = np.full((LOW, LOW), level, np.float32)
        candidate = Candidate.cut(logits, frame(picture))
        mask, score = candidate.finish()
        assert candidate.box().tolist() == [0, 0, 0, 0]
        assert (mask.area, score) == (0, 0.0)


def test_a_mask_in_the_padding_only_has_no_pixels() -> None:
    logits = np.full((LOW, LOW), -20, np.float32)
    logits[LOW - 10 :] = 20  # the picture is wide: the lower part of the model input is padding
    mask, score = Candidate.cut(logits, frame((100, 400))).finish()
    assert (mask.area, score) == (0, 0.0)


def test_logits_that_equal_the_lowered_threshold_are_not_counted() -> None:
    logits = np.full((LOW, LOW), -1, np.float32)
    logits[20:40, 20:40] = 5
    for picture in PICTURES:
        full = whole(logits, picture)
        assert Candidate.cut(logits, frame(picture)).finish()[1] == stability_score(full[None], 0.0, 1.0)[0]
