"""Files of models so small that they are written and loaded in a moment."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sam_config import SamConfig
from sam_server.checkpoints.download import sha256_of
from sam_server.checkpoints.table import CHECKPOINTS
from sam_server.network.sam import build_sam
from sam_server.network.variants import SamVariant

BOTH = frozenset({"pytorch", "onnx"})
OFFICIAL = "sam_vit_b_01ec64.pth"

# A vit_b small enough to be written and loaded in a moment.
SMALL = SamVariant(
    name="vit_b",
    width=32,
    depth=2,
    heads=2,
    window=2,
    global_blocks=(1,),
    image_size=64,
    embedding_channels=32,
    decoder_heads=2,
    decoder_mlp=32,
)
SMALL_TINY = replace(SMALL, name="tiny", image_size=32)


def put_checkpoint(config: SamConfig, name: str) -> Path:
    path = config.model_dir / name
    weights = build_sam(SMALL).state_dict()
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


def put_onnx(directory: Path, model_type: str, *parts: str) -> None:
    """Files that have the names of ONNX files, and would not load."""
    for part in parts:
        (directory / f"sam_{model_type}_{part}.onnx").write_bytes(b"not a graph")


def make_official(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the table say that `path` is the official vit_b."""
    row = replace(CHECKPOINTS["vit_b"], size=path.stat().st_size, sha256=sha256_of(path))
    monkeypatch.setitem(CHECKPOINTS, "vit_b", row)
