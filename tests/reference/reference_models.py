"""Models of segment-anything 1.0 for any of this project's variants, with random or given weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from sam_server.network.image_encoder_conv_vit import ImageEncoderConvVit
from sam_server.network.variants import SamVariant
from sam_server.prompts import Prompt
from tests.reference import torchvision_functions

torchvision_functions.supply()  # before the reference is imported

from segment_anything import SamPredictor, modeling, sam_model_registry  # noqa: E402

__all__ = ["Answer", "SamPredictor", "ask", "modeling", "reference_sam", "sam_model_registry"]

# What is added to the reference's own start, which leaves positions, norms and some biases at zero or one, where a
# mix-up of two of them would not show. Near the spread of trained weights.
NOISE = 0.05


def reference_sam(variant: SamVariant, weights: Mapping[str, Tensor] | None = None, seed: int = 0) -> modeling.Sam:
    """Build a variant out of the reference's classes.

    The tiny variant has an image encoder of this project's own; everything behind it is the reference's.

    Args:
        variant: any row of `VARIANTS`, or a custom one.
        weights: state dict; random weights by `seed` if None.
        seed: of the random weights.
    """
    torch.manual_seed(seed)
    cells, channels = variant.image_size // variant.patch_size, variant.embedding_channels
    sam = modeling.Sam(
        image_encoder=_image_encoder(variant),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(cells, cells),
            input_image_size=(variant.image_size, variant.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(
                depth=variant.decoder_depth,
                embedding_dim=channels,
                mlp_dim=variant.decoder_mlp,
                num_heads=variant.decoder_heads,
            ),
            transformer_dim=channels,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(variant.pixel_mean),
        pixel_std=list(variant.pixel_std),
    )
    sam.mask_threshold = variant.mask_threshold
    if weights is None:
        _add_noise(sam)
    else:
        sam.load_state_dict(dict(weights), strict=True)
    return sam.eval().requires_grad_(False)


def _image_encoder(variant: SamVariant) -> nn.Module:
    if variant.encoder == "vit":
        return modeling.ImageEncoderViT(
            img_size=variant.image_size,
            patch_size=variant.patch_size,
            embed_dim=variant.width,
            depth=variant.depth,
            num_heads=variant.heads,
            mlp_ratio=variant.mlp_ratio,
            out_chans=variant.embedding_channels,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=variant.window,
            global_attn_indexes=variant.global_blocks,
        )
    encoder = ImageEncoderConvVit(variant)
    encoder.img_size = variant.image_size  # the reference asks its encoder for the side of the input
    return encoder


@torch.no_grad()
def _add_noise(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=NOISE)


@dataclass(frozen=True)
class Answer:
    """What `SamPredictor.predict` says to one prompt.

    Attributes:
        logits: (M, H, W) float32 in the picture's own pixels; the masks are where they exceed the threshold.
        iou: (M,) float32 predicted IoU.
        low_res: (M, L, L) float32 logits.
    """

    logits: np.ndarray
    iou: np.ndarray
    low_res: np.ndarray


def ask(predictor: SamPredictor, prompt: Prompt, multimask_output: bool) -> Answer:
    """Put one of our prompts to a reference predictor that has its picture."""
    has_points = len(prompt.points) > 0
    return Answer(
        *predictor.predict(
            prompt.points if has_points else None,
            prompt.point_labels if has_points else None,
            prompt.box,
            None if prompt.mask_input is None else prompt.mask_input[None],
            multimask_output=multimask_output,
            return_logits=True,
        )
    )
