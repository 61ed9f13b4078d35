"""A decoder that is cut in two answers as the whole one, and its first part is needed once a picture."""

import numpy as np
import openvino
import pytest

from onnx_sam_wrapper import PICTURE_INPUTS, load_onnx_sam
from sam_server.onnx.engines import OpenVinoEngine
from sam_server.onnx.split import split
from sam_server.prompts import PromptBatch
from sam_server.recent import KEPT_PICTURES
from tests.exported import ExportedModel
from tests.onnx_backend.small_model import SMALL

SPEC = SMALL.spec
PICTURE = (1, SPEC.embedding_channels, SPEC.embedding_size, SPEC.embedding_size)


def picture_inputs(seed: int, mask: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = (
        rng.normal(size=PICTURE),
        rng.normal(0, 5, (1, 1, SPEC.low_res_size, SPEC.low_res_size)),
        [float(mask)],
    )
    return {name: np.array(value, np.float32) for name, value in zip(PICTURE_INPUTS, values, strict=True)}


def prompt_inputs(seed: int, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "point_coords": rng.uniform(0, SMALL.image_size, (count, 3, 2)).astype(np.float32),
        "point_labels": rng.integers(-1, 4, (count, 3)).astype(np.float32),
        "mask_indices": np.array([1, 2, 3]),
        "min_iou": np.array([-np.inf], np.float32),
    }


@pytest.mark.parametrize("mask", [False, True])
def test_two_parts_give_what_the_whole_gives(small_model: ExportedModel, mask: bool) -> None:
    path = small_model.onnx_dir / "sam_small_decoder.onnx"
    whole = OpenVinoEngine(path, "fp32", 1)
    parted = OpenVinoEngine(path, "fp32", 1, begins_with=PICTURE_INPUTS)
    picture = picture_inputs(1, mask)
    begun = parted.begin(picture)
    assert not set(begun) & set(picture)
    for seed, count in enumerate((1, 5, 2)):  # one beginning, any number of prompts
        prompts = prompt_inputs(seed, count)
        for found, expected in zip(parted.run({**begun, **prompts}), whole.run({**picture, **prompts}), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert whole.begin(picture) == picture


def test_the_parts_share_no_work(small_model: ExportedModel) -> None:
    """The second part knows nothing of the picture but what it is given: all that prompts have in common."""
    model = openvino.Core().read_model(small_model.onnx_dir / "sam_small_decoder.onnx")
    inputs, outputs = ({port.any_name for port in ports} for ports in (model.inputs, model.outputs))
    parts = split(model, PICTURE_INPUTS)
    assert {port.any_name for port in parts.first.inputs} == set(PICTURE_INPUTS)
    assert {port.any_name for port in parts.second.inputs} == (inputs - set(PICTURE_INPUTS)) | set(parts.cuts)
    assert {port.any_name for port in parts.second.outputs} == outputs
    cells, inner = SPEC.embedding_size**2, SPEC.embedding_channels // 2
    sizes = sorted(int(np.prod(list(port.partial_shape.to_shape()))) for port in parts.first.outputs)
    # The cells themselves, and what the first layer makes of them: keys, values and queries of half their width.
    assert sizes == [cells * inner] * 3 + [cells * SPEC.embedding_channels]


@pytest.mark.parametrize("backend", ["onnx", "pytorch"])
def test_more_pictures_than_are_kept_get_their_own_masks(small_model: ExportedModel, backend: str) -> None:
    sam = small_model.pytorch() if backend == "pytorch" else load_onnx_sam(small_model.onnx_dir, "small", threads=1)
    count = KEPT_PICTURES + 3
    rng = np.random.default_rng(0)
    sizes = (SMALL.image_size, SMALL.image_size)
    arrays = rng.normal(size=(count, *PICTURE[1:])).astype(np.float32)
    prompts = PromptBatch(np.array([[[40.0, 50.0]]], np.float32), np.array([[1]]), None)

    def fresh(array: np.ndarray) -> np.ndarray:
        """The masks of an embedding that was never seen before."""
        return sam.decode(sam.load_embedding(array, sizes, sizes), prompts, True).logits

    expected = [fresh(array) for array in arrays]
    assert len({logits.tobytes() for logits in expected}) == count
    embeddings = [sam.load_embedding(array, sizes, sizes) for array in arrays]
    for index in rng.integers(count, size=60):
        np.testing.assert_array_equal(sam.decode(embeddings[index], prompts, True).logits, expected[index])
