"""The decoder with half the work gives the plain decoder's numbers."""

import pytest
import torch

from sam_server.network.fast_decoder import FastDecoder
from sam_server.network.sam import Sam, build_sam
from sam_server.network.variants import VARIANTS, SamVariant

# Float32 rounding of a different order of sums, relative to the norm of the logits.
FLOAT32_ERROR = 1e-5
# Bfloat16 keeps 8 bits; what reaches the logits is a little more than one rounding.
BFLOAT16_ERROR = 2e-2

WIDE = SamVariant("wide", width=96, depth=1, heads=3, window=7, global_blocks=(), image_size=256)


@pytest.fixture(scope="module", params=["tiny", "wide"])
def sam(request: pytest.FixtureRequest) -> Sam:
    torch.manual_seed(0)
    return build_sam({"tiny": VARIANTS["tiny"], "wide": WIDE}[request.param]).eval()


def decode_both(sam: Sam, count: int, points: int, mask: bool, multimask: bool, dtype: torch.dtype) -> float:
    """Relative error of the fast logits; the IoU must agree too."""
    generator = torch.Generator().manual_seed(count * 10 + points)
    side, channels = sam.variant.spec.embedding_size, sam.variant.embedding_channels
    image = torch.randn(1, channels, side, side, generator=generator)
    coords = torch.rand(count, points, 2, generator=generator) * sam.variant.image_size
    labels = torch.randint(-1, 4, (count, points), generator=generator)
    mask_input = torch.randn(count, 1, 4 * side, 4 * side, generator=generator) if mask else None
    with torch.inference_mode():
        pe = sam.prompt_encoder.dense_pe()
        sparse, dense = sam.prompt_encoder(coords, labels, mask_input)
        plain, plain_iou = sam.mask_decoder(image, pe, sparse, dense, multimask)
        fast, fast_iou = FastDecoder(sam.mask_decoder, pe, dtype)(image, sparse, dense, multimask)
    assert fast.shape == plain.shape == (count, 3 if multimask else 1, 4 * side, 4 * side)
    assert fast.dtype == fast_iou.dtype == torch.float32
    torch.testing.assert_close(fast_iou, plain_iou, atol=1e-5 if dtype == torch.float32 else 1e-2, rtol=0)
    return float((fast - plain).norm() / plain.norm())


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("mask", [True, False])
# One prompt takes the absorbed way through the first layer, five the shared one.
@pytest.mark.parametrize(("count", "points"), [(1, 2), (5, 1), (5, 6)])
def test_fast_equals_plain(sam: Sam, count: int, points: int, mask: bool, multimask: bool) -> None:
    assert decode_both(sam, count, points, mask, multimask, torch.float32) < FLOAT32_ERROR


def test_bfloat16_stays_near(sam: Sam) -> None:
    assert 0 < decode_both(sam, 4, 3, False, True, torch.bfloat16) < BFLOAT16_ERROR


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_picture_is_projected_once_for_any_prompts(sam: Sam, count: int) -> None:
    side, channels = sam.variant.spec.embedding_size, sam.variant.embedding_channels
    with torch.inference_mode():
        pe = sam.prompt_encoder.dense_pe()
        image = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(1))
        fast = FastDecoder(sam.mask_decoder, pe, torch.float32)
        picture = fast.project(image, sam.prompt_encoder.no_mask())
        for seed in range(2):
            coords = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * sam.variant.image_size
            sparse, dense = sam.prompt_encoder(coords, torch.ones(count, 2, dtype=torch.int64))
            plain, _ = sam.mask_decoder(image, pe, sparse, dense, True)
            found = fast.masks(*fast.attend_projected(picture, sparse), slice(1, 4))
            assert (found - plain).norm() / plain.norm() < FLOAT32_ERROR


def test_gradients_equal_those_of_the_plain_decoder(sam: Sam) -> None:
    side, channels = sam.variant.spec.embedding_size, sam.variant.embedding_channels
    torch.manual_seed(0)
    image = torch.randn(3, channels, side, side)
    sparse, dense = (x.detach() for x in sam.prompt_encoder(torch.rand(3, 2, 2) * 200, torch.ones(3, 2).long()))
    pe = sam.prompt_encoder.dense_pe()
    target = torch.randn(3, 3, 4 * side, 4 * side)

    def gradients(fast: bool) -> dict[str, torch.Tensor]:
        sam.zero_grad()
        if fast:
            masks, iou = FastDecoder(sam.mask_decoder, pe, torch.float32)(image, sparse, dense, True)
        else:
            masks, iou = sam.mask_decoder(image, pe, sparse, dense, True)
        ((masks * target).mean() + iou.square().sum()).backward()
        return {name: p.grad.clone() for name, p in sam.mask_decoder.named_parameters() if p.grad is not None}

    plain, fast = gradients(False), gradients(True)
    whole = max(float(gradient.norm()) for gradient in plain.values())
    for name, gradient in fast.items():
        assert (gradient - plain[name]).norm() <= 1e-4 * whole, name
    # What the rewrite leaves out cannot move: the key biases cancel in the softmax.
    left_out = {name for name in plain if name not in fast and plain[name].norm() > 1e-4 * whole}
    assert not left_out


def test_chosen_masks_are_those_of_all(sam: Sam) -> None:
    """Masks that are left out leave the others as they are; none at all is a valid choice of prompts."""
    side, channels = sam.variant.spec.embedding_size, sam.variant.embedding_channels
    with torch.inference_mode():
        sparse, dense = sam.prompt_encoder(torch.rand(4, 2, 2) * 200, torch.ones(4, 2, dtype=torch.int64))
        fast = FastDecoder(sam.mask_decoder, sam.prompt_encoder.dense_pe(), torch.float32)
        tokens, cells = fast.attend(torch.randn(1, channels, side, side), sparse, dense)
        whole = fast.masks(tokens, cells, slice(0, 4))
        torch.testing.assert_close(fast.masks(tokens[1:3], cells[1:3], slice(1, 4)), whole[1:3, 1:4])
        assert fast.masks(tokens[:0], cells[:0], slice(1, 4)).shape == (0, 3, 4 * side, 4 * side)
