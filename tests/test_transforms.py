"""The way from the picture's pixels to the model's input and back."""

import numpy as np
import pytest
from skimage import data

from sam_server import transforms
from sam_server.backend import ModelSpec
from sam_server.prompts import make_prompt

SPEC = ModelSpec("tiny", image_size=512, embedding_size=32, embedding_channels=128)


@pytest.mark.parametrize(
    ("original", "expected"),
    [((1080, 1920), (576, 1024)), ((1024, 1024), (1024, 1024)), ((30, 40), (768, 1024)), ((1, 5000), (1, 1024))],
)
def test_input_size_puts_the_longest_side_at_the_model_s(original: tuple[int, int], expected: tuple[int, int]) -> None:
    assert transforms.input_size(original, 1024) == expected


def test_prepare_keeps_a_picture_of_the_right_size() -> None:
    pixels = data.astronaut()
    prepared = transforms.prepare(pixels, 512)
    np.testing.assert_array_equal(prepared.pixels, pixels)
    assert prepared.original_size == prepared.input_size == (512, 512)


def test_padding_is_zero_after_normalisation() -> None:
    prepared = transforms.prepare(data.chelsea(), 512)
    padded = transforms.normalise_and_pad(prepared, SPEC)
    height, width = prepared.input_size
    assert padded.shape == (3, 512, 512)
    assert not padded[:, height:].any()
    assert not padded[:, :, width:].any()
    restored = padded[:, :height, :width].transpose(1, 2, 0) * SPEC.pixel_std + SPEC.pixel_mean
    np.testing.assert_allclose(restored, prepared.pixels, atol=1e-4)


def test_batch_puts_box_corners_last_and_closes_points_with_padding() -> None:
    size = (100, 200)
    alone = transforms.batch_prompts([make_prompt([[10, 20]])], size, (256, 512))
    np.testing.assert_allclose(alone.point_coords, [[[25.6, 51.2], [0, 0]]])
    assert alone.point_labels.tolist() == [[1, -1]]
    both = transforms.batch_prompts([make_prompt([[10, 20]], [0], [0, 0, 200, 100])], size, (256, 512))
    np.testing.assert_allclose(both.point_coords, [[[25.6, 51.2], [0, 0], [512, 256]]])
    assert both.point_labels.tolist() == [[0, 2, 3]]
    assert both.mask_input is None


def test_batch_stacks_mask_inputs() -> None:
    masks = np.random.default_rng(0).normal(size=(3, 128, 128)).astype(np.float32)
    prompts = [make_prompt([[1, 2]], mask_input=mask) for mask in masks]
    batch = transforms.batch_prompts(prompts, (100, 200), (256, 512))
    assert batch.mask_input is not None
    np.testing.assert_array_equal(batch.mask_input[:, 0], masks)
    assert len(batch[1:3]) == 2


def test_to_mask_follows_the_threshold() -> None:
    logits = np.full((128, 128), 1.0, np.float32)
    assert transforms.to_mask(logits, SPEC, (256, 512), (100, 200)).all()
    raised = ModelSpec("tiny", image_size=512, embedding_size=32, mask_threshold=1.5)
    assert not transforms.to_mask(logits, raised, (256, 512), (100, 200)).any()
