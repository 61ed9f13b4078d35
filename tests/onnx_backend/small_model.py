"""A model small enough to be exported in a moment."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from sam_server.network.sam import build_sam
from sam_server.network.variants import SamVariant

# A ViT with both kinds of attention, whose windows do not divide the grid.
SMALL = SamVariant(
    name="small",
    width=32,
    depth=2,
    heads=2,
    window=3,
    global_blocks=(1,),
    image_size=128,
    embedding_channels=32,
    decoder_heads=2,
    decoder_mlp=64,
)
# Spread of the random weights; larger than a fresh model's, so that logits take both signs.
SPREAD = 0.2


def save_checkpoint(path: Path, variant: SamVariant, seed: int = 0) -> Path:
    """Random weights and their config.json."""
    torch.manual_seed(seed)
    sam = build_sam(variant)
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter += SPREAD * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(sam.state_dict(), path)
    (path.parent / "config.json").write_text(variant.to_json())
    return path
