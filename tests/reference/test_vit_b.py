"""The official dimensions at full size: ViT-B at 1024, in which the reference takes seconds a picture."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pytorch_sam_wrapper import PyTorchSam
from sam_server.backend import ImageEmbedding
from sam_server.network.sam import load_sam
from sam_server.network.variants import VARIANTS
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt
from tests.reference.comparing import ROUNDING, assert_close, assert_equal, relative_error
from tests.reference.pictures import POINTINGS, photographs
from tests.reference.reference_models import SamPredictor, ask, reference_sam

# The reference encodes for many seconds on one core, and for minutes where others use it too.
pytestmark = pytest.mark.timeout(1500)

PIXELS = photographs()["landscape"]


@pytest.fixture(scope="module")
def reference() -> Iterator[SamPredictor]:
    predictor = SamPredictor(reference_sam(VARIANTS["vit_b"]))
    predictor.set_image(PIXELS)
    yield predictor
    predictor.reset_image()
    gc.collect()


@pytest.fixture(scope="module", params=["plain", "fast"])
def ours(request: pytest.FixtureRequest, reference: SamPredictor) -> tuple[Predictor, ImageEmbedding, bool]:
    plain = request.param == "plain"
    sam = load_sam(VARIANTS["vit_b"], reference.model.state_dict())
    predictor = Predictor(PyTorchSam(sam, torch.device("cpu"), "fp32", plain=plain))
    return predictor, predictor.encode(PIXELS), plain


def test_image_embedding(reference: SamPredictor, ours: tuple[Predictor, ImageEmbedding, bool]) -> None:
    _, embedding, plain = ours
    expected = reference.get_image_embedding()
    assert expected.shape == (1, 256, 64, 64)
    assert relative_error(embedding.data, expected) <= ROUNDING
    if plain:
        assert torch.equal(embedding.data, expected)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", POINTINGS)
def test_predict(
    reference: SamPredictor, ours: tuple[Predictor, ImageEmbedding, bool], kind: str, multimask: bool
) -> None:
    predictor, embedding, plain = ours
    logits = np.random.default_rng(0).normal(0, 5, (256, 256)).astype(np.float32)
    prompt = POINTINGS[kind].on(PIXELS.shape[:2], logits)
    (found,) = predictor.predict(embedding, [prompt], multimask)
    (assert_equal if plain else assert_close)(found, ask(reference, prompt, multimask), prompt)


def test_many_prompts(reference: SamPredictor, ours: tuple[Predictor, ImageEmbedding, bool]) -> None:
    predictor, embedding, _ = ours
    prompts = [make_prompt([[40 * index, 25 * index]]) for index in range(1, 7)]
    for prompt, found in zip(prompts, predictor.predict(embedding, prompts), strict=True):
        assert_close(found, ask(reference, prompt, True), prompt)
