"""One small model for all tests of this room."""

import pytest

from convert_to_onnx import ExportOptions, export_checkpoint
from sam_server.checkpoints.download import sha256_of
from tests.onnx_backend.small_model import SMALL, SmallModel, save_checkpoint


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    """SMALL with random weights, exported."""
    directory = tmp_path_factory.mktemp("small")
    checkpoint = save_checkpoint(directory / "model" / "sam_small.safetensors", SMALL)
    onnx_dir = directory / "onnx"
    onnx_dir.mkdir()
    sha256 = sha256_of(checkpoint)
    export_checkpoint(checkpoint, SMALL, onnx_dir, ExportOptions(), sha256)
    return SmallModel(checkpoint, onnx_dir, sha256)
