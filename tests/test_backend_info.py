"""/backend_info tells the truth in each of the four steps of `auto`, over HTTP."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app import create_app
from sam_config import SamConfig
from sam_server.checkpoints.download import sha256_of
from sam_server.checkpoints.table import CHECKPOINTS
from sam_server.network.sam import build_sam
from sam_server.network.variants import VARIANTS
from tests.exported import exported_small
from tests.onnx_backend import small_model
from tests.serving import serving_files

SMALL = replace(small_model.SMALL, name="vit_b")
OFFICIAL = CHECKPOINTS["vit_b"].name


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SamConfig:
    """vit_b on the CPU, from directories that are empty."""
    monkeypatch.setitem(VARIANTS, "vit_b", SMALL)
    onnx_dir = tmp_path / "model" / "onnx"
    onnx_dir.mkdir(parents=True)
    return SamConfig(
        model_type="vit_b",
        use_gpu=False,
        offline=True,
        model_dir=onnx_dir.parent,
        onnx_dir=onnx_dir,
        intra_op_threads=1,
    )


def told(config: SamConfig) -> dict[str, Any]:
    """What /backend_info says once the model is loaded."""
    client = create_app(config).test_client()
    end = time.monotonic() + 120
    while (answer := client.get("/backend_info")).status_code == 503 and time.monotonic() < end:
        time.sleep(0.05)
    assert answer.status_code == 200, answer.text
    info: dict[str, Any] = answer.json
    assert (info["requested_backend"], info["requested_model_type"]) == ("auto", "vit_b")
    assert (info["use_gpu"], info["device"]) == (False, "cpu")
    return info


def put_official(directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint of which the table says that it is the official one; its sha256."""
    directory.mkdir(exist_ok=True)
    path = directory / OFFICIAL
    torch.save(build_sam(SMALL).state_dict(), path)
    row = replace(CHECKPOINTS["vit_b"], size=path.stat().st_size, sha256=sha256_of(path))
    monkeypatch.setitem(CHECKPOINTS, "vit_b", row)
    return row.sha256


def test_onnx_files(config: SamConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = exported_small(tmp_path_factory, SMALL)
    shutil.copytree(model.onnx_dir, config.onnx_dir, dirs_exist_ok=True)
    info = told(config)
    assert (info["backend"], info["model_type"], info["fallback_reason"]) == ("onnx", "vit_b", None)
    assert info["model_files"] == ["sam_vit_b_encoder.onnx", "sam_vit_b_decoder.onnx"]
    assert info["onnx_providers"]
    assert info["sha256"] == model.sha256


def test_checkpoint(config: SamConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = put_official(config.model_dir, monkeypatch)
    info = told(config)
    assert (info["backend"], info["model_type"], info["fallback_reason"]) == ("pytorch", "vit_b", None)
    assert (info["model_files"], info["sha256"], info["onnx_providers"]) == ([OFFICIAL], sha256, [])


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A server of the files in `tmp_path / "mirror"`."""
    with serving_files(tmp_path / "mirror") as url:
        yield url


def test_download(config: SamConfig, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = put_official(tmp_path / "mirror", monkeypatch)
    info = told(replace(config, offline=False, checkpoint_mirror=mirror))
    assert (info["backend"], info["model_type"], info["fallback_reason"]) == ("pytorch", "vit_b", None)
    assert (info["model_files"], info["sha256"]) == ([OFFICIAL], sha256)
    assert (config.model_dir / OFFICIAL).is_file()


def test_the_model_that_ships(config: SamConfig) -> None:
    info = told(config)
    assert (info["backend"], info["model_type"]) == ("onnx", "tiny")
    assert info["model_files"] == ["sam_tiny_encoder.onnx", "sam_tiny_decoder.onnx"]
    assert "vit_b" in info["fallback_reason"]
