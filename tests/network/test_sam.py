"""The whole model: weights that fit or do not, half precision files, and batches of prompts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sam_server.network.sam import Sam, WeightsError, build_sam, load_sam, load_weights
from sam_server.network.variants import SamVariant

VARIANT = SamVariant(
    "small", width=32, depth=2, heads=2, window=3, global_blocks=(1,), image_size=128, embedding_channels=64
)


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    return build_sam(VARIANT).eval().requires_grad_(False)


@pytest.fixture
def weights(sam: Sam) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in sam.state_dict().items()}


def test_load_gives_the_same_model(sam: Sam, weights: dict[str, Tensor]) -> None:
    loaded = load_sam(VARIANT, weights)
    assert not loaded.training
    pictures = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        assert torch.equal(loaded.encode(pictures), sam.encode(pictures))


def test_weights_are_copied(weights: dict[str, Tensor]) -> None:
    loaded = load_sam(VARIANT, weights)
    key = "mask_decoder.iou_token.weight"
    before = loaded.state_dict()[key].clone()
    weights[key].zero_()
    assert torch.equal(loaded.state_dict()[key], before)


def test_half_precision_weights_load_as_float32(weights: dict[str, Tensor]) -> None:
    loaded = load_sam(VARIANT, {key: value.half() for key, value in weights.items()})
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[key].half().float())


def test_keys_that_do_not_fit_are_named_and_nothing_is_copied(sam: Sam, weights: dict[str, Tensor]) -> None:
    wrong = {key: value + 1 for key, value in weights.items()}
    del wrong["image_encoder.pos_embed"]
    wrong["extra.bias"] = torch.ones(1)
    wrong["mask_decoder.iou_token.weight"] = torch.ones(1, 32)
    with pytest.raises(WeightsError) as error:
        load_weights(sam, wrong)
    assert str(error.value) == (
        "weights do not fit model type small: missing: image_encoder.pos_embed; unexpected: extra.bias; "
        "misshapen: mask_decoder.iou_token.weight is (1, 32), expected (1, 64)"
    )
    assert all(torch.equal(value, weights[key]) for key, value in sam.state_dict().items())


def test_many_keys_are_counted(weights: dict[str, Tensor]) -> None:
    few = {key: value for key, value in weights.items() if not key.startswith("mask_decoder")}
    gone = len(weights) - len(few)
    with pytest.raises(
        WeightsError, match=rf"missing: (mask_decoder[\w.]+, ){{4}}mask_decoder[\w.]+ and {gone - 5} more$"
    ):
        load_sam(VARIANT, few)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(weights: dict[str, Tensor], value: float) -> None:
    weights["image_encoder.neck.2.weight"][3, 2, 1, 0] = value
    with pytest.raises(WeightsError, match=r"not finite: image_encoder\.neck\.2\.weight$"):
        load_sam(VARIANT, weights)


def test_unknown_encoder() -> None:
    with pytest.raises(ValueError, match=r"unknown image encoder 'swin'; known are vit, conv_vit"):
        build_sam(replace(VARIANT, encoder="swin"))


def test_decoder_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"attention width 64 is not a multiple of heads 7"):
        build_sam(replace(VARIANT, decoder_heads=7))


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_prompts_of_a_batch_equal_those_alone(sam: Sam, mask: bool, multimask: bool) -> None:
    image = torch.randn(1, 64, 8, 8)
    coords, labels = torch.rand(4, 3, 2) * 128, torch.randint(0, 2, (4, 3))
    masks = torch.randn(4, 1, 32, 32) if mask else None
    with torch.inference_mode():
        together, iou = sam.decode(image, coords, labels, masks, multimask)
        assert together.shape == (4, 3 if multimask else 1, 32, 32)
        for row in range(4):
            one = slice(row, row + 1)
            alone, alone_iou = sam.decode(
                image, coords[one], labels[one], None if masks is None else masks[one], multimask
            )
            torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=0)
            torch.testing.assert_close(iou[one], alone_iou, atol=1e-5, rtol=0)


def test_the_single_mask_is_not_one_of_the_three(sam: Sam) -> None:
    image = torch.randn(1, 64, 8, 8)
    point = torch.full((1, 1, 2), 60.0), torch.ones(1, 1, dtype=torch.int64)
    with torch.inference_mode():
        three, _ = sam.decode(image, *point, None, True)
        single, _ = sam.decode(image, *point, None, False)
    assert all(not torch.allclose(single[0, 0], mask, atol=1e-2) for mask in three[0])
