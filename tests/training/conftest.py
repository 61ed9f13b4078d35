import pytest

from sam_server.network.variants import SamVariant
from training.config import Stage, TrainConfig


@pytest.fixture(scope="session")
def small_variant() -> SamVariant:
    """A SAM that learns a handful of scenes within seconds."""
    return SamVariant(
        "small",
        encoder="conv_vit",
        width=64,
        depth=2,
        heads=2,
        window=4,
        global_blocks=(1,),
        image_size=128,
        patch_size=8,
        embedding_channels=64,
        mlp_ratio=2.0,
        stem=(24, 48),
        decoder_mlp=128,
    )


@pytest.fixture(scope="session")
def small_config(small_variant: SamVariant) -> TrainConfig:
    stages = (Stage(64, 0.5, batch=2, masks=2, rounds=2), Stage(128, 0.5, batch=1, masks=2, rounds=2))
    return TrainConfig(small_variant, stages, steps=6, seed=3, learning_rate=1e-3)
