import torch

from sam_server.network.sam import build_sam
from training.fit_iou_head import collect, fit
from training.scenes import draw


def test_only_the_head_is_fitted_and_its_error_falls(small_variant):
    torch.manual_seed(0)
    sam = build_sam(small_variant)
    before = {key: value.clone() for key, value in sam.state_dict().items()}
    tokens = collect(sam, [draw("coins", 1, 128), draw("grains", 4, 128)], pictures=8, seed=0, quiet=True)
    assert tokens.inputs.shape == (8 * 8 * 2, small_variant.embedding_channels)
    assert tokens.iou.shape == (8 * 8 * 2, 4)
    assert not sam.mask_decoder.iou_prediction_head._forward_pre_hooks
    first, last = fit(sam.mask_decoder.iou_prediction_head, tokens, seed=0)
    assert last < first
    changed = {key for key, value in sam.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("mask_decoder.iou_prediction_head.") for key in changed)
