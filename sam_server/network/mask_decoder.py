"""Image embedding and prompt embeddings to low-res masks with predicted IoU."""

import torch
from torch import Tensor, nn

from sam_server.network.layers import LayerNorm2d, Mlp, make_embedding
from sam_server.network.transformer import TwoWayTransformer
from sam_server.network.variants import SamVariant

# Masks of an ambiguous prompt: whole, part, subpart; one more token serves unambiguous prompts.
MULTIMASK_OUTPUTS = 3
MASK_TOKENS = MULTIMASK_OUTPUTS + 1
IOU_HEAD_DEPTH = 3
IOU_HEAD_HIDDEN = 256


class MaskDecoder(nn.Module):
    """Predicts masks of N prompts on one picture, or on N pictures.

    Source: segment_anything/modeling/mask_decoder.py, whose weights load here unchanged.
    """

    def __init__(self, variant: SamVariant) -> None:
        super().__init__()
        width = variant.embedding_channels
        self.transformer = TwoWayTransformer(variant.decoder_depth, width, variant.decoder_heads, variant.decoder_mlp)
        self.iou_token = make_embedding(1, width)
        self.mask_tokens = make_embedding(MASK_TOKENS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width // 8, 3) for _ in range(MASK_TOKENS))
        self.iou_prediction_head = Mlp(width, IOU_HEAD_HIDDEN, MASK_TOKENS, IOU_HEAD_DEPTH)

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
        tokens = self.join_tokens(sparse)
        source = (image + dense).expand(tokens.shape[0], -1, -1, -1)
        tokens, keys = self.transformer(source, image_pe.to(source.dtype), tokens)

        height, width = image.shape[-2:]
        keys = keys.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)  # (N, C, E, E)
        upscaled = self.output_upscaling(keys)  # (N, C/8, 4E, 4E)
        kernels = self.hyper_kernels(tokens, slice(0, MASK_TOKENS))
        masks = (kernels @ upscaled.flatten(2)).reshape(tokens.shape[0], -1, *upscaled.shape[-2:])
        chosen = self.chosen(multimask_output)
        return masks[:, chosen], self.iou_prediction_head(tokens[:, 0])[:, chosen]

    @staticmethod
    def chosen(multimask_output: bool) -> slice:
        """Which of the four masks are the answer: the first serves unambiguous prompts, the rest ambiguous ones."""
        return slice(1, MASK_TOKENS) if multimask_output else slice(0, 1)

    def join_tokens(self, sparse: Tensor) -> Tensor:
        """IoU token, mask tokens and prompt tokens: (N, 5 + P, C) from (N, P, C)."""
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (5, C)
        return torch.cat([output_tokens.expand(sparse.shape[0], -1, -1), sparse], dim=1)

    def hyper_kernels(self, tokens: Tensor, chosen: slice) -> Tensor:
        """(N, M, C/8) weights over the upscaled channels, one row a chosen mask, from all tokens (N, T, C)."""
        mask_tokens = tokens[:, 1 : 1 + MASK_TOKENS]
        indices = range(MASK_TOKENS)[chosen]
        return torch.stack([self.output_hypernetworks_mlps[index](mask_tokens[:, index]) for index in indices], dim=1)
