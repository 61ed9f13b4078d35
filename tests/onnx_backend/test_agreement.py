"""The model that ships: ONNX against PyTorch on photographs, with prompts of every kind and in every precision."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from backend_loader import TINY_DIR
from convert_to_onnx import ExportOptions, export_checkpoint
from onnx_sam_wrapper import load_onnx_sam
from pytorch_sam_wrapper import load_pytorch_sam
from sam_server.backend import SamBackend
from sam_server.checkpoints.download import sha256_of
from sam_server.network.variants import VARIANTS
from sam_server.onnx.agreement import every_kind_of_prompt, mask_iou, worst_iou
from sam_server.onnx.engines import CPU_PROVIDER, OPENVINO
from sam_server.onnx.files import part_path
from sam_server.onnx.metadata import DECODER
from sam_server.predictor import Predictor
from tests.exported import exported_tiny
from tests.reference.pictures import photographs

CHECKPOINT = TINY_DIR / "sam_tiny.safetensors"
PICTURES = ("square", "landscape", "portrait", "odd", "grey", "large")


@dataclass(frozen=True)
class Answers:
    """By picture: embedding (C, E, E), and masks (N, 3, H, W) of N prompts of every kind."""

    embeddings: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


def answers(backend: SamBackend) -> Answers:
    predictor = Predictor(backend)
    embeddings, masks = {}, {}
    for name in PICTURES:
        pixels = photographs()[name]
        embedding = predictor.encode(pixels)
        embeddings[name] = backend.embedding_array(embedding)
        prompts = every_kind_of_prompt(*pixels.shape[:2], backend.spec.low_res_size)
        masks[name] = np.stack([prediction.masks for prediction in predictor.predict(embedding, prompts)])
    return Answers(embeddings, masks)


@pytest.fixture(scope="module")
def expected() -> Answers:
    return answers(load_pytorch_sam(CHECKPOINT, use_gpu=False, precision="fp32"))


@pytest.fixture(scope="module")
def onnx_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_tiny(tmp_path_factory).onnx_dir


def ious(backend: SamBackend, expected: Answers) -> tuple[float, np.ndarray]:
    """Largest relative error of an embedding, and IoU of every mask."""
    found = answers(backend)
    assert sum(len(masks) for masks in expected.masks.values()) >= 200
    errors = [
        np.linalg.norm(found.embeddings[name] - embedding) / np.linalg.norm(embedding)
        for name, embedding in expected.embeddings.items()
    ]
    each = [
        mask_iou(found.masks[name].reshape(-1, *masks.shape[2:]), masks.reshape(-1, *masks.shape[2:]))
        for name, masks in expected.masks.items()
    ]
    error, every = float(max(errors)), np.concatenate(each)
    print(f"{backend.info.precision}, {backend.info.engine}: embedding error {error:.0e}, mean IoU {every.mean():.4f}")
    return error, every


@pytest.mark.parametrize("provider", [OPENVINO, CPU_PROVIDER])
def test_fp32_equals_pytorch(onnx_dir: Path, expected: Answers, provider: str) -> None:
    error, iou = ious(load_onnx_sam(onnx_dir, "tiny", [provider]), expected)
    assert error <= 1e-4
    assert iou.mean() >= 0.999
    assert iou.min() >= 0.99


def test_bf16_is_near(onnx_dir: Path, expected: Answers) -> None:
    """The encoder alone: a decoder as narrow as this one's would give masks of a mean IoU of 0.92."""
    _, iou = ious(load_onnx_sam(onnx_dir, "tiny", [OPENVINO], precision="bf16"), expected)
    assert iou.mean() >= 0.98


def test_bf16_is_near_in_pytorch(expected: Answers) -> None:
    _, iou = ious(load_pytorch_sam(CHECKPOINT, use_gpu=False, precision="bf16"), expected)
    assert iou.mean() >= 0.97  # its encoder rounds more often than OpenVINO's


@pytest.mark.parametrize(("precision", "what"), [("fp16", "both"), ("int8", "encoder")])
def test_narrow_weights_are_near(onnx_dir: Path, tmp_path: Path, expected: Answers, precision: str, what: str) -> None:
    directory = shutil.copytree(onnx_dir, tmp_path / "onnx")  # with int8, the decoders are those of fp32
    export_checkpoint(
        CHECKPOINT, VARIANTS["tiny"], directory, ExportOptions(precision, what=what), sha256_of(CHECKPOINT)
    )
    backend = load_onnx_sam(directory, "tiny", use_gpu=False)
    assert backend.info.precision == precision
    spec = VARIANTS["tiny"].spec
    stored = [list(tensor.dims) for tensor in onnx.load(part_path(directory, "tiny", DECODER)).graph.initializer]
    assert [1, spec.embedding_size**2, spec.embedding_channels] not in stored  # the positional encoding is computed
    _, iou = ious(backend, expected)
    assert iou.mean() >= 0.97


def test_a_single_pixel_is_rounding():
    mask = np.zeros((1, 20, 20), bool)
    mask[0, :9, :10] = True
    one, two = mask.copy(), mask.copy()
    one[0, 9, :1], two[0, 9, :2] = True, True
    assert worst_iou(one, mask) == 1
    assert worst_iou(two, mask) == pytest.approx(90 / 92)
    assert worst_iou(np.concatenate([mask, two, one]), np.concatenate([mask, mask, mask])) == pytest.approx(90 / 92)
    assert mask_iou(one, mask) == pytest.approx(90 / 91)
