"""A small image encoder: convolutions to stride 8, then a few attention blocks at stride 16."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from sam_server.network.image_encoder_vit import join_windows, split_windows
from sam_server.network.layers import NORM_EPS, LayerNorm2d, MlpBlock, make_neck
from sam_server.network.variants import SamVariant


class ConvStage(nn.Module):
    """Halve the map, then one residual pair of 3x3 convolutions."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels_in, channels, kernel_size=3, stride=2, padding=1)
        self.norm = LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C, H/2, W/2)."""
        x = F.gelu(self.norm(self.down(x)))
        out: Tensor = x + self.conv2(F.gelu(self.conv1(x)))
        return out


class ConvVitBlock(nn.Module):
    """Depthwise 3x3 (which also tells the position), attention in windows or over the whole map, MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, window: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.qkv = nn.Linear(width, width * 3)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MlpBlock(width, int(width * mlp_ratio), nn.GELU())
        self.heads = heads
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Update the tokens (B, E, E, C)."""
        batch, height, width, _ = x.shape
        x = x + self.local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        normed = self.norm1(x)
        if self.window:
            attended = join_windows(self.attend(split_windows(normed, self.window)), self.window, batch, height, width)
        else:
            attended = self.attend(normed)
        x = x + attended
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention within each grid of (B', H, W, C)."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])  # (B', heads, H * W, head)
        merged: Tensor = self.proj(out.transpose(1, 2).reshape(batch, height, width, channels))
        return merged


class ImageEncoderConvVit(nn.Module):
    """Picture to image embedding for model/tiny; takes any input whose side is a multiple of patch_size."""

    def __init__(self, variant: SamVariant) -> None:
        super().__init__()
        widths = (3, *variant.stem)
        self.stem = nn.Sequential(*(ConvStage(a, b) for a, b in itertools.pairwise(widths)))
        stride = variant.patch_size // 2 ** len(variant.stem)
        self.embed = nn.Conv2d(widths[-1], variant.width, kernel_size=stride, stride=stride)
        self.blocks = nn.ModuleList(
            ConvVitBlock(
                variant.width,
                variant.heads,
                variant.mlp_ratio,
                window=0 if index in variant.global_blocks else variant.window,
            )
            for index in range(variant.depth)
        )
        self.norm = nn.LayerNorm(variant.width, eps=NORM_EPS)
        self.neck = make_neck(variant.width, variant.embedding_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised, padded pictures (B, 3, S, S) to (B, C, E, E)."""
        tokens = self.embed(self.stem(x)).permute(0, 2, 3, 1).contiguous()
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.neck(self.norm(tokens).permute(0, 3, 1, 2))
        return out
