"""The mask decoder with less work: the same numbers as `MaskDecoder` up to rounding, with about half the work.

A prompt has about seven tokens against E * E (4096) cells of the image, so everything that is done once a cell and
prompt is moved to the tokens, or done once a picture, or not done:

- Tokens to image: score = q.(W_k x + b_k) = (W_k^T q).x + q.b_k, and q.b_k is the same for all cells and cancels in
  the softmax; sum a (W_v x + b_v) = W_v (sum a x) + b_v.
- Image to tokens: score = (W_q x + b_q).k = x.(W_q^T k) + b_q.k; W_o (sum a v) = sum a (W_o v).
- Image and positional encoding are added once a layer, for both of its attentions.
- In the first layer all prompts see one picture: its projections are made once (`project`), for as many calls as one
  likes.
- A 2 x 2 transposed convolution with stride 2 is a matrix product per cell; normalisation and GELU do not care for
  the order of cells, so pixels are put in order only once, in the finished masks.
- Masks that nobody asked for are not made.

Tokens are computed in float32; the image side in `image_dtype`.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_server.network.layers import LayerNorm2d
from sam_server.network.linear import linear, products
from sam_server.network.mask_decoder import MaskDecoder
from sam_server.network.transformer import Attention, TwoWayBlock

# With fewer prompts than this, projecting the shared picture costs more than absorbing the projection.
SHARED_FROM = 3


@dataclass(frozen=True)
class ProjectedPicture:
    """What the first layer makes of a picture, whatever the prompt; all in the decoder's `image_dtype`.

    Attributes:
        cells: (1, I, C) embedding and dense prompt.
        keys, queries: (heads, head, I), of the cells with the positional encoding.
        values: (heads, I, head).
    """

    cells: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


class FastAttention(nn.Module):
    """One cross-attention between tokens (N, T, C) and the image (N or 1, I, C), in either direction."""

    w_image: Tensor
    w_value: Tensor

    def __init__(self, attention: Attention, to_image: bool, image_dtype: torch.dtype) -> None:
        super().__init__()
        self.attention = attention
        self.heads = attention.heads
        self.dtype = image_dtype
        # The image is the key where tokens attend to it, and the query where it attends to tokens.
        self.image_side = image_side = attention.k_proj if to_image else attention.q_proj
        value_side = attention.v_proj if to_image else attention.out_proj
        inner, width = image_side.weight.shape
        head = inner // self.heads
        self.scale = 1 / math.sqrt(head)
        self.register_buffer("w_image", image_side.weight.view(self.heads, head, width))
        by_head = value_side.weight if to_image else value_side.weight.T
        self.register_buffer("w_value", by_head.reshape(self.heads, head, width))

    def _split(self, x: Tensor) -> Tensor:
        return self.attention.split(x)

    def project(self, placed: Tensor) -> Tensor:
        """The image's side (heads, head, I) of the scores of one picture (1, I, C) with positional encoding."""
        projected = self._split(linear(placed, self.image_side.weight.to(self.dtype)))
        return projected.transpose(-2, -1)[0].contiguous()

    def project_values(self, image: Tensor) -> Tensor:
        """Values (heads, I, head) of one picture (1, I, C), for tokens that attend to it."""
        return self._split(linear(image, self.attention.v_proj.weight.to(self.dtype)))[0].contiguous()

    def tokens_to_image(
        self, queries: Tensor, image: Tensor, placed: Tensor, projected: ProjectedPicture | None = None
    ) -> Tensor:
        """Tokens (N, T, C) attend to the image, which is `placed` with positional encoding; returns (N, T, C)."""
        attention = self.attention
        q = self._split(attention.q_proj(queries)) * self.scale  # (N, heads, T, head)
        if projected is not None:
            weights = (_join(q.to(self.dtype)) @ projected.keys).softmax(dim=-1)  # (heads, N * T, I)
            pooled = _part(weights @ projected.values, q.shape[0]).float()  # (N, heads, T, head)
        else:
            weights = self._scores(q, placed).softmax(dim=-1)
            image = _for_each(image, queries.shape[0])
            if torch.compiler.is_exporting():  # OpenVINO's threads share heads, and would not share one product
                by_head = weights @ image[:, None]  # (N, heads, T, C)
            else:
                by_head = _by_head(products(weights.flatten(1, 2), image.transpose(-2, -1)), self.heads)
            pooled = by_head.float() @ self.w_value.transpose(-2, -1)
        merged = pooled.transpose(1, 2).flatten(2) + attention.v_proj.bias
        out: Tensor = attention.out_proj(merged)
        return out

    def image_to_tokens(
        self,
        image: Tensor,
        placed: Tensor,
        keys: Tensor,
        values: Tensor,
        projected: ProjectedPicture | None = None,
    ) -> Tensor:
        """The image, `placed` with positional encoding, attends to tokens (N, T, C).

        Returns:
            The image (N, I, C) with what it found added.
        """
        attention = self.attention
        k = self._split(attention.k_proj(keys)) * self.scale  # (N, heads, T, head)
        bias = (k * self._split(attention.q_proj.bias[None, None])).sum(-1, keepdim=True)  # (N, heads, T, 1)
        if projected is not None:
            scores = _part(_join(k.to(self.dtype)) @ projected.queries, k.shape[0])
        else:
            scores = self._scores(k, placed)
        weights = (scores + bias.to(self.dtype)).softmax(dim=2)  # (N, heads, T, I)
        v = self._split(attention.v_proj(values)) @ self.w_value  # (N, heads, T, C)
        # The weights of each head sum to one, so a share of the bias in every value adds up to the bias.
        v = v + attention.out_proj.bias / self.heads
        # One product that starts from the image: no pass over it for the sum.
        image = _for_each(image, keys.shape[0])
        return torch.baddbmm(image, weights.flatten(1, 2).transpose(-2, -1), v.flatten(1, 2).to(self.dtype))

    def _scores(self, tokens: Tensor, placed: Tensor) -> Tensor:
        """Scores (N, heads, T, I) of projected tokens (N, heads, T, head) with every cell."""
        absorbed = (tokens @ self.w_image).flatten(1, 2).to(self.dtype)  # (N, heads * T, C)
        return _by_head(products(absorbed, _for_each(placed, tokens.shape[0])), self.heads)


class FastBlock(nn.Module):
    """`TwoWayBlock` with its two cross-attentions rewritten."""

    def __init__(self, block: TwoWayBlock, image_dtype: torch.dtype) -> None:
        super().__init__()
        self.block = block
        self.to_image = FastAttention(block.cross_attn_token_to_image, True, image_dtype)
        self.to_tokens = FastAttention(block.cross_attn_image_to_token, False, image_dtype)

    def project(self, cells: Tensor, image_pe: Tensor) -> ProjectedPicture:
        """Make once what all prompts share of one picture (1, I, C)."""
        placed = cells + image_pe
        keys, values = self.to_image.project(placed), self.to_image.project_values(cells)
        return ProjectedPicture(cells, keys, values, self.to_tokens.project(placed))

    def forward(
        self,
        queries: Tensor,
        image: Tensor,
        query_pe: Tensor,
        image_pe: Tensor,
        projected: ProjectedPicture | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update tokens (N, T, C) and image (N or 1, I, C); see `TwoWayBlock.forward`."""
        block = self.block
        placed = image if projected is not None else image + image_pe  # what was projected holds the sum
        queries = block.attend_tokens(queries, query_pe)
        queries = block.norm2(queries + self.to_image.tokens_to_image(queries + query_pe, image, placed, projected))
        queries = block.norm3(queries + block.mlp(queries))
        image = self.to_tokens.image_to_tokens(image, placed, queries + query_pe, queries, projected)
        norm = block.norm4
        weight, bias = norm.weight.to(image.dtype), norm.bias.to(image.dtype)
        return queries, F.layer_norm(image, norm.normalized_shape, weight, bias, norm.eps)


class FastDecoder(nn.Module):
    """`MaskDecoder`, rewritten. Gradients reach the decoder's weights through a module made after they last changed.

    Args:
        decoder: weights, shared with this module.
        image_pe: (1, C, E, E) from `PromptEncoder.dense_pe`.
        image_dtype: float32, or a half type for everything of the image's size.
    """

    image_pe: Tensor

    def __init__(self, decoder: MaskDecoder, image_pe: Tensor, image_dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder = decoder
        self.dtype = image_dtype
        pe = image_pe.flatten(2).transpose(1, 2).contiguous()  # (1, I, C)
        self.register_buffer("image_pe", pe.to(image_dtype), persistent=False)
        transformer = decoder.transformer
        self.blocks = nn.ModuleList(FastBlock(cast(TwoWayBlock, block), image_dtype) for block in transformer.layers)
        self.final = FastAttention(transformer.final_attn_token_to_image, True, image_dtype)

    def forward(self, image: Tensor, sparse: Tensor, dense: Tensor, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Decode N prompts; shapes as in `MaskDecoder.forward`, both results in float32."""
        tokens, cells = self.attend(image, sparse, dense)
        chosen = self.decoder.chosen(multimask_output)
        return self.masks(tokens, cells, chosen), self.iou(tokens, chosen)

    def project(self, image: Tensor, dense: Tensor) -> ProjectedPicture:
        """What `attend_projected` needs of a picture.

        Args:
            image: (1, C, E, E) image embedding.
            dense: (1, C, E, E) or (1, C, 1, 1) dense prompt that all prompts share, such as `PromptEncoder.no_mask`.
        """
        return cast(FastBlock, self.blocks[0]).project(self._cells(image, dense), self.image_pe)

    def attend(self, image: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C) float32 and image (N, I, C) after the transformer."""
        if image.shape[0] == dense.shape[0] == 1 and sparse.shape[0] >= SHARED_FROM:
            return self.attend_projected(self.project(image, dense), sparse)
        return self._attend(self._cells(image, dense), sparse, None)

    def attend_projected(self, picture: ProjectedPicture, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `attend` for a picture that was projected before."""
        return self._attend(picture.cells, sparse, picture)

    def _cells(self, image: Tensor, dense: Tensor) -> Tensor:
        """Embedding and dense prompt as cells (N or 1, I, C)."""
        return (image + dense.to(image.dtype)).to(self.dtype).flatten(2).transpose(1, 2).contiguous()

    def _attend(self, cells: Tensor, sparse: Tensor, picture: ProjectedPicture | None) -> tuple[Tensor, Tensor]:
        queries = tokens = self.decoder.join_tokens(sparse)
        for block in self.blocks:
            queries, cells = block(queries, cells, tokens, self.image_pe, picture)
            picture = None  # from here on every prompt has a picture of its own
        queries = queries + self.final.tokens_to_image(queries + tokens, cells, cells + self.image_pe)
        normed: Tensor = self.decoder.transformer.norm_final_attn(queries)
        return normed, cells

    def iou(self, tokens: Tensor, chosen: slice) -> Tensor:
        """Predicted IoU (N, M) of the chosen masks."""
        out: Tensor = self.decoder.iou_prediction_head(tokens[:, 0])
        return out[:, chosen]

    def masks(self, tokens: Tensor, cells: Tensor, chosen: slice) -> Tensor:
        """Low-res logits (N, M, 4E, 4E) float32 of the chosen masks."""
        return self.masks_by(self.decoder.hyper_kernels(tokens, chosen), cells)

    def masks_by(self, kernels: Tensor, cells: Tensor) -> Tensor:
        """Low-res logits (N, M, 4E, 4E) float32 from `MaskDecoder.hyper_kernels` (N, M, C/8) and image (N, I, C)."""
        upscaling = self.decoder.output_upscaling
        first, second = cast(nn.ConvTranspose2d, upscaling[0]), cast(nn.ConvTranspose2d, upscaling[3])
        norm = cast(LayerNorm2d, upscaling[1])
        count, side = cells.shape[0], math.isqrt(cells.shape[1])
        x = _normalise(_per_cell(first, cells), norm)  # (N, I, 2, 2, C/4)
        x = _gelu(_per_cell(second, _gelu(x))).flatten(1, -2)  # (N, I * 2 * 2 * 2 * 2, C/8)
        masks = kernels.to(self.dtype) @ x.transpose(-2, -1)  # (N, M, I * 16)
        masks = masks.float().reshape(count, kernels.shape[1], side, side, 2, 2, 2, 2)
        # Axes: row and column of the cell, then those of the first and of the second doubling.
        return masks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(count, kernels.shape[1], side * 4, side * 4)


def _gelu(x: Tensor) -> Tensor:
    """GELU, in place where no gradient needs its input: fresh memory of this size costs more than the function."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.gelu(x)
    out: Tensor = torch.ops.aten.gelu_(x)
    return out


def _normalise(x: Tensor, norm: LayerNorm2d) -> Tensor:
    """Layer normalisation of (N, I, 2, 2, C) over C."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    if not torch.compiler.is_exporting():
        return F.layer_norm(x, x.shape[-1:], weight, bias, norm.eps)
    # OpenVINO has a fast kernel for three axes alone, and is slow at rows that fill no vector register.
    plain = F.layer_norm(x.flatten(1, -2), x.shape[-1:], eps=norm.eps).reshape(x.shape[0], x.shape[1], -1)
    return (plain * weight.repeat(4) + bias.repeat(4)).reshape(x.shape)


def _for_each(image: Tensor, count: int) -> Tensor:
    """(1 or N, I, C) as (N, I, C); an exported graph would copy what is expanded to the size that it has."""
    return image.expand(count, -1, -1) if image.shape[0] == 1 else image


def _join(x: Tensor) -> Tensor:
    """(N, heads, T, X) to (heads, N * T, X): one product of all prompts with what they share, and no copies of it."""
    return x.transpose(0, 1).flatten(1, 2)


def _part(x: Tensor, count: int) -> Tensor:
    """The inverse of `_join`: (heads, N * T, X) to (N, heads, T, X)."""
    return x.reshape(x.shape[0], count, -1, x.shape[-1]).transpose(0, 1)


def _per_cell(conv: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A 2 x 2 transposed convolution with stride 2 on (..., C), as (..., 2, 2, C_out)."""
    weight = conv.weight.permute(2, 3, 1, 0)  # (2, 2, C_out, C)
    bias = conv.bias.expand(4, -1).flatten() if conv.bias is not None else None
    out = linear(x, weight.flatten(0, 2).to(x.dtype), None if bias is None else bias.to(x.dtype))
    return out.reshape(*out.shape[:-1], *weight.shape[:3])


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(N, heads * T, X) to (N, heads, T, X)."""
    return x.reshape(x.shape[0], heads, -1, x.shape[-1])
