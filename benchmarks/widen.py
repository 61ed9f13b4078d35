"""Weights of an official variant that see something, made from those of model/tiny.

Official checkpoints cannot be fetched everywhere, and random weights give noise for masks: nothing of it would pass
the quality thresholds of automatic mask generation. So prompt encoder and mask decoder are widened from the tiny
model's: every channel is copied two or three times, and the weights that read the copies are divided by their number,
after Chen et al. 2016, Net2Net. (Where the widths are no multiples, the statistics of the layer normalisations move by
one or two per cent, which does no harm here.) The image encoder of the official variant runs with all of its layers at
full cost, but what its blocks add is scaled down to nothing, and its position embedding holds the tiny model's image
embedding of one picture: that is what comes out, for every picture.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_server.network.sam import Sam, build_sam
from sam_server.network.variants import SamVariant

# What the blocks of the image encoder add, relative to random weights of the usual size.
BLOCK_GAIN = 1e-6

# Channels of the prompt encoder and the mask decoder by part of the key: axis -> space, "/" where it is read from.
AXES = (
    (r"gaussian_matrix$", {1: "frequency"}),
    (r"point_embeddings|not_a_point_embed|no_mask_embed|iou_token|mask_tokens", {1: "embedding"}),
    (r"mask_downscaling\.6", {0: "embedding"}),
    (r"self_attn\.[qkv]_proj", {0: "self", 1: "/embedding"}),
    (r"self_attn\.out_proj\.weight", {0: "embedding", 1: "/self"}),
    (r"(image|token)\.[qkv]_proj", {0: "cross", 1: "/embedding"}),
    (r"(image|token)\.out_proj\.weight", {0: "embedding", 1: "/cross"}),
    (r"mlp\.lin1", {0: "mlp", 1: "/embedding"}),
    (r"mlp\.lin2\.weight", {0: "embedding", 1: "/mlp"}),
    (r"norm|out_proj\.bias|lin2\.bias", {0: "embedding"}),
    (r"output_upscaling\.0\.weight", {0: "/embedding", 1: "first"}),
    (r"output_upscaling\.[01]", {0: "first"}),
    (r"output_upscaling\.3\.weight", {0: "/first", 1: "second"}),
    (r"output_upscaling\.3\.bias", {0: "second"}),
    # A kernel is multiplied with the upscaled channels, whose copies would count twice.
    (r"hypernetworks_mlps.*layers\.2", {0: "/second", 1: "/embedding"}),
    (r"hypernetworks_mlps", {0: "embedding", 1: "/embedding"}),
    (r"iou_prediction_head\.layers\.0\.weight", {1: "/embedding"}),
)


@dataclass(frozen=True)
class Space:
    """How the channels of a narrow model become those of a wide one.

    Attributes:
        source: (wide,) int64 narrow channel that each wide one copies, or -1 for zeros.
        copies: (wide,) float32 how many copies that narrow channel has.
    """

    source: Tensor
    copies: Tensor

    @classmethod
    def copied(cls, source: Tensor) -> "Space":
        """Every channel of `source` (wide,) is a copy."""
        return cls(source, torch.bincount(source)[source].float())

    @classmethod
    def spread(cls, narrow: int, wide: int) -> "Space":
        """Copies side by side, so that they stay within their attention head."""
        return cls.copied(torch.arange(wide) * narrow // wide)

    def widen(self, tensor: Tensor, axis: int, read: bool) -> Tensor:
        """Copy along `axis`; divided by the number of copies where they are read from."""
        shape = [1] * tensor.ndim
        shape[axis] = -1
        weight = (self.source >= 0).float() / (self.copies if read else 1)
        return tensor.index_select(axis, self.source.clamp(min=0)) * weight.reshape(shape)


def widen_decoder(weights: Mapping[str, Tensor], narrow: SamVariant, wide: SamVariant) -> dict[str, Tensor]:
    """Prompt encoder and mask decoder of `wide` that answer as those of `narrow` do.

    Args:
        weights: state dict of `narrow`.
        narrow: has the same number of decoder layers and heads as `wide`.
        wide: has at least its widths.
    """
    spaces = _spaces(narrow, wide)
    out = {}
    for key, tensor in weights.items():
        if key.startswith("image_encoder."):
            continue
        value = tensor.float()
        for axis, name in _axes(key).items():
            if axis < value.ndim:
                value = spaces[name.strip("/")].widen(value, axis, name.startswith("/"))
        if "attn" in key and ".q_proj." in key:
            # Copies of queries meet copies of keys, and scores are divided by the root of a wider head.
            space = spaces["self" if "self_attn" in key else "cross"]
            gain = math.sqrt(wide.embedding_channels / narrow.embedding_channels) / space.copies
            value = value * gain.reshape([-1] + [1] * (value.ndim - 1))
        out[key] = value
    return out


def paint_encoder(sam: Sam, embedding: Tensor) -> None:
    """Let the image encoder of `sam`, a "vit" with random weights, answer every picture with one embedding.

    Args:
        sam: changed in place.
        embedding: (1, C, E, E) float32, normalised over C.
    """
    encoder = sam.image_encoder
    channels = embedding.shape[1]
    with torch.no_grad():
        encoder.pos_embed.zero_()
        encoder.pos_embed[..., :channels] = embedding.permute(0, 2, 3, 1)
        for module in (encoder.patch_embed.proj, *(m for b in encoder.blocks for m in (b.attn.proj, b.mlp.lin2))):
            module.weight.mul_(BLOCK_GAIN)
            module.bias.zero_()
        neck = encoder.neck
        neck[0].weight.copy_(torch.eye(channels, sam.variant.width)[..., None, None])
        neck[2].weight.zero_()
        neck[2].weight[:, :, 1, 1] = torch.eye(channels)
        for norm in (neck[1], neck[3]):
            norm.weight.fill_(1)
            norm.bias.zero_()


@torch.no_grad()
def painted_sam(wide: SamVariant, tiny: Sam, picture: Tensor, seed: int = 0) -> Sam:
    """A model of variant `wide` that sees one picture as `tiny` does.

    Args:
        wide: a "vit" with an image embedding of the same side as the tiny model's.
        tiny: the model that ships, or one of its kind.
        picture: (1, 3, S, S) normalised, padded picture for `tiny`.
        seed: of the weights of the image encoder's blocks.
    """
    torch.manual_seed(seed)
    sam = build_sam(wide)
    encoder = sam.image_encoder
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name:
            parameter.normal_(std=0.02)
    norm = tiny.image_encoder.neck[3]
    kept: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    tiny.encode(picture)
    handle.remove()
    normed = F.layer_norm(kept[0].permute(0, 2, 3, 1), kept[0].shape[1:2]).permute(0, 3, 1, 2)
    side = wide.image_size // wide.patch_size
    if normed.shape[-1] != side:
        normed = F.interpolate(normed, size=(side, side), mode="bilinear", align_corners=False)
    space = _spaces(tiny.variant, wide)["embedding"]
    paint_encoder(sam, space.widen(normed, 1, read=False))
    encoder.neck[3].weight.copy_(norm.weight[space.source])
    encoder.neck[3].bias.copy_(norm.bias[space.source])
    sam.load_state_dict(widen_decoder(tiny.state_dict(), tiny.variant, wide), strict=False)
    return sam.eval()


def _spaces(narrow: SamVariant, wide: SamVariant) -> dict[str, Space]:
    before, after = narrow.embedding_channels, wide.embedding_channels
    half = Space.spread(before // 2, after // 2)
    hidden = torch.arange(wide.decoder_mlp)
    return {
        # Positional encodings are sines, then cosines: each half is spread by itself.
        "frequency": half,
        "embedding": Space.copied(torch.cat([half.source, half.source + before // 2])),
        "self": Space.spread(before, after),
        "cross": half,
        "mlp": Space(hidden.where(hidden < narrow.decoder_mlp, -1), torch.ones(wide.decoder_mlp)),
        "first": Space.spread(before // 4, after // 4),
        "second": Space.spread(before // 8, after // 8),
    }


def _axes(key: str) -> dict[int, str]:
    for pattern, axes in AXES:
        if re.search(pattern, key):
            return axes
    return {}
