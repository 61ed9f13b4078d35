"""The mask decoder in fewer and larger matrix products: the same numbers, several times faster to train.

Source of the rewrite: with few tokens T and many cells S, `softmax(q k^T) v` needs no projection of the
cells. Per head h, `q_h k_h^T = (q_h W_k,h) x^T + q_h b_k,h` and `a_h v_h = (a_h x) W_v,h^T + b_v,h`, since the rows of
`a_h` sum to one; all heads then share one product of (heads * T, C) with the cells (S, C). A transposed
convolution of kernel 2 and stride 2 is a linear layer followed by a rearrangement, which is left to the very end.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_server.network.mask_decoder import MASK_TOKENS, MaskDecoder
from sam_server.network.transformer import Attention, TwoWayTransformer


class _Product(torch.autograd.Function):
    """a b^T of (N, M, C) and (N, S, C), whose gradients keep the memory layout of a and b.

    Autograd's own gradient of b would be a transposed view; adding such views up takes longer than all products.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return torch.bmm(outputs[0], b), torch.bmm(outputs[0].transpose(1, 2), a)


def product(a: Tensor, b: Tensor) -> Tensor:
    """(N, M, S) = a b^T, in the dtype of b."""
    out: Tensor = _Product.apply(a.to(b.dtype), b)
    return out


def tokens_to_image(layer: Attention, tokens: Tensor, cells_k: Tensor, cells_v: Tensor) -> Tensor:
    """`layer(tokens, cells_k, cells_v)` for tokens (N, T, C) and cells (N, S, C), without projecting the cells."""
    count, length, width = tokens.shape
    heads = layer.heads
    q = layer.split(layer.q_proj(tokens)) / math.sqrt(layer.q_proj.out_features // heads)  # (N, h, T, d)
    w_k = layer.k_proj.weight.reshape(heads, -1, width)  # (h, d, C)
    w_v = layer.v_proj.weight.reshape(heads, -1, width)
    # The bias of k adds the same to all scores of one query, so softmax drops it.
    folded = (q @ w_k).reshape(count, heads * length, width)  # (N, h * T, C)
    attention = torch.softmax(product(folded, cells_k), dim=-1)  # (N, h * T, S)
    mixed = (attention @ cells_v).reshape(count, heads, length, width)
    out = (mixed @ w_v.transpose(1, 2)).transpose(1, 2).reshape(count, length, -1) + layer.v_proj.bias
    merged: Tensor = layer.out_proj(out)
    return merged


def image_to_tokens(layer: Attention, cells: Tensor, tokens_k: Tensor, tokens_v: Tensor) -> Tensor:
    """`layer(cells, tokens_k, tokens_v)` for cells (N, S, C) and tokens (N, T, C), without projecting the cells."""
    count, length, width = tokens_k.shape
    heads = layer.heads
    depth = layer.q_proj.out_features // heads
    k = layer.split(layer.k_proj(tokens_k)) / math.sqrt(depth)  # (N, h, T, d)
    v = layer.split(layer.v_proj(tokens_v))
    w_q = layer.q_proj.weight.reshape(heads, depth, width)
    b_q = layer.q_proj.bias.reshape(heads, depth, 1)
    w_out = layer.out_proj.weight.reshape(width, heads, depth).permute(1, 2, 0)  # (h, d, C)
    folded = (k @ w_q).reshape(count, heads * length, width)
    # Tokens stay before cells: a softmax over seven neighbours in memory would be slow.
    scores = product(folded, cells)
    scores = scores + (k @ b_q).reshape(count, heads * length, 1).to(scores.dtype)
    attention = torch.softmax(scores.unflatten(1, (heads, length)), dim=2).flatten(1, 2)  # (N, h * T, S)
    mixed = attention.transpose(1, 2) @ (v @ w_out).reshape(count, heads * length, width)
    return mixed + layer.out_proj.bias.to(mixed.dtype)  # a float32 bias would make all of the cells float32


def two_way(transformer: TwoWayTransformer, cells: Tensor, cell_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`transformer` on cells (N, S, C), their encoding (1, S, C) and tokens (N, T, C)."""
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(queries, queries, queries)
        else:
            q = queries + tokens
            queries = queries + layer.self_attn(q, q, queries)
        queries = layer.norm1(queries)
        keys = cells + cell_pe
        queries = layer.norm2(queries + tokens_to_image(layer.cross_attn_token_to_image, queries + tokens, keys, cells))
        queries = layer.norm3(queries + layer.mlp(queries))
        cells = layer.norm4(cells + image_to_tokens(layer.cross_attn_image_to_token, keys, queries + tokens, queries))
    attended = tokens_to_image(transformer.final_attn_token_to_image, queries + tokens, cells + cell_pe, cells)
    return transformer.norm_final_attn(queries + attended), cells


def decode_all(decoder: MaskDecoder, cells: Tensor, cell_pe: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    """`MaskDecoder.predict_all` on cells laid out last: what training runs.

    Args:
        decoder: whose weights compute.
        cells: (N, E*E, C) image embedding plus dense prompt embedding, one row a prompt.
        cell_pe: (1, E*E, C) positional encoding, same dtype.
        sparse: (N, P, C) point embeddings, same dtype.

    Returns:
        Low-res logits (N, 4, 4E, 4E) and predicted IoU (N, 4): the single-mask output first.
    """
    count, area, width = cells.shape
    side = math.isqrt(area)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).to(sparse.dtype)
    tokens = torch.cat([tokens.expand(count, -1, -1), sparse], dim=1)
    tokens, cells = two_way(decoder.transformer, cells, cell_pe, tokens)

    first, norm, _, second, _ = decoder.output_upscaling
    x = F.linear(cells, first.weight.permute(2, 3, 1, 0).flatten(0, 2), first.bias.repeat(4))
    x = x.reshape(count, area, 4, width // 4)  # the 2 x 2 cells that each cell becomes
    x = F.gelu(F.layer_norm(x, (width // 4,), norm.weight, norm.bias, norm.eps))
    x = F.gelu(F.linear(x, second.weight.permute(2, 3, 1, 0).flatten(0, 2), second.bias.repeat(4)))
    kernels = decoder.hyper_kernels(tokens, slice(0, MASK_TOKENS))  # (N, 4, C/8)
    masks = product(kernels, x.reshape(count, area * 16, width // 8))  # (N, 4, E*E*16)
    # (N, mask, y, x, 2y, 2x, 4y, 4x) to (N, mask, y 2y 4y, x 2x 4x)
    masks = masks.reshape(count, -1, side, side, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return masks.reshape(count, -1, 4 * side, 4 * side), decoder.iou_prediction_head(tokens[:, 0])
