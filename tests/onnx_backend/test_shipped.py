"""The ONNX files that ship beside the tiny model's checkpoint: the same model, small, and never forgotten."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from skimage import data

from backend_loader import TINY_DIR
from onnx_sam_wrapper import load_onnx_sam
from pytorch_sam_wrapper import load_pytorch_sam
from sam_server.checkpoints.download import sha256_of
from sam_server.network.variants import VARIANTS
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt

CHECKPOINT = TINY_DIR / "sam_tiny.safetensors"
FILES = [TINY_DIR / f"sam_tiny_{part}.onnx" for part in ("encoder", "decoder")]
MAX_BYTES = 16_000_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_of_this_checkpoint(path: Path) -> None:
    onnx.checker.check_model(path)
    found = load_onnx_sam(TINY_DIR, "tiny", use_gpu=False).info.sha256
    command = "python convert_model.py --model-type tiny"
    assert found == sha256_of(CHECKPOINT), f"new weights: run `{command}` and copy encoder and decoder"


def test_they_give_the_masks_of_the_checkpoint() -> None:
    picture = data.coffee()
    prompts = [make_prompt([point], [1]) for point in ((300, 200), (120, 90), (480, 330))]
    backends = load_pytorch_sam(CHECKPOINT, use_gpu=False), load_onnx_sam(TINY_DIR, "tiny", use_gpu=False)
    masks = []
    for predictor in map(Predictor, backends):
        embedding = predictor.encode(picture)
        masks.append(np.stack([prediction.masks for prediction in predictor.predict(embedding, prompts)]))
    union, both = masks[0] | masks[1], masks[0] & masks[1]
    assert both.sum() / union.sum() >= 0.999


def test_positions_are_computed_when_the_decoder_is_loaded() -> None:
    """Stored, they would be the largest thing in the file."""
    spec = VARIANTS["tiny"].spec
    graph = onnx.load(TINY_DIR / "sam_tiny_decoder.onnx").graph
    assert {"Sin", "Cos"} <= {node.op_type for node in graph.node if node.name.endswith((".sin", ".cos"))}
    stored = [list(tensor.dims) for tensor in graph.initializer]
    assert [1, spec.embedding_size**2, spec.embedding_channels] not in stored


def test_the_model_that_ships_stays_small() -> None:
    assert sum(path.stat().st_size for path in TINY_DIR.iterdir()) < MAX_BYTES
