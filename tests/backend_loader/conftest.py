"""Directories that hold nothing but the model that ships."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from sam_config import SamConfig
from sam_server.network.sam import build_sam
from sam_server.network.variants import VARIANTS
from tests.backend_loader.small_files import SMALL, SMALL_TINY


@pytest.fixture
def tiny_dir(tmp_path: Path) -> Path:
    """The model that ships, with small weights."""
    directory = tmp_path / "shipped"
    directory.mkdir()
    save_file(build_sam(SMALL_TINY).state_dict(), directory / "sam_tiny.safetensors")
    (directory / "config.json").write_text(SMALL_TINY.to_json())
    return directory


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SamConfig:
    """vit_b on the CPU, from directories that are empty."""
    monkeypatch.setitem(VARIANTS, "vit_b", SMALL)
    (tmp_path / "model" / "onnx").mkdir(parents=True)
    return SamConfig(
        model_type="vit_b",
        use_gpu=False,
        offline=True,
        model_dir=tmp_path / "model",
        onnx_dir=tmp_path / "model" / "onnx",
        intra_op_threads=1,
    )
