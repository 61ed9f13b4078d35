"""Linear layers that a processor computes with oneDNN.

PyTorch gives float32 products on a processor to MKL, which on AMD's comes to nine tenths of what oneDNN's kernels reach
(`script/benchmark`, docs/performance.md), and copies the bias into the result before it adds the product to it. oneDNN
rounds in another order, so only what need not equal the reference bit for bit goes there.
"""

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# oneDNN computes blocks of this many columns; other widths, such as model/tiny's, take it longer than MKL.
BLOCK = 64


class Linear(nn.Linear):
    """`nn.Linear`, which computes with oneDNN once it was told to (`use_onednn`)."""

    onednn = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return linear(x, self.weight, self.bias) if self.onednn else super().forward(x)

    def computes_with_onednn(self, x: Tensor) -> bool:
        """Whether oneDNN will map x."""
        return self.onednn and _can_take(x, self.weight.shape)


def use_onednn(module: nn.Module) -> None:
    """Let all linear layers within a module compute with oneDNN where they can."""
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.onednn = True


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, by oneDNN where x is on a processor that it is good for and no gradient is wanted.

    Args:
        x: (..., in) float; `weight` (out, in) and `bias` (out,) are of its dtype.

    Returns:
        (..., out), equal to that of `F.linear` up to rounding.
    """
    if not _can_take(x, weight.shape):
        return F.linear(x, weight, bias)
    # Of arrays with gaps oneDNN makes a thousand times the work.
    dense = weight if weight.is_contiguous() or weight.T.is_contiguous() else weight.contiguous()
    # What torch.compile puts in the place of a linear layer on a processor; torch has no other name for it.
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), dense, bias, "none", [], "")
    return out


def products(x: Tensor, y: Tensor) -> Tensor:
    """Matrix products of N pairs, `x @ y^T`, by oneDNN where that is faster.

    Args:
        x: (N, A, C) float; `y` (N, B, C) is of its dtype.

    Returns:
        (N, A, B), equal to `torch.bmm` up to rounding.
    """
    if x.dtype != torch.float32 or not _can_take(x, y.shape[1:]):
        return x @ y.transpose(-2, -1)
    return torch.stack([linear(a, b) for a, b in zip(x, y, strict=True)])


def _can_take(x: Tensor, weight: torch.Size) -> bool:
    """Whether oneDNN shall multiply `x` with a weight of this shape."""
    # A compiled or exported graph makes its own choice, and would take the sizes asked for here for fixed ones.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or any(side % BLOCK for side in weight):
        return False
    # oneDNN takes no empty arrays.
    return x.device.type == "cpu" and x.numel() > 0 and _has_onednn() and x.dtype in _dtypes()


@cache
def _has_onednn() -> bool:
    """Whether this torch has oneDNN, and the processor is one that it was measured on."""
    return platform.machine() in ("x86_64", "AMD64") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _dtypes() -> tuple[torch.dtype, ...]:
    """What oneDNN multiplies on this processor: without AVX-512 it refuses bf16."""
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if has_bf16 else (torch.float32,)
