"""Every variant of SAM as one frozen row. Needs no torch."""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from sam_server.backend import ModelSpec

# The mask decoder ends with an eighth of the embedding's channels (segment_anything/modeling/mask_decoder.py).
UPSCALING_DIVISOR = 8

# Fields that are whole numbers, each with its least value; window 0 is the whole picture.
WHOLE_NUMBERS = {
    "width": 1,
    "depth": 1,
    "heads": 1,
    "window": 0,
    "image_size": 1,
    "patch_size": 1,
    "embedding_channels": 1,
    "decoder_depth": 1,
    "decoder_heads": 1,
    "decoder_mlp": 1,
}

# Fields that are one or more numbers, and how many.
NUMBERS = {"mlp_ratio": 1, "mask_threshold": 1, "pixel_mean": 3, "pixel_std": 3}


@dataclass(frozen=True)
class SamVariant:
    """The dimensions of one SAM.

    Attributes:
        name: model type, such as "vit_b".
        encoder: which image encoder builds it: "vit" or "conv_vit" (rows of `sam.IMAGE_ENCODERS`).
        width, depth, heads: of the transformer blocks.
        window: side of the attention windows, in cells.
        global_blocks: indices of the blocks that attend to the whole picture.
        image_size: side of the square input, in pixels.
        patch_size: pixels of the input per cell of the embedding, each way.
        embedding_channels: channels of the image embedding, width of prompt encoder and mask decoder.
        mlp_ratio: hidden width of the blocks' MLP over their width.
        stem: channels of the convolutions at strides 4 and 8, before the blocks ("conv_vit" only).
        decoder_depth, decoder_heads, decoder_mlp: of the two-way transformer.
        mask_threshold: logit above which a pixel is foreground.
        pixel_mean, pixel_std: of the RGB channels, in 0..255.

    Source: segment_anything/build_sam.py for the vit rows.
    """

    name: str
    width: int
    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    encoder: str = "vit"
    image_size: int = 1024
    patch_size: int = 16
    embedding_channels: int = 256
    mlp_ratio: float = 4.0
    stem: tuple[int, ...] = ()
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    mask_threshold: float = 0.0
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        for name, least in WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name in ("global_blocks", "stem"):
            if any(type(value) is not int for value in _tuple(self, name)):
                raise ValueError(f"{name} must hold whole numbers, not {getattr(self, name)!r}")
        for name, count in NUMBERS.items():
            values = _tuple(self, name) if count > 1 else (getattr(self, name),)
            if len(values) != count or not all(_is_finite(value) for value in values):
                raise ValueError(f"{name} must be {count} finite number(s), not {getattr(self, name)!r}")
        if min(self.mlp_ratio, *self.pixel_std, *self.stem) <= 0:
            raise ValueError("mlp_ratio, pixel_std and stem must be larger than 0")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.embedding_channels % UPSCALING_DIVISOR:
            raise ValueError(
                f"embedding_channels {self.embedding_channels} is not a multiple of {UPSCALING_DIVISOR}, "
                "by which the mask decoder divides it"
            )
        if any(not 0 <= block < self.depth for block in self.global_blocks):
            raise ValueError(f"global_blocks {self.global_blocks} must lie in 0..{self.depth - 1}")

    @property
    def spec(self) -> ModelSpec:
        """What callers of a backend need to know of this variant."""
        return ModelSpec(
            model_type=self.name,
            image_size=self.image_size,
            embedding_size=self.image_size // self.patch_size,
            embedding_channels=self.embedding_channels,
            mask_threshold=self.mask_threshold,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
        )

    def to_json(self) -> str:
        """The row as JSON; `from_json` reads it back to an equal row."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "SamVariant":
        """Read a row that `to_json` wrote.

        Raises:
            ValueError: the text is not JSON, or a field is unknown, missing or out of range.
        """
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"model config is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"model config is a {type(values).__name__}, not an object with fields")
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise ValueError(f"model config has unknown fields: {', '.join(sorted(unknown))}")
        rows: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        try:
            return cls(**rows)
        except TypeError as error:
            raise ValueError(f"model config is incomplete: {error}") from None


def _tuple(variant: SamVariant, name: str) -> tuple[Any, ...]:
    value: Any = getattr(variant, name)
    if not isinstance(value, tuple):
        raise ValueError(f"{name} must be a list, not {value!r}")
    return value


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


VARIANTS: dict[str, SamVariant] = {
    variant.name: variant
    for variant in (
        SamVariant("vit_b", width=768, depth=12, heads=12, window=14, global_blocks=(2, 5, 8, 11)),
        SamVariant("vit_l", width=1024, depth=24, heads=16, window=14, global_blocks=(5, 11, 17, 23)),
        SamVariant("vit_h", width=1280, depth=32, heads=16, window=14, global_blocks=(7, 15, 23, 31)),
        SamVariant(
            "tiny",
            encoder="conv_vit",
            width=160,
            depth=8,
            heads=5,
            window=8,
            global_blocks=(2, 5, 7),
            image_size=640,
            patch_size=8,
            embedding_channels=96,
            mlp_ratio=3.0,
            stem=(48, 96),
            decoder_mlp=384,
        ),
    )
}
