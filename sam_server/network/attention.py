"""Attention with decomposed relative positions, computed in several ways that give the same numbers.

For every pair of cells, score = scale q.k + rel_h[row of k] + rel_w[column of k] (Li et al. 2022, MViTv2). `plain` is
what the reference does, operation by operation, and holds the whole score matrix: 805 MB for a ViT-B at 1024 in
float32. The others avoid that; `auto` takes the one that measured fastest (script/benchmark) for the case at hand.

All take q, k, v (B', H * W, head), rel_h (B', H, W, H) and rel_w (B', H, W, W), and return (B', H * W, head).
"""

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_server.network.linear import linear

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]

# Queries of one slice: 512 x 4096 float32 scores are 8 MB, which stay in the last-level cache.
SLICE = 512

# Grids up to this many cells (SAM's windows have 196) fit the cache with their bias.
SMALL_GRID = 1024

# Small grids, of a window and a head each, that are attended to at once: their biases are 7 MB.
PART_GRIDS = 48


def plain(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """The whole score matrix at once, bit for bit as segment_anything/modeling/image_encoder.py does it."""
    batch, height, width, _ = rel_h.shape
    scores = (q * scale) @ k.transpose(-2, -1)
    scores = scores.view(batch, height, width, height, width)
    scores = (scores + rel_h[..., :, None] + rel_w[..., None, :]).view(batch, height * width, height * width)
    return scores.softmax(dim=-1) @ v


def folded(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """A fused kernel, with the relative positions folded into extra dimensions of queries and keys.

    Exact: [scale q, rel_h, rel_w] . [k, one-hot row, one-hot column] = scale q.k + rel_h[row] + rel_w[column].
    """
    batch, height, width, _ = rel_h.shape
    steps = torch.arange(height * width, device=q.device)
    rows = F.one_hot(steps // width, height).to(q.dtype).expand(batch, -1, -1)
    columns = F.one_hot(steps % width, width).to(q.dtype).expand(batch, -1, -1)
    query = torch.cat([q * scale, rel_h.flatten(1, 2), rel_w.flatten(1, 2)], dim=-1)
    key = torch.cat([k, rows, columns], dim=-1)
    # Fused kernels want values as wide as the keys; the padding is cut off again.
    value = F.pad(v, (0, key.shape[-1] - v.shape[-1]))
    out = F.scaled_dot_product_attention(query[None], key[None], value[None], scale=1.0)[0]
    return out[..., : v.shape[-1]]


def biased(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """A fused kernel with the relative positions as an added bias (B', H * W, H * W): for small grids."""
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(3).flatten(1, 2)
    return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias[None], scale=scale)[0]


def biased_parts(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """`biased`, for some windows and heads at a time, so that their bias stays in cache and is never held whole."""
    parts = [slice(start, start + PART_GRIDS) for start in range(0, len(q), PART_GRIDS)]
    return torch.cat([biased(q[part], k[part], v[part], rel_h[part], rel_w[part], scale) for part in parts])


def sliced(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """A head and a few rows of queries at a time, so that the scores stay in cache."""
    batch, height, width, _ = rel_h.shape
    rows = max(1, SLICE // width)
    # Laid out as the heads are put side by side again, which then needs no copy.
    out = v.new_empty(height * width, batch, v.shape[-1]).transpose(0, 1)
    for head in range(batch):
        scaled, keys, values = (q[head] * scale).contiguous(), k[head].contiguous(), v[head].T.contiguous()
        for row in range(0, height, rows):
            cells = slice(row * width, (row + rows) * width)
            # Half-precision scores are added to and normalised in float32, which is faster there and nearer too.
            scores = linear(scaled[cells], keys).float()  # (rows * W, H * W)
            grid = scores.view(-1, width, height, width)
            grid += rel_h[head, row : row + rows, :, :, None]
            grid += rel_w[head, row : row + rows, :, None, :]
            out[head, cells] = linear(scores.softmax(dim=-1).to(v.dtype), values)
    return out


def unrolled(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """For exported graphs: plain operators that every runtime has, a few rows of queries at a time.

    Runtimes hold the scores of one slice, not of all queries, and their matrix products are faster than what they make
    of one attention operator with wide folded queries (docs/onnx.md).
    """
    batch, height, width, _ = rel_h.shape
    if height * width <= SMALL_GRID:
        return biased(q, k, v, rel_h, rel_w, scale)
    rows = max(1, SLICE // width)
    scaled, keys = q * scale, k.transpose(-2, -1)
    out = []
    for row in range(0, height, rows):
        scores = scaled[:, row * width : (row + rows) * width] @ keys  # (B', rows * W, H * W)
        cells = scores.shape[1]
        grid = scores.view(batch, cells // width, width, height, width)
        grid = grid + rel_h[:, row : row + rows, :, :, None] + rel_w[:, row : row + rows, :, None, :]
        out.append(grid.view(batch, cells, height * width).softmax(dim=-1) @ v)
    return torch.cat(out, dim=1)


def auto(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """The fastest of the above for this device, dtype and grid."""
    if q.device.type != "cpu" or torch.is_grad_enabled():
        return folded(q, k, v, rel_h, rel_w, scale)
    if q.dtype != torch.float32 and _has_tiles():
        return folded(q, k, v, rel_h, rel_w, scale)
    attend = ATTENTIONS["biased_parts" if q.shape[1] <= SMALL_GRID else "sliced"]
    return attend(q, k, v, rel_h, rel_w, scale)


@cache
def _has_tiles() -> bool:
    """Whether the processor multiplies half-precision tiles (AMX), which torch's fused kernel makes use of."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


ATTENTIONS: dict[str, Attend] = {
    "plain": plain,
    "folded": folded,
    "biased": biased,
    "biased_parts": biased_parts,
    "sliced": sliced,
    "unrolled": unrolled,
    "auto": auto,
}


def leave_uncompiled() -> None:
    """Have torch.compile call `sliced` as it stands: unrolled, it would be thousands of kernels.

    Not a decorator of `sliced`: that would import the compiler, for a second and a half of each start, into processes
    that compile nothing.
    """
    ATTENTIONS["sliced"] = torch.compiler.disable(sliced)  # type: ignore[no-untyped-call]
