"""Points, boxes and masks to embeddings."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_server.network.layers import LayerNorm2d, make_embedding
from sam_server.network.variants import SamVariant

# Hidden channels of the mask input's convolutions (segment_anything/build_sam.py).
MASK_CHANNELS = 16


class RandomPositionEncoding(nn.Module):
    """Positional encoding of 2-D coordinates by random spatial frequencies.

    Source: Tancik et al. 2020, Fourier Features; segment_anything/modeling/prompt_encoder.py.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, coords: Tensor) -> Tensor:
        """Encode (..., 2) coordinates x, y in [0, 1] as (..., 2 * features), in float32."""
        # The phases reach hundreds of radians: half precision would lose them.
        matrix = self.positional_encoding_gaussian_matrix.float()
        phases = 2 * math.pi * ((2 * coords - 1) @ matrix)
        return torch.cat([torch.sin(phases), torch.cos(phases)], dim=-1)


class PromptEncoder(nn.Module):
    """Encodes points, boxes (as two labelled corners) and mask inputs.

    Source: segment_anything/modeling/prompt_encoder.py, whose weights load here unchanged.
    """

    def __init__(self, variant: SamVariant) -> None:
        super().__init__()
        channels = variant.embedding_channels
        self.image_size = variant.image_size
        self.embedding_size = variant.image_size // variant.patch_size
        self.pe_layer = RandomPositionEncoding(channels // 2)
        # Background, foreground, first and second corner of a box.
        self.point_embeddings = nn.ModuleList(make_embedding(1, channels) for _ in range(4))
        self.not_a_point_embed = make_embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, MASK_CHANNELS // 4, kernel_size=2, stride=2),
            LayerNorm2d(MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS // 4, MASK_CHANNELS, kernel_size=2, stride=2),
            LayerNorm2d(MASK_CHANNELS),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS, channels, kernel_size=1),
        )
        self.no_mask_embed = make_embedding(1, channels)

    def dense_pe(self, size: int | None = None) -> Tensor:
        """Positional encoding of every cell of the embedding, (1, C, E, E) float32; E = `size` if given."""
        cells = self.embedding_size if size is None else size
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        centres = (torch.arange(cells, device=matrix.device, dtype=torch.float32) + 0.5) / cells
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        encoded: Tensor = self.pe_layer(torch.stack([columns, rows], dim=-1))
        return encoded.permute(2, 0, 1)[None]

    def embed_points(self, coords: Tensor, labels: Tensor, image_size: int | None = None) -> Tensor:
        """Sparse embeddings of labelled points.

        Args:
            coords: (N, P, 2) float32 x, y in model input pixels.
            labels: (N, P) int64, -1 padding, 0 background, 1 foreground, 2 and 3 corners of a box.
            image_size: side of the model input in pixels; the variant's if None.

        Returns:
            (N, P, C) in the dtype of the weights.
        """
        # Points are taken at the centre of their pixel.
        encoded = self.pe_layer((coords.float() + 0.5) / (image_size or self.image_size))
        # One table and one gather in place of assignments through boolean masks, which do not export to ONNX.
        kinds = torch.cat([self.not_a_point_embed.weight, *self.point_embeddings.parameters()])
        is_point = (labels >= 0).unsqueeze(-1).to(encoded.dtype)
        out: Tensor = (encoded * is_point).to(kinds.dtype) + F.embedding(labels + 1, kinds)
        return out

    def embed_masks(self, mask_input: Tensor) -> Tensor:
        """Dense embeddings (N, C, E, E) of (N, 1, 4E, 4E) low-res logits."""
        out: Tensor = self.mask_downscaling(mask_input)
        return out

    def no_mask(self) -> Tensor:
        """Dense embedding where no mask is given: (1, C, 1, 1), to be broadcast."""
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def forward(self, coords: Tensor, labels: Tensor, mask_input: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sparse (N, P, C) and dense (N, C, E, E) or (1, C, 1, 1) embeddings of N prompts."""
        dense = self.no_mask() if mask_input is None else self.embed_masks(mask_input)
        return self.embed_points(coords, labels), dense
