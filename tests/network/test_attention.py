"""Every way to compute attention gives the numbers of the plain one."""

import pytest
import torch
from torch import Tensor

from sam_server.network.attention import ATTENTIONS, PART_GRIDS, SLICE, SMALL_GRID

# Largest difference, relative to values near 1: rounding of another order of sums, and of 8 or 11 bits.
ERROR = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def terms(batch: int, height: int, width: int, head: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """q, k, v, rel_h and rel_w of `attention`; relative scores large enough to matter."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    cells = (batch, height * width, head)
    return (
        draw(*cells),
        draw(*cells),
        draw(*cells),
        draw(batch, height, width, height),
        draw(batch, height, width, width),
    )


@pytest.mark.parametrize("dtype", ERROR, ids=str)
@pytest.mark.parametrize(
    ("batch", "height", "width", "head"),
    [
        (1, 1, 1, 4),
        (3, 14, 14, 64),  # ViT-B's windows
        (2, 5, 9, 32),  # not square
        (2, 9, 5, 80),  # ViT-H's heads
        (50, 3, 4, 8),  # windows and heads of more than one part
        (1, 36, 30, 16),  # past SMALL_GRID, in slices that do not divide it
    ],
)
@pytest.mark.parametrize("name", [name for name in ATTENTIONS if name != "plain"])
def test_equals_plain(name: str, batch: int, height: int, width: int, head: int, dtype: torch.dtype) -> None:
    inputs = terms(batch, height, width, head, dtype)
    with torch.inference_mode():
        expected = ATTENTIONS["plain"](*[x.float() for x in inputs], head**-0.5)
        found = ATTENTIONS[name](*inputs, head**-0.5)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=ERROR[dtype], rtol=0)


def test_the_cases_above_reach_every_branch() -> None:
    assert SMALL_GRID < 36 * 30
    assert 36 % (SLICE // 30)
    assert SMALL_GRID >= 14 * 14
    assert PART_GRIDS < 50 < 2 * PART_GRIDS


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if name != "sliced"])
def test_gradients_equal_those_of_plain(name: str) -> None:
    """`sliced` writes into place and serves inference only; `auto` must not choose it where gradients are kept."""
    height, width = 34, 32  # past SMALL_GRID

    def gradients(attention: str) -> tuple[Tensor, ...]:
        inputs = [x.requires_grad_() for x in terms(1, height, width, 8, torch.float32)]
        return torch.autograd.grad(ATTENTIONS[attention](*inputs, 8**-0.5).square().sum(), inputs)

    for found, expected in zip(gradients(name), gradients("plain"), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_relative_positions_matter() -> None:
    q, k, v, rel_h, rel_w = terms(2, 6, 7, 8, torch.float32)
    with_both = ATTENTIONS["auto"](q, k, v, rel_h, rel_w, 1.0)
    assert not torch.allclose(with_both, ATTENTIONS["auto"](q, k, v, 0 * rel_h, rel_w, 1.0), atol=1e-2)
    assert not torch.allclose(with_both, ATTENTIONS["auto"](q, k, v, rel_h, 0 * rel_w, 1.0), atol=1e-2)
