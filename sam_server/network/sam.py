"""The whole model: image encoder, prompt encoder, mask decoder, and strict loading of weights."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sam_server.network.image_encoder_conv_vit import ImageEncoderConvVit
from sam_server.network.image_encoder_vit import ImageEncoderViT
from sam_server.network.mask_decoder import MaskDecoder
from sam_server.network.prompt_encoder import PromptEncoder
from sam_server.network.variants import SamVariant

# A new family of encoders is one file in this room and one row here.
IMAGE_ENCODERS: dict[str, Callable[[SamVariant], nn.Module]] = {
    "vit": ImageEncoderViT,
    "conv_vit": ImageEncoderConvVit,
}

# Keys that an error message names before it only counts the rest.
NAMED_KEYS = 5


class WeightsError(ValueError):
    """Weights that do not fit the model; the message names the keys."""


class Sam(nn.Module):
    """Segment Anything: `encode` once a picture, `decode` once a click.

    Source: Kirillov et al. 2023, Segment Anything. Key names are those of the official checkpoints.
    """

    def __init__(self, variant: SamVariant) -> None:
        super().__init__()
        self.variant = variant
        self.image_encoder = IMAGE_ENCODERS[variant.encoder](variant)
        self.prompt_encoder = PromptEncoder(variant)
        self.mask_decoder = MaskDecoder(variant)

    def encode(self, pictures: Tensor) -> Tensor:
        """Normalised, padded pictures (B, 3, S, S) to image embeddings (B, C, E, E)."""
        out: Tensor = self.image_encoder(pictures)
        return out

    def decode(
        self,
        image: Tensor,
        coords: Tensor,
        labels: Tensor,
        mask_input: Tensor | None,
        multimask_output: bool,
        image_pe: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts on one embedding.

        Args:
            image: (1, C, E, E) shared by all prompts, or (N, C, E, E).
            coords: (N, P, 2) float32 in model input pixels.
            labels: (N, P) int64, see `PromptEncoder.embed_points`.
            mask_input: (N, 1, 4E, 4E) logits or None.
            multimask_output: three masks if true, else one.
            image_pe: `prompt_encoder.dense_pe()` if the caller keeps it.

        Returns:
            Low-res logits (N, M, 4E, 4E) and predicted IoU (N, M).
        """
        sparse, dense = self.prompt_encoder(coords, labels, mask_input)
        pe = self.prompt_encoder.dense_pe() if image_pe is None else image_pe
        masks, iou = self.mask_decoder(image, pe, sparse, dense, multimask_output)
        return masks, iou


def build_sam(variant: SamVariant) -> Sam:
    """Build a variant with fresh weights, in float32 on the CPU.

    Raises:
        ValueError: the variant names an image encoder that is not in IMAGE_ENCODERS.
    """
    if variant.encoder not in IMAGE_ENCODERS:
        raise ValueError(f"unknown image encoder {variant.encoder!r}; known are {', '.join(IMAGE_ENCODERS)}")
    return Sam(variant)


def load_weights(sam: Sam, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the model, strictly.

    Raises:
        WeightsError: a key is missing, extra or misshapen, or a weight is not finite; nothing is copied then.
    """
    own = sam.state_dict()
    problems = _describe("missing", [key for key in own if key not in weights])
    problems += _describe("unexpected", [key for key in weights if key not in own])
    misshapen = [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    problems += _describe("misshapen", misshapen)
    if not problems:
        problems += _describe("not finite", [key for key in own if not torch.isfinite(weights[key]).all()])
    if problems:
        raise WeightsError(f"weights do not fit model type {sam.variant.name}: {'; '.join(problems)}")
    sam.load_state_dict(dict(weights), strict=True)


def load_sam(variant: SamVariant, weights: Mapping[str, Tensor]) -> Sam:
    """Build a variant and give it `weights` without first drawing random ones.

    Raises:
        WeightsError: see `load_weights`.
    """
    with torch.device("meta"):
        sam = build_sam(variant)
    sam.to_empty(device="cpu")
    load_weights(sam, weights)
    return sam.eval()


def _describe(problem: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    rest = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return [f"{problem}: {', '.join(keys[:NAMED_KEYS])}{rest}"]
