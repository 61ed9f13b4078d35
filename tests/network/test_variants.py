"""Variants as JSON, and values that make no sense."""

import json
from dataclasses import asdict, replace

import pytest

from sam_server.network.variants import VARIANTS, SamVariant

CUSTOM = replace(
    VARIANTS["tiny"],
    name="custom",
    window=0,
    mlp_ratio=2.5,
    mask_threshold=-0.5,
    pixel_mean=(1.0, 2.0, 3.0),
    pixel_std=(4.0, 5.0, 6.0),
)


@pytest.mark.parametrize("variant", [*VARIANTS.values(), CUSTOM], ids=lambda variant: variant.name)
def test_json_round_trip(variant: SamVariant) -> None:
    again = SamVariant.from_json(variant.to_json())
    assert again == variant
    assert hash(again) == hash(variant)  # lists of the JSON became tuples again


@pytest.mark.parametrize(
    ("model_type", "width", "depth", "heads", "global_blocks"),
    [
        ("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        ("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        ("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    ],
)
def test_official_dimensions(
    model_type: str, width: int, depth: int, heads: int, global_blocks: tuple[int, ...]
) -> None:
    variant = VARIANTS[model_type]
    assert (variant.width, variant.depth, variant.heads) == (width, depth, heads)
    assert variant.global_blocks == global_blocks
    assert variant.window == 14
    spec = variant.spec
    assert (spec.model_type, spec.image_size, spec.embedding_size, spec.low_res_size) == (model_type, 1024, 64, 256)
    assert spec.embedding_channels == 256
    assert spec.pixel_mean == (123.675, 116.28, 103.53)
    assert spec.pixel_std == (58.395, 57.12, 57.375)


def test_spec_carries_what_the_variant_says() -> None:
    spec = CUSTOM.spec
    assert (spec.image_size, spec.embedding_size) == (CUSTOM.image_size, CUSTOM.image_size // CUSTOM.patch_size)
    assert spec.mask_threshold == -0.5
    assert (spec.pixel_mean, spec.pixel_std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("3", "is a int, not an object"),
        ('["name"]', "is a list, not an object"),
        ("null", "is a NoneType, not an object"),
        ("{}", "incomplete: .*missing 6 required"),
        (json.dumps({**asdict(CUSTOM), "depht": 3, "colour": 1}), "unknown fields: colour, depht"),
    ],
)
def test_text_that_is_no_variant(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamVariant.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": "160"}, "width must be a whole number of at least 1, not '160'"),
        ({"width": 160.0}, "width must be a whole number"),
        ({"depth": True}, "depth must be a whole number"),
        ({"heads": 0}, "heads must be a whole number of at least 1, not 0"),
        ({"patch_size": 0}, "patch_size must be"),
        ({"window": -1}, "window must be a whole number of at least 0"),
        ({"window": None}, "window must be"),
        ({"image_size": 500}, "image_size 500 is not a multiple of patch_size"),
        ({"heads": 7}, "width 160 is not a multiple of heads 7"),
        ({"embedding_channels": 100}, "embedding_channels 100 is not a multiple of 8"),
        ({"stem": [8, 0]}, "stem must be larger than 0"),
        ({"stem": ["8"]}, "stem must hold whole numbers"),
        ({"stem": 8}, "stem must be a list"),
        ({"global_blocks": [8]}, r"global_blocks \(8,\) must lie in 0..7"),
        ({"global_blocks": [-1]}, r"must lie in 0..7"),
        ({"global_blocks": 2}, "global_blocks must be a list, not 2"),
        ({"mlp_ratio": 0}, "mlp_ratio, pixel_std and stem must be larger than 0"),
        ({"mask_threshold": float("nan")}, "mask_threshold must be 1 finite"),
        ({"pixel_mean": [1, 2]}, "pixel_mean must be 3 finite"),
        ({"pixel_std": [1, 2, float("inf")]}, "pixel_std must be 3 finite"),
        ({"pixel_std": [1, 2, 0]}, "pixel_std and stem must be larger than 0"),
    ],
)
def test_values_that_make_no_sense_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamVariant.from_json(json.dumps({**asdict(CUSTOM), **changes}))
