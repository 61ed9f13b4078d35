"""Windows, relative positions, and batches of pictures in both image encoders."""

from dataclasses import replace

import pytest
import torch

from sam_server.network.image_encoder_vit import RelativeAttention, join_windows, relative_table, split_windows
from sam_server.network.sam import Sam, build_sam
from sam_server.network.variants import SamVariant

VIT = SamVariant("vit", width=32, depth=2, heads=2, window=3, global_blocks=(1,), image_size=128, embedding_channels=64)
CONV_VIT = replace(VIT, name="conv_vit", encoder="conv_vit", patch_size=8, stem=(8, 16))


@pytest.fixture(scope="module", params=[VIT, CONV_VIT], ids=lambda variant: variant.name)
def sam(request: pytest.FixtureRequest) -> Sam:
    torch.manual_seed(0)
    sam = build_sam(request.param).eval().requires_grad_(False)
    for name, parameter in sam.image_encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.normal_(0, 0.1)
    return sam


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (1, 1), (7, 13), (14, 28)])
@pytest.mark.parametrize("window", [1, 3, 7, 14])
def test_windows_join_to_what_was_split(size: tuple[int, int], window: int) -> None:
    height, width = size
    x = torch.arange(2.0 * height * width * 3).reshape(2, height, width, 3)
    windows = split_windows(x, window)
    down, across = -(-height // window), -(-width // window)
    assert windows.shape == (2 * down * across, window, window, 3)
    assert torch.equal(join_windows(windows, window, 2, height, width), x)


def test_windows_hold_neighbours_and_zeros_past_the_edge() -> None:
    x = torch.arange(1.0, 21).reshape(1, 4, 5, 1)
    windows = split_windows(x, 3)[..., 0]
    assert windows[0].tolist() == [[1, 2, 3], [6, 7, 8], [11, 12, 13]]
    assert windows[1].tolist() == [[4, 5, 0], [9, 10, 0], [14, 15, 0]]
    assert windows[2].tolist() == [[16, 17, 18], [0, 0, 0], [0, 0, 0]]
    assert windows[3].tolist() == [[19, 20, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(("height", "width", "window"), [(64, 64, 14), (9, 9, 3), (8, 7, 3), (2, 2, 3), (7, 10, 4)])
def test_projections_of_the_padding_need_no_product(height: int, width: int, window: int) -> None:
    torch.manual_seed(0)
    attention = RelativeAttention(24, 3, window).requires_grad_(False)
    for parameter in attention.parameters():
        parameter.normal_(0, 0.5)
    x = torch.randn(2, height, width, 24)
    with torch.inference_mode():
        padded = join_windows(attention(split_windows(x, window)), window, 2, height, width)
        torch.testing.assert_close(attention.in_windows(x, window), padded, atol=1e-5, rtol=0)


def test_relative_table_goes_by_the_distance() -> None:
    rel_pos = torch.arange(7.0)[:, None]  # distances -3..3
    table = relative_table(rel_pos, 4)[..., 0]
    for query in range(4):
        for key in range(4):
            assert table[query, key] == query - key + 3


def test_pictures_of_a_batch_equal_those_alone(sam: Sam) -> None:
    pictures = torch.randn(3, 3, 128, 128)
    together = sam.encode(pictures)
    side = sam.variant.spec.embedding_size
    assert together.shape == (3, 64, side, side)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], sam.encode(pictures[row : row + 1]), atol=1e-5, rtol=0)


def test_a_picture_changes_its_own_embedding_only(sam: Sam) -> None:
    pictures = torch.randn(2, 3, 128, 128)
    before = sam.encode(pictures)
    pictures[1, :, 40:60, 40:60] += 1
    after = sam.encode(pictures)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1], atol=1e-2)


def test_window_attention_stays_in_its_window() -> None:
    """Without global blocks a far corner knows nothing of the other, but for the neck's 3 x 3 convolution."""
    torch.manual_seed(0)
    sam = build_sam(replace(VIT, window=4, global_blocks=())).eval().requires_grad_(False)
    pictures = torch.randn(1, 3, 128, 128)
    before = sam.encode(pictures)
    pictures[..., :16, :16] += 1
    moved = (sam.encode(pictures) - before).abs().amax(dim=(0, 1)) > 1e-6
    assert moved[:4, :4].all()
    assert not moved[5:].any()
    assert not moved[:, 5:].any()


@pytest.mark.parametrize("changes", [{"stem": (8,)}, {"stem": ()}, {"patch_size": 16}])
def test_conv_vit_has_two_stages_before_its_blocks(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="conv_vit needs two channels in stem and patch_size 8"):
        build_sam(replace(CONV_VIT, **changes))
