"""A small image encoder: convolutions at strides 4 and 8, attention at stride 16, both joined at stride 8."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_server.network.image_encoder_vit import join_windows, split_windows
from sam_server.network.layers import NORM_EPS, MlpBlock, make_neck, normalise_channels
from sam_server.network.linear import Linear
from sam_server.network.variants import SamVariant

# The first convolution goes to stride 4 at once: full resolution costs most of the time and has three channels only.
FIRST_KERNEL = 7
FIRST_STRIDE = 4
EMBEDDING_STRIDE = 8


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W), quick where channels lie last in memory."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C."""
        if torch.compiler.is_exporting():
            # OpenVINO keeps channels last for its convolutions, but would copy the map for a permutation all the same.
            return normalise_channels(x, self.weight, self.bias, self.eps)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """A residual pair of 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        out: Tensor = x + self.conv2(F.gelu(self.conv1(self.norm(x))))
        return out


class ConvVitBlock(nn.Module):
    """Depthwise 3x3 (which also tells the position), attention in windows or over the whole map, MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, window: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.qkv = Linear(width, width * 3)
        self.proj = Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MlpBlock(width, int(width * mlp_ratio), nn.GELU())
        self.heads = heads
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Update the tokens (B, H, W, C)."""
        batch, height, width, _ = grid = x.shape
        local = self.local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # Cells as one axis: with two, OpenVINO takes them for a map, and puts its memory in another order and back.
        x = x.flatten(1, 2) + local.flatten(1, 2)
        normed = self.norm1(x).view(grid)
        if self.window:
            attended = join_windows(self.attend(split_windows(normed, self.window)), self.window, batch, height, width)
        else:
            attended = self.attend(normed)
        x = x + attended.flatten(1, 2)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out.view(grid)

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention within each grid of (B', H, W, C)."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (B', heads, H * W, head)
        if self.window:  # many small products: plain ones train ten times faster than the fused kernel on a CPU
            out = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        merged: Tensor = self.proj(out.transpose(1, 2).reshape(batch, height, width, channels))
        return merged


class ImageEncoderConvVit(nn.Module):
    """Picture to image embedding for model/tiny; takes any input whose side is a multiple of 16.

    `SamVariant.stem` holds the channels at strides 4 and 8, `width` those of the attention blocks at stride 16.
    """

    def __init__(self, variant: SamVariant) -> None:
        super().__init__()
        if len(variant.stem) != 2 or variant.patch_size != EMBEDDING_STRIDE:
            raise ValueError(f"conv_vit needs two channels in stem and patch_size {EMBEDDING_STRIDE}")
        fine, middle = variant.stem
        self.stem = nn.Conv2d(3, fine, FIRST_KERNEL, stride=FIRST_STRIDE, padding=FIRST_KERNEL // 2)
        self.fine = nn.Sequential(ConvBlock(fine), ConvBlock(fine))
        self.down1 = nn.Conv2d(fine, middle, kernel_size=3, stride=2, padding=1)
        self.middle = nn.Sequential(ConvBlock(middle), ConvBlock(middle))
        self.down2 = nn.Conv2d(middle, variant.width, kernel_size=3, stride=2, padding=1)
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
        self.up = Linear(variant.width, middle)
        self.join = ConvBlock(middle)
        self.neck = make_neck(middle, variant.embedding_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised, padded pictures (B, 3, S, S) to (B, C, E, E)."""
        x = x.contiguous(memory_format=torch.channels_last)  # convolutions of few channels run several times faster so
        middle = self.middle(self.down1(self.fine(self.stem(x))))  # (B, C1, S/8, S/8)
        tokens = self.down2(middle).permute(0, 2, 3, 1)  # (B, S/16, S/16, width)
        for block in self.blocks:
            tokens = block(tokens)
        coarse = self.up(self.norm(tokens)).permute(0, 3, 1, 2)
        coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        out: Tensor = self.neck(self.join(middle + coarse))
        return out
