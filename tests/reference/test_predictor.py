"""`SamPredictor.predict` of segment-anything 1.0 and our Predictor answer alike on photographs of several shapes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pytorch_sam_wrapper import PyTorchSam
from sam_server.checkpoints.load import load_state_dict
from sam_server.network.sam import load_sam
from sam_server.network.variants import SamVariant
from sam_server.predictor import Prediction, Predictor
from sam_server.prompts import Prompt, make_prompt
from tests.reference.comparing import ROUNDING_TRAINED, assert_close, assert_equal
from tests.reference.pictures import POINTINGS, photographs
from tests.reference.reference_models import Answer, SamPredictor, ask, reference_sam

PICTURES = photographs()

# Small dimensions: the coordinates, sizes and masks of the official variants for a hundredth of their work.
SMALL = SamVariant(
    "small",
    width=32,
    depth=2,
    heads=2,
    window=7,
    global_blocks=(1,),
    patch_size=32,
    embedding_channels=64,
    decoder_mlp=128,
)

Same = Callable[[Prediction, Answer, Prompt], None]


def predictors(
    variant: SamVariant, plain: bool, weights: Mapping[str, torch.Tensor] | None = None
) -> tuple[SamPredictor, Predictor]:
    """The reference and ours with the same weights, which are random if None."""
    reference = reference_sam(variant, weights)
    sam = load_sam(variant, reference.state_dict())
    return SamPredictor(reference), Predictor(PyTorchSam(sam, torch.device("cpu"), "fp32", plain=plain))


@pytest.fixture(scope="module", params=["plain", "fast"])
def small(request: pytest.FixtureRequest) -> tuple[SamPredictor, Predictor, Same]:
    plain = request.param == "plain"
    return *predictors(SMALL, plain), assert_equal if plain else assert_close


@pytest.mark.parametrize("name", PICTURES)
def test_every_kind_of_prompt(small: tuple[SamPredictor, Predictor, Same], name: str) -> None:
    reference, ours, assert_same = small
    pairs = 0
    for found, expected, prompt in answers(reference, ours, PICTURES[name]):
        assert_same(found, expected, prompt)
        pairs += 1
    assert pairs == 2 * len(POINTINGS)


@pytest.mark.parametrize("name", PICTURES)
def test_clicks_that_continue_from_the_logits_before(small: tuple[SamPredictor, Predictor, Same], name: str) -> None:
    reference, ours, assert_same = small
    pixels = PICTURES[name]
    height, width = pixels.shape[:2]
    clicks = np.array([[0.5, 0.5], [0.3, 0.6], [0.8, 0.2], [0.6, 0.7]]) * [width, height]
    labels = np.array([1, 1, 0, 1])
    reference.set_image(pixels)
    embedding = ours.encode(pixels)
    # Each goes on from its own logits, so that a difference would grow.
    own: np.ndarray | None = None
    theirs: np.ndarray | None = None
    for count in range(1, len(clicks) + 1):
        multimask = count == 1
        expected = ask(reference, make_prompt(clicks[:count], labels[:count], mask_input=theirs), multimask)
        prompt = make_prompt(clicks[:count], labels[:count], mask_input=own)
        (found,) = ours.predict(embedding, [prompt], multimask)
        assert_same(found, expected, prompt)
        best = int(expected.iou.argmax())
        assert best == int(found.iou.argmax())
        own, theirs = found.logits[best], expected.low_res[best]


def test_prompts_differ_in_their_answers(small: tuple[SamPredictor, Predictor, Same]) -> None:
    """Random weights that ignored the prompt would make the comparisons above say little."""
    reference, ours, _ = small
    found = [found.logits for found, _, _ in answers(reference, ours, PICTURES["odd"]) if len(found.logits) == 3]
    for index, logits in enumerate(found):
        for other in found[:index]:
            assert np.abs(logits - other).max() > 1e-2 * np.abs(logits).max()


def test_many_prompts_in_one_call(small: tuple[SamPredictor, Predictor, Same]) -> None:
    """Prompts decoded together equal those that the reference decodes one by one."""
    reference, ours, _ = small
    pixels = PICTURES["landscape"]
    reference.set_image(pixels)
    points = [make_prompt([[30 * index, 20 * index]]) for index in range(1, 11)]
    boxes = [make_prompt(box=[10, 20, 60 + 30 * index, 80 + 20 * index]) for index in range(10)]
    prompts = [prompt for pair in zip(points, boxes, strict=True) for prompt in pair]
    found = ours.predict(ours.encode(pixels), prompts)
    for prediction, prompt in zip(found, prompts, strict=True):
        assert_close(prediction, ask(reference, prompt, True), prompt)


def test_other_threshold_mean_and_spread() -> None:
    """The model's own mask threshold and pixel statistics are used, not those of the official checkpoints."""
    variant = replace(SMALL, mask_threshold=0.1, pixel_mean=(100.0, 110.0, 120.0), pixel_std=(40.0, 50.0, 60.0))
    reference, ours = predictors(variant, plain=True)
    for found, expected, prompt in answers(reference, ours, PICTURES["odd"]):
        assert_equal(found, expected, prompt)
        assert (found.masks != (expected.logits > 0)).any()


@pytest.mark.parametrize("plain", [True, False])
def test_trained_weights(plain: bool) -> None:
    """The model that ships with the project, in the reference's own prompt encoder and mask decoder."""
    checkpoint = Path("model/tiny/sam_tiny.safetensors")
    variant = SamVariant.from_json(checkpoint.with_name("config.json").read_text())
    reference, ours = predictors(variant, plain, load_state_dict(checkpoint))
    for name in ("landscape", "grey"):
        for found, expected, prompt in answers(reference, ours, PICTURES[name]):
            if plain:
                assert_equal(found, expected, prompt)
            else:
                assert_close(found, expected, prompt, ROUNDING_TRAINED)


def answers(
    reference: SamPredictor, ours: Predictor, pixels: np.ndarray
) -> Iterator[tuple[Prediction, Answer, Prompt]]:
    """Our answer and the reference's to every kind of prompt, with three masks and with one, and the prompt."""
    height, width = pixels.shape[:2]
    reference.set_image(pixels)
    embedding = ours.encode(pixels)
    first = ask(reference, make_prompt([[width / 2, height / 2]]), True)
    logits = first.low_res[first.iou.argmax()]
    for pointing in POINTINGS.values():
        prompt = pointing.on((height, width), logits)
        for multimask in (True, False):
            (found,) = ours.predict(embedding, [prompt], multimask)
            yield found, ask(reference, prompt, multimask), prompt
