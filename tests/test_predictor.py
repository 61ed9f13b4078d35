"""Prompts of every kind, alone and in company, on any backend (here PyTorch with weights drawn by seed)."""

import numpy as np
import pytest
import torch
from skimage import data

from pytorch_sam_wrapper import PyTorchSam
from sam_server.network.sam import build_sam
from sam_server.network.variants import VARIANTS
from sam_server.predictor import MAX_BATCH, Predictor
from sam_server.prompts import Prompt, make_prompt
from sam_server.transforms import batch_prompts


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(PyTorchSam(build_sam(VARIANTS["tiny"]), torch.device("cpu"), "fp32"))


def mixed_prompts() -> list[Prompt]:
    logits = np.random.default_rng(0).normal(size=(320, 320)).astype(np.float32)
    return [
        make_prompt([[100, 50]]),
        make_prompt(box=[10, 20, 300, 200]),
        make_prompt([[30, 40], [50, 60]], [1, 0]),
        make_prompt([[200, 150]]),
        make_prompt([[100, 50]], box=[10, 20, 300, 200]),
        make_prompt([[100, 50]], mask_input=logits),
        make_prompt(mask_input=logits),
    ]


def test_a_prompt_gets_the_same_mask_alone_and_in_company(predictor: Predictor) -> None:
    embedding = predictor.encode(data.chelsea())
    prompts = mixed_prompts()
    together = predictor.predict(embedding, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = predictor.predict(embedding, [prompt])
        np.testing.assert_allclose(found.logits, alone.logits, atol=1e-4)
        np.testing.assert_array_equal(found.masks, alone.masks)
        assert found.masks.shape == (3, 300, 451)


def test_pictures_of_a_batch_equal_those_encoded_alone(predictor: Predictor) -> None:
    pictures = [data.chelsea(), data.astronaut(), data.coffee()[:200]]
    batch = predictor.encode_batch(pictures)
    for pixels, embedding in zip(pictures, batch, strict=True):
        alone = predictor.encode(pixels)
        torch.testing.assert_close(embedding.data, alone.data, atol=1e-5, rtol=1e-5)
        assert embedding.original_size == pixels.shape[:2]
        assert embedding.nbytes == 96 * 80 * 80 * 4


def test_a_long_call_goes_through_in_turns(predictor: Predictor) -> None:
    embedding = predictor.encode(data.chelsea())
    prompts = [make_prompt([[5 + 3 * index, 100]]) for index in range(MAX_BATCH + 3)]
    answers = predictor.predict(embedding, prompts, multimask_output=False)
    assert len(answers) == len(prompts)
    (last,) = predictor.predict(embedding, prompts[-1:], multimask_output=False)
    np.testing.assert_allclose(answers[-1].logits, last.logits, atol=1e-4)


@pytest.mark.parametrize("plain", [False, True])
def test_decode_above_keeps_what_decode_scores_above(plain: bool) -> None:
    torch.manual_seed(0)
    backend = PyTorchSam(build_sam(VARIANTS["tiny"]), torch.device("cpu"), "fp32", plain=plain)
    embedding = Predictor(backend).encode(data.chelsea())
    points = [make_prompt([[5 + 20 * index, 100]]) for index in range(19)]
    batch = batch_prompts(points, embedding.original_size, embedding.input_size)
    every = backend.decode(embedding, batch, multimask_output=True)
    limit = float(np.median(every.iou))
    kept = every.iou > limit
    found = backend.decode_above(embedding, batch, limit)
    np.testing.assert_array_equal(found.prompt, np.nonzero(kept)[0])
    np.testing.assert_allclose(found.iou, every.iou[kept], atol=1e-6)
    np.testing.assert_allclose(found.logits, every.logits[kept], atol=1e-5)
    assert backend.decode_above(embedding, batch, 2.0).logits.shape == (0, 320, 320)
