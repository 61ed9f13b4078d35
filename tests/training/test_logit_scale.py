import numpy as np
import pytest
import torch

from pytorch_sam_wrapper import PyTorchSam
from sam_server.masks.stability import stability_score
from sam_server.network.sam import build_sam, load_sam
from sam_server.network.variants import SamVariant
from sam_server.predictor import Prediction, Predictor
from sam_server.prompts import make_prompt
from training.logit_scale import GOOD_STABILITY, SCALES, fit_scale, scale_logits


def predictor(variant: SamVariant, weights) -> Predictor:
    return Predictor(PyTorchSam(load_sam(variant, weights), torch.device("cpu"), "fp32"))


def two_answers(predictor: Predictor) -> tuple[Prediction, Prediction]:
    """The answer to a click, and to another one that goes on from it."""
    picture = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    embedding = predictor.encode(picture)
    first = predictor.predict(embedding, [make_prompt([(40, 60)])])[0]
    again = make_prompt([(40, 60), (80, 20)], [1, 0], mask_input=first.logits[1])
    return first, predictor.predict(embedding, [again])[0]


def test_masks_and_what_follows_from_them_stay(small_variant):
    torch.manual_seed(0)
    weights = build_sam(small_variant).state_dict()
    plain = two_answers(predictor(small_variant, weights))
    scaled = two_answers(predictor(small_variant, scale_logits(weights, 8.0)))
    for one, other in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(other.logits, 8 * one.logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(other.iou, one.iou, atol=1e-5)
        assert (one.masks == other.masks).mean() > 0.999
        assert one.masks.any()
        assert not one.masks.all()


def test_scaling_back_gives_every_bit_back(small_variant):
    weights = {key: value.half() for key, value in build_sam(small_variant).state_dict().items()}
    there = {key: value.half() for key, value in scale_logits(weights, 8.0).items()}
    changed = {key for key, value in weights.items() if not torch.equal(value, there[key])}
    assert {key.split(".")[0] for key in changed} == {"mask_decoder", "prompt_encoder"}
    back = scale_logits(there, 1 / 8)
    kernels = [key for key in changed if key.startswith("mask_decoder")]
    assert all(torch.equal(weights[key], back[key]) for key in kernels)


def disc(slope: float, radius: float = 20.0) -> np.ndarray:
    """(64, 64) logits that fall by `slope` a pixel across the edge of a disc."""
    y, x = np.mgrid[:64, :64] - 31.5
    return (slope * (radius - np.hypot(x, y))).astype(np.float32)


@pytest.mark.parametrize(("slope", "expected"), [(2.5, 1.0), (1.2, 2.0), (0.3, 8.0), (1e-4, SCALES[-1])])
def test_the_least_scale_that_makes_good_masks_stable(slope, expected):
    logits = [disc(slope) for _ in range(10)]
    scale = fit_scale(logits)
    assert scale == expected
    if scale < SCALES[-1]:
        assert stability_score(logits[0][None] * scale, 0.0, 1.0)[0] >= GOOD_STABILITY


def test_nothing_to_fit_on_is_said():
    with pytest.raises(ValueError, match="no good mask"):
        fit_scale([])


def test_a_scale_is_positive(small_variant):
    with pytest.raises(ValueError, match="must be above 0"):
        scale_logits(build_sam(small_variant).state_dict(), 0.0)
