"""Image encoder, prompt encoder and mask decoder against those of segment-anything 1.0 with the same random weights."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sam_server.network.attention import ATTENTIONS
from sam_server.network.fast_decoder import FastDecoder
from sam_server.network.sam import Sam, load_sam
from sam_server.network.variants import SamVariant
from sam_server.transforms import batch_prompts
from tests.reference.comparing import ONE_PRODUCT, ROUNDING, relative_error
from tests.reference.pictures import POINTINGS, Pointing
from tests.reference.reference_models import modeling, reference_sam

SMALL = SamVariant(
    "small", width=32, depth=3, heads=2, window=3, global_blocks=(1,), image_size=128, embedding_channels=64
)

# 8 x 8 cells: windows of 3 are padded, windows of 4 are not, one of 11 is larger than the picture.
ENCODERS = {
    "padded": SMALL,
    "whole": replace(SMALL, window=4),
    "larger": replace(SMALL, window=11),
    "windows_only": replace(SMALL, global_blocks=()),
    "global_only": replace(SMALL, global_blocks=(0, 1, 2)),
    "patch_8": replace(SMALL, patch_size=8, window=7),
    "wide_mlp": replace(SMALL, mlp_ratio=5.5, heads=4),
    "many_channels": replace(SMALL, embedding_channels=128, width=48, heads=3),
}


def both(variant: SamVariant) -> tuple[modeling.Sam, Sam]:
    reference = reference_sam(variant)
    return reference, load_sam(variant, reference.state_dict()).requires_grad_(False)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", ENCODERS)
def test_image_embedding(name: str, attention: str, batch: int) -> None:
    reference, ours = both(ENCODERS[name])
    ours.image_encoder.set_attention(attention)
    pictures = torch.randn(batch, 3, 128, 128)
    with torch.inference_mode():
        expected, found = reference.image_encoder(pictures), ours.encode(pictures)
    if attention == "plain":
        assert torch.equal(found, expected)
    else:
        assert relative_error(found, expected) <= ROUNDING


def test_every_weight_counts() -> None:
    """A weight that did not change the embedding would not be compared by it."""
    reference, _ = both(SMALL)
    pictures = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        before = reference.image_encoder(pictures)
        for name, parameter in reference.image_encoder.named_parameters():
            kept = parameter.clone()
            # Not the same for all channels, which a normalisation would take away again.
            parameter.add_(torch.linspace(0.1, 0.5, parameter.numel()).view_as(parameter))
            changed = relative_error(reference.image_encoder(pictures), before)
            parameter.copy_(kept)
            assert changed > 10 * ROUNDING, name


@dataclass(frozen=True)
class Asked:
    """N prompts of one kind, as both sides take them."""

    coords: Tensor
    labels: Tensor
    mask_input: Tensor | None
    points: tuple[Tensor, Tensor] | None
    boxes: Tensor | None


def prompts(pointing: Pointing, count: int) -> Asked:
    """`count` prompts of one kind, each shifted a little, on a picture that fills 128 x 96 of the input."""
    generator = np.random.default_rng(0)
    logits = [generator.normal(0, 5, (32, 32)).astype(np.float32) for _ in range(count)]
    asked = [pointing.on((96 - 3 * row, 128 - 4 * row), logits[row]) for row in range(count)]
    batch = batch_prompts(asked, (96, 128), (96, 128))
    points = np.stack([prompt.points for prompt in asked])
    labels = np.stack([prompt.point_labels for prompt in asked])
    has_points, has_box = len(pointing.points) > 0, pointing.box is not None
    return Asked(
        torch.from_numpy(batch.point_coords),
        torch.from_numpy(batch.point_labels),
        None if batch.mask_input is None else torch.from_numpy(batch.mask_input),
        (torch.from_numpy(points).float(), torch.from_numpy(labels)) if has_points else None,
        torch.from_numpy(np.stack([prompt.box for prompt in asked])).float() if has_box else None,
    )


@pytest.fixture(scope="module")
def small() -> tuple[modeling.Sam, Sam]:
    return both(SMALL)


def test_positions_of_the_cells(small: tuple[modeling.Sam, Sam]) -> None:
    reference, ours = small
    assert torch.equal(ours.prompt_encoder.dense_pe(), reference.prompt_encoder.get_dense_pe())


def assert_same(found: torch.Tensor, expected: torch.Tensor, kind: str) -> None:
    """Equal bit for bit; nearly so for prompts of points and a box (see ONE_PRODUCT)."""
    if kind.startswith("points_box"):
        assert relative_error(found, expected) <= ONE_PRODUCT
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", POINTINGS)
def test_prompt_encoder(small: tuple[modeling.Sam, Sam], kind: str, count: int) -> None:
    reference, ours = small
    asked = prompts(POINTINGS[kind], count)
    with torch.inference_mode():
        sparse, dense = ours.prompt_encoder(asked.coords, asked.labels, asked.mask_input)
        expected, expected_dense = reference.prompt_encoder(asked.points, asked.boxes, asked.mask_input)
    assert_same(sparse, expected, kind)
    assert torch.equal(dense.expand_as(expected_dense), expected_dense)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", POINTINGS)
def test_mask_decoder(small: tuple[modeling.Sam, Sam], kind: str, count: int, multimask: bool) -> None:
    reference, ours = small
    asked = prompts(POINTINGS[kind], count)
    image = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        sparse, dense = reference.prompt_encoder(asked.points, asked.boxes, asked.mask_input)
        pe = reference.prompt_encoder.get_dense_pe()
        expected, expected_iou = reference.mask_decoder(image, pe, sparse, dense, multimask)
        plain, plain_iou = ours.decode(image, asked.coords, asked.labels, asked.mask_input, multimask)
        fast_decoder = FastDecoder(ours.mask_decoder, pe, torch.float32)
        fast, fast_iou = fast_decoder(
            image, *ours.prompt_encoder(asked.coords, asked.labels, asked.mask_input), multimask
        )
    assert expected.shape == (count, 3 if multimask else 1, 32, 32)
    for masks, iou in ((plain, plain_iou), (fast, fast_iou)):
        assert relative_error(masks, expected) <= ROUNDING
        torch.testing.assert_close(iou, expected_iou, atol=ROUNDING, rtol=0)
    if count == 1:
        assert_same(plain, expected, kind)
        if kind.startswith("points_box"):
            # One number near 0 has no size of its own to measure its rounding by.
            torch.testing.assert_close(plain_iou, expected_iou, atol=ONE_PRODUCT, rtol=0)
        else:
            assert torch.equal(plain_iou, expected_iou)


def test_prompts_on_pictures_of_their_own(small: tuple[modeling.Sam, Sam]) -> None:
    """N prompts on N pictures in one call equal the reference's answers picture by picture."""
    reference, ours = small
    asked = prompts(POINTINGS["points_box"], 3)
    images = torch.randn(3, 64, 8, 8)
    with torch.inference_mode():
        found, found_iou = ours.decode(images, asked.coords, asked.labels, None, True)
        sparse, dense = reference.prompt_encoder(asked.points, asked.boxes, None)
        for row in range(3):
            one = slice(row, row + 1)
            pe = reference.prompt_encoder.get_dense_pe()
            expected, iou = reference.mask_decoder(images[one], pe, sparse[one], dense[one], True)
            assert relative_error(found[one], expected) <= ROUNDING
            torch.testing.assert_close(found_iou[one], iou, atol=ROUNDING, rtol=0)
