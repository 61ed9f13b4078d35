"""The ViT image encoder of the official SAM checkpoints."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_server.network.attention import ATTENTIONS, Attend
from sam_server.network.layers import NORM_EPS, MlpBlock, make_neck
from sam_server.network.linear import Linear
from sam_server.network.variants import SamVariant


class PatchEmbed(nn.Module):
    """Pixels to one vector a patch."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, E, E, width)."""
        out: Tensor = self.proj(x)
        # Contiguous, or each later layer would copy the tokens into its own order.
        return out.permute(0, 2, 3, 1).contiguous()


class RelativeAttention(nn.Module):
    """Multi-head self-attention over an H x W grid with decomposed relative positions.

    Source: Li et al. 2022, MViTv2; segment_anything/modeling/image_encoder.py.
    """

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = Linear(width, width * 3)
        self.proj = Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, width // heads))
        # Replaced by `ImageEncoderViT.set_attention`.
        self.attend: Attend = ATTENTIONS["auto"]

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        """Attend within each (H, W) grid of x (B, H, W, C), or within its windows; returns the same shape."""
        if window:
            return self.in_windows(x, window)
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        merged: Tensor = self.proj(self.within(qkv.flatten(1, 2), height, width))
        return merged

    def in_windows(self, x: Tensor, window: int) -> Tensor:
        """Attend within windows of x (B, H, W, C), which are padded with zeros at the lower and right edge.

        Projections of the padding are known: the bias; and nobody reads what padding finds.
        """
        batch, height, width, _ = x.shape
        windows = window_heads(self.qkv(x), self.qkv.bias, window, self.heads)
        out = self.within(windows.flatten(1, 4), window, window)
        merged: Tensor = self.proj(join_windows(out, window, batch, height, width))
        return merged

    def within(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """Attention of (3, B * heads, H * W, head), its heads side by side again: (B, H, W, C)."""
        q, k, v = qkv.unbind(0)
        rel_h, rel_w = self.relative_terms(q, height, width)
        out = self.attend(q, k, v, rel_h, rel_w, self.scale)  # (B * heads, H * W, head)
        return out.reshape(-1, self.heads, height, width, out.shape[-1]).permute(0, 2, 3, 1, 4).flatten(3)

    def relative_terms(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Scores that depend on the distance in rows (B', H, W, H) and in columns (B', H, W, W)."""
        grid = q.reshape(q.shape[0], height, width, -1)
        rows = relative_table(self.rel_pos_h, height)  # (H, H, head)
        columns = relative_table(self.rel_pos_w, width)  # (W, W, head)
        rel_h = torch.einsum("bhwc,hkc->bhwk", grid, rows)
        rel_w = torch.einsum("bhwc,wkc->bhwk", grid, columns)
        return rel_h, rel_w


def relative_table(rel_pos: Tensor, size: int) -> Tensor:
    """(size, size, head) position vectors for each pair of query and key; `rel_pos` is (2 * size - 1, head)."""
    steps = torch.arange(size, device=rel_pos.device)
    return rel_pos[steps[:, None] - steps[None, :] + size - 1]


class Block(nn.Module):
    """A transformer block that attends within windows, or to the whole picture where `window` is 0."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, window: int, grid: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = RelativeAttention(width, heads, window or grid)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MlpBlock(width, int(width * mlp_ratio), nn.GELU())
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Update the tokens (B, E, E, C)."""
        normed = self.norm1(x)
        attended = self.attend_windows(normed) if self.window else self.attn(normed)
        x = x + attended
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def attend_windows(self, x: Tensor) -> Tensor:
        """Attention within windows; the last row and column of windows are padded with zeros."""
        plain = self.attn.attend is ATTENTIONS["plain"] or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if not plain:
            attended: Tensor = self.attn(x, self.window)
            return attended
        batch, height, width, _ = x.shape
        windows = split_windows(x, self.window)
        return join_windows(self.attn(windows), self.window, batch, height, width)


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) to (B * windows, window, window, C), zero-padded to whole windows."""
    batch, height, width, channels = x.shape
    pad_h, pad_w = -height % window, -width % window
    if pad_h or pad_w:
        x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    x = x.reshape(batch, (height + pad_h) // window, window, (width + pad_w) // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window, window, channels)


def window_heads(qkv: Tensor, padding: Tensor, window: int, heads: int) -> Tensor:
    """Queries, keys and values of every window and head, in one copy.

    Args:
        qkv: (B, H, W, 3 C).
        padding: (3 C,) what stands for cells beyond the edge.

    Returns:
        (3, B, windows down, windows across, heads, window, window, C / heads), with each window's cells as one axis:
        (3, B, down, across, heads, window * window, C / heads).
    """
    batch, height, width, channels = qkv.shape
    down, across, head = -(-height // window), -(-width // window), channels // (3 * heads)
    out = qkv.new_empty(3, batch, down, across, heads, window, window, head)
    fill = padding.view(3, 1, 1, heads, 1, 1, head)
    if height % window:
        out[:, :, -1, ..., height % window :, :, :] = fill
    if width % window:
        out[:, :, :, -1, ..., width % window :, :] = fill
    for rows, first_row, tall in _whole_and_rest(height, window):
        for columns, first_column, wide in _whole_and_rest(width, window):
            part = qkv[:, first_row : first_row + rows * tall, first_column : first_column + columns * wide]
            cells = part.view(batch, rows, tall, columns, wide, 3, heads, head)
            y, x = first_row // window, first_column // window
            out[:, :, y : y + rows, x : x + columns, :, :tall, :wide] = cells.permute(5, 0, 1, 3, 6, 2, 4, 7)
    return out.flatten(5, 6)


def _whole_and_rest(length: int, window: int) -> list[tuple[int, int, int]]:
    """Windows along one axis as (how many, first cell, length): the whole ones, and one that is not."""
    whole = length // window
    parts = [(whole, 0, window), (1, whole * window, length % window)]
    return [part for part in parts if part[0] and part[2]]


def join_windows(windows: Tensor, window: int, batch: int, height: int, width: int) -> Tensor:
    """The inverse of `split_windows`: (B, H, W, C) without the padding."""
    down, across = -(-height // window), -(-width // window)
    x = windows.reshape(batch, down, across, window, window, -1).transpose(2, 3)
    return x.reshape(batch, down * window, across * window, -1)[:, :height, :width]


class ImageEncoderViT(nn.Module):
    """Picture to image embedding by a plain ViT with windowed and global attention.

    Source: Li et al. 2022, ViTDet; segment_anything/modeling/image_encoder.py, whose weights load here unchanged.
    """

    def __init__(self, variant: SamVariant) -> None:
        super().__init__()
        cells = variant.image_size // variant.patch_size
        self.patch_embed = PatchEmbed(variant.patch_size, variant.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, cells, cells, variant.width))
        self.blocks = nn.ModuleList(
            Block(
                variant.width,
                variant.heads,
                variant.mlp_ratio,
                window=0 if index in variant.global_blocks else variant.window,
                grid=cells,
            )
            for index in range(variant.depth)
        )
        self.neck = make_neck(variant.width, variant.embedding_channels)
        self.as_reference = False

    def set_attention(self, name: str) -> None:
        """Choose how attention is computed: a row of `attention.ATTENTIONS`; "auto" unless set.

        With "plain" the whole encoder gives the reference's embedding bit for bit.
        """
        self.as_reference = name == "plain"
        for module in self.modules():
            if isinstance(module, RelativeAttention):
                module.attend = ATTENTIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised, padded pictures (B, 3, S, S) to (B, C, E, E)."""
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 3, 1, 2)
        # Channels last in memory is faster; convolutions over another order of the same numbers round otherwise.
        out: Tensor = self.neck(x.contiguous() if self.as_reference else x)
        return out
