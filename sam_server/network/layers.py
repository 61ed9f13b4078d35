"""Small layers that the encoders and the decoder share."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_server.network.linear import Linear

# Epsilon of every normalisation in the image encoders and of LayerNorm2d (segment_anything/build_sam.py).
NORM_EPS = 1e-6

# Tokens that go through an MLP at once: 12 MB of a ViT-B's hidden layer.
PART_TOKENS = 1024


def make_embedding(rows: int, channels: int) -> nn.Embedding:
    """(rows, channels) normal random numbers, as nn.Embedding draws them.

    On the meta device, which models are built on before their weights are read, nn.Embedding's own way to draw them
    imports torch's compiler: a second and a half of a server's start.
    """
    drawn = torch.randn(rows, channels)
    embedding: nn.Embedding = nn.Embedding.from_pretrained(drawn, freeze=False)  # type: ignore[no-untyped-call]
    return embedding


def normalise_channels(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalisation of (B, C, H, W) over C, where the channels lie; `weight` and `bias` are (C,)."""
    # In float32: squares of half-precision activations may overflow.
    wide = x.float()
    centred = wide - wide.mean(1, keepdim=True)
    variance = centred.pow(2).mean(1, keepdim=True)
    wide = centred / torch.sqrt(variance + eps)
    return (weight[:, None, None] * wide + bias[:, None, None]).to(x.dtype)


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a (B, C, H, W) map.

    Source: segment_anything/modeling/common.py, after ConvNeXt.
    """

    def __init__(self, channels: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C."""
        return normalise_channels(x, self.weight, self.bias, self.eps)


class MlpBlock(nn.Module):
    """Two linear layers with an activation between them: the MLP of a transformer block."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1 = Linear(width, hidden)
        self.lin2 = Linear(hidden, width)
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        # Of many float32 tokens the hidden layer is the largest array of the encoder: some at a time stay in cache.
        # In half precision it is smaller, and the parts would be too small for what a call costs.
        if self.lin1.computes_with_onednn(x) and x.dtype == torch.float32:
            rows = x.flatten(0, -2)
            parts = [rows[start : start + PART_TOKENS] for start in range(0, len(rows), PART_TOKENS)]
            return torch.cat([self._map(part) for part in parts]).view(x.shape)
        return self._map(x)

    def _map(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(self.act(self.lin1(x)))
        return out


class Mlp(nn.Module):
    """Linear layers with ReLU between them: the heads of the mask decoder."""

    def __init__(self, width: int, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        widths = [width, *[hidden] * (depth - 1), out]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., out)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


def make_neck(width: int, channels: int) -> nn.Sequential:
    """SAM's neck: (B, width, E, E) features to the (B, channels, E, E) image embedding."""
    return nn.Sequential(
        nn.Conv2d(width, channels, kernel_size=1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(channels),
    )
