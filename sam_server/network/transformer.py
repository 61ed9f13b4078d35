"""The two-way transformer: prompt tokens and the image embedding attend to each other."""

import math

import torch
from torch import Tensor, nn

from sam_server.network.layers import MlpBlock
from sam_server.network.linear import Linear

# Queries, keys and values of the cross-attentions are half as wide as the embedding (Kirillov et al. 2023, A).
CROSS_DOWNSAMPLE = 2


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than the embedding's."""

    def __init__(self, width: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = width // downsample
        if inner % heads:
            raise ValueError(f"attention width {inner} is not a multiple of heads {heads}")
        self.heads = heads
        self.q_proj = Linear(width, inner)
        self.k_proj = Linear(width, inner)
        self.v_proj = Linear(width, inner)
        self.out_proj = Linear(inner, width)

    def split(self, x: Tensor) -> Tensor:
        """(N, T, inner) to (N, heads, T, inner / heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (N, Tq, C) to k and v (N, Tk, C); returns (N, Tq, C)."""
        q, k, v = self.split(self.q_proj(q)), self.split(self.k_proj(k)), self.split(self.v_proj(v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        out = torch.softmax(scores, dim=-1) @ v
        merged: Tensor = self.out_proj(out.transpose(1, 2).reshape(out.shape[0], out.shape[2], -1))
        return merged


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP, image to tokens."""

    def __init__(self, width: int, heads: int, mlp: int, skip_first_layer_pe: bool) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, heads, CROSS_DOWNSAMPLE)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MlpBlock(width, mlp, nn.ReLU())
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, heads, CROSS_DOWNSAMPLE)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Update queries (N, T, C) and keys (N, E*E, C)."""
        queries = self.attend_tokens(queries, query_pe)

        attended = self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))

        attended = self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)
        keys = self.norm4(keys + attended)
        return queries, keys

    def attend_tokens(self, queries: Tensor, query_pe: Tensor) -> Tensor:
        """Self-attention of the tokens (N, T, C) and the normalisation after it."""
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        out: Tensor = self.norm1(queries)
        return out


class TwoWayTransformer(nn.Module):
    """Decoder of prompts and picture.

    Source: segment_anything/modeling/transformer.py, whose weights load here unchanged.
    """

    def __init__(self, depth: int, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(width, heads, mlp, skip_first_layer_pe=(index == 0)) for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(width, heads, CROSS_DOWNSAMPLE)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the transformer.

        Args:
            image: (N, C, E, E) image embedding with the dense prompt added.
            image_pe: (1, C, E, E) positional encoding of the cells.
            tokens: (N, T, C) output tokens and prompt tokens.

        Returns:
            Tokens (N, T, C) and image (N, E*E, C) after the last layer.
        """
        keys = image.flatten(2).transpose(1, 2)  # (N, E*E, C)
        key_pe = image_pe.flatten(2).transpose(1, 2)  # (1, E*E, C)
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        attended = self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries + attended), keys
