"""Image embedding and prompt embeddings to low-res masks with predicted IoU."""

import torch
from torch import Tensor, nn

from sam_server.network.layers import LayerNorm2d, Mlp
from sam_server.network.transformer import TwoWayTransformer
from sam_server.network.variants import SamVariant

# Masks of an ambiguous prompt: whole, part, subpart; one more token serves unambiguous prompts.
MULTIMASK_OUTPUTS = 3
IOU_HEAD_DEPTH = 3
IOU_HEAD_HIDDEN = 256


class MaskDecoder(nn.Module):
    """Predicts masks of N prompts on one picture, or on N pictures.

    Source: segment_anything/modeling/mask_decoder.py, whose weights load here unchanged.
    """

    def __init__(self, variant: SamVariant) -> None:
        super().__init__()
        width = variant.embedding_channels
        count = MULTIMASK_OUTPUTS + 1
        self.transformer = TwoWayTransformer(variant.decoder_depth, width, variant.decoder_heads, variant.decoder_mlp)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(count, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width // 8, 3) for _ in range(count))
        self.iou_prediction_head = Mlp(width, IOU_HEAD_HIDDEN, count, IOU_HEAD_DEPTH)

    def forward(
        self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts.

        Args:
            image: (1, C, E, E) embedding shared by all prompts, or (N, C, E, E).
            image_pe: (1, C, E, E) from `PromptEncoder.dense_pe`.
            sparse: (N, P, C) point embeddings.
            dense: (N, C, E, E) mask embeddings, or (1, C, 1, 1) to be broadcast.
            multimask_output: the three masks of an ambiguous prompt if true, else the single one.

        Returns:
            Low-res logits (N, M, 4E, 4E) and predicted IoU (N, M); M = 3 or 1.
        """
        masks, iou = self.predict_all(image, image_pe, sparse, dense)
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, chosen], iou[:, chosen]

    def predict_all(self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """All four masks (N, 4, 4E, 4E) and IoU (N, 4): the single-mask output first."""
        count = sparse.shape[0]
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (5, C)
        tokens = torch.cat([output_tokens.expand(count, -1, -1), sparse], dim=1)  # (N, 5 + P, C)
        source = (image + dense).expand(count, -1, -1, -1)
        tokens, keys = self.transformer(source, image_pe.to(source.dtype), tokens)

        height, width = image.shape[-2:]
        keys = keys.transpose(1, 2).reshape(count, -1, height, width)  # (N, C, E, E)
        upscaled = self.output_upscaling(keys)  # (N, C/8, 4E, 4E)
        kernels = self.hyper_kernels(tokens[:, 1 : 1 + len(self.output_hypernetworks_mlps)])
        masks = (kernels @ upscaled.flatten(2)).reshape(count, -1, *upscaled.shape[-2:])
        return masks, self.iou_prediction_head(tokens[:, 0])

    def hyper_kernels(self, mask_tokens: Tensor) -> Tensor:
        """(N, 4, C/8) weights over the upscaled channels, one row a mask, from (N, 4, C) tokens."""
        rows = [mlp(mask_tokens[:, index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)]
        return torch.stack(rows, dim=1)
