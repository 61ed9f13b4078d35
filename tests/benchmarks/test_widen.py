"""The widened model sees what the narrow one sees."""

from dataclasses import replace

import pytest
import torch

from benchmarks.settings import SMALL
from benchmarks.widen import Space, painted_sam
from sam_server.network.sam import Sam, build_sam
from sam_server.network.variants import VARIANTS

WIDE = replace(SMALL, image_size=128, depth=2, global_blocks=(1,))
# Half as wide as WIDE: every channel has two copies. The other is no divisor of it.
HALF = replace(VARIANTS["tiny"], image_size=64, embedding_channels=128)
UNEVEN = replace(HALF, embedding_channels=96)


def random_sam(variant) -> Sam:
    torch.manual_seed(1)
    sam = build_sam(variant).eval().requires_grad_(False)
    for parameter in sam.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return sam


def relative(value, expected) -> float:
    return ((value - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("narrow", "tolerance"), [(HALF, 1e-5), (UNEVEN, 0.15)], ids=["multiple", "no multiple"])
@torch.no_grad()
def test_same_masks(narrow, tolerance):
    tiny = random_sam(narrow)
    picture = torch.randn(1, 3, 64, 64)
    wide = painted_sam(WIDE, tiny, picture)
    coords = torch.rand(3, 2, 2) * 64
    labels = torch.tensor([[1, -1], [0, 1], [2, 3]])
    masks, iou = tiny.decode(tiny.encode(picture), coords, labels, None, True)
    # Another picture, for the painted encoder answers every one with the same embedding; points at the same place.
    embedding = wide.encode(torch.randn(1, 3, 128, 128))
    wide_masks, wide_iou = wide.decode(embedding, 2 * coords + 0.5, labels, None, True)
    assert relative(wide_masks, masks) < tolerance
    assert relative(wide_iou, iou) < tolerance


def test_copies_stay_in_their_head():
    space = Space.spread(narrow=48, wide=128)
    assert torch.equal(space.source // 6, torch.arange(128) // 16)  # 8 heads of 6, and of 16
    assert torch.equal(space.copies, torch.bincount(space.source)[space.source].float())
    assert set(space.copies.tolist()) == {2, 3}
