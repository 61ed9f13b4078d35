"""The official dimensions at full size, with random weights: a ViT-B at 1024 in ONNX against PyTorch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert_to_onnx import ExportOptions, export_checkpoint
from onnx_sam_wrapper import load_onnx_sam
from pytorch_sam_wrapper import load_pytorch_sam
from sam_server.network.variants import VARIANTS
from sam_server.onnx.agreement import every_kind_of_prompt, mask_iou
from sam_server.predictor import Prediction, Predictor
from tests.onnx_backend.small_model import save_checkpoint
from tests.reference.pictures import photographs

PIXELS = photographs()["landscape"]
# A block with windows and one without, of the twelve: the others are the same, and each is exported for seconds.
VARIANT = replace(VARIANTS["vit_b"], depth=2, global_blocks=(1,))


def answers(predictor: Predictor) -> tuple[np.ndarray, list[Prediction]]:
    embedding = predictor.encode(PIXELS)
    prompts = every_kind_of_prompt(*PIXELS.shape[:2], predictor.backend.spec.low_res_size)
    return predictor.backend.embedding_array(embedding), predictor.predict(embedding, prompts)


@pytest.mark.timeout(900)
def test_onnx_equals_pytorch(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model" / "sam_vit_b.safetensors", VARIANT)
    export_checkpoint(checkpoint, VARIANT, tmp_path, ExportOptions(), "0" * 64)
    expected, predictions = answers(Predictor(load_pytorch_sam(checkpoint, use_gpu=False, precision="fp32")))
    found, others = answers(Predictor(load_onnx_sam(tmp_path, "vit_b", use_gpu=False)))
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)
    iou = np.concatenate([mask_iou(one.masks, other.masks) for one, other in zip(others, predictions, strict=True)])
    assert iou.mean() >= 0.999
    assert iou.min() >= 0.99
