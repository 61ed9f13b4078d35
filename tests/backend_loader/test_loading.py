"""What `load_backend` loads, and what it does where something does not load: files, downloads, strict settings."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend_loader import TINY_DIR, BackendChoice, Step, choose_backend, load_backend
from sam_config import ConfigError, SamConfig
from sam_server.backend import SamBackend
from sam_server.checkpoints.download import sha256_of
from sam_server.checkpoints.table import CHECKPOINTS
from sam_server.network.sam import build_sam
from sam_server.onnx.engines import CPU_PROVIDER
from tests.backend_loader.small_files import (
    BOTH,
    OFFICIAL,
    SMALL,
    SMALL_TINY,
    make_official,
    put_checkpoint,
    put_onnx,
)
from tests.serving import serving_files


def test_broken_onnx_files_that_ship_lead_to_its_checkpoint(config: SamConfig, tiny_dir: Path) -> None:
    put_onnx(tiny_dir, "tiny", "encoder", "decoder")
    config = replace(config, model_type="tiny")
    backend, choice = load_backend(config, BOTH, tiny_dir)
    assert (backend.info.backend, backend.spec) == ("pytorch", SMALL_TINY.spec)
    assert "sam_tiny_encoder.onnx and sam_tiny_decoder.onnx did not load" in str(choice.fallback_reason)
    with pytest.raises(ConfigError, match=r"SAM_STRICT=true: .*sam_tiny_encoder\.onnx .*did not load"):
        load_backend(replace(config, strict=True), BOTH, tiny_dir)


def test_what_ships_runs_in_onnx_on_a_processor(config: SamConfig) -> None:
    backend, choice = load_backend(replace(config, model_type="tiny", strict=True))
    assert (backend.info.backend, choice.files[0].parent, choice.fallback_reason) == ("onnx", TINY_DIR, None)


@pytest.mark.parametrize("name", ["sam_vit_b.safetensors", "sam_vit_b.pth", "sam_vit_b.pt"])
def test_own_checkpoint_runs(config: SamConfig, tiny_dir: Path, name: str) -> None:
    path = put_checkpoint(config, name)
    backend, choice = load_backend(config, BOTH, tiny_dir)
    assert choice == BackendChoice("pytorch", "vit_b", (path,), Step.CHECKPOINT, "auto", "vit_b", None)
    assert backend.spec == SMALL.spec
    assert backend.info.sha256 == sha256_of(path)
    assert backend.info.model_files == (str(path),)


def test_config_json_in_the_model_directory_has_no_say(config: SamConfig, tiny_dir: Path) -> None:
    put_checkpoint(config, "sam_vit_b.pth")
    (config.model_dir / "config.json").write_text(SMALL_TINY.to_json())
    assert load_backend(config, BOTH, tiny_dir)[0].spec == SMALL.spec


def test_official_checkpoint_runs(config: SamConfig, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_official(put_checkpoint(config, OFFICIAL), monkeypatch)
    backend, choice = load_backend(replace(config, strict=True), BOTH, tiny_dir)
    assert choice.step == Step.CHECKPOINT
    assert backend.info.sha256 == CHECKPOINTS["vit_b"].sha256


def test_file_with_the_official_name_and_another_hash(config: SamConfig, tiny_dir: Path) -> None:
    path = put_checkpoint(config, OFFICIAL)
    before = path.read_bytes()
    backend, choice = load_backend(replace(config, offline=False), BOTH, tiny_dir)
    assert runs_tiny(backend, choice)
    assert "not the official file of that name" in str(choice.fallback_reason)
    assert "rename it to sam_vit_b.pth" in str(choice.fallback_reason)
    assert path.read_bytes() == before


def test_broken_onnx_files_lead_to_the_checkpoint(config: SamConfig, tiny_dir: Path) -> None:
    put_onnx(config.onnx_dir, "vit_b", "encoder", "decoder")
    put_checkpoint(config, "sam_vit_b.pth")
    backend, choice = load_backend(config, BOTH, tiny_dir)
    assert choice.step == Step.CHECKPOINT
    assert backend.info.backend == "pytorch"
    assert "sam_vit_b_encoder.onnx and sam_vit_b_decoder.onnx did not load" in str(choice.fallback_reason)
    with pytest.raises(ConfigError, match=r"SAM_STRICT=true: .*sam_vit_b_encoder\.onnx .*did not load"):
        load_backend(replace(config, strict=True), BOTH, tiny_dir)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04"])
def test_broken_checkpoint_leads_to_the_tiny_model(config: SamConfig, tiny_dir: Path, content: bytes) -> None:
    (config.model_dir / "sam_vit_b.pth").write_bytes(content)
    backend, choice = load_backend(config, BOTH, tiny_dir)
    assert runs_tiny(backend, choice)
    assert "sam_vit_b.pth" in str(choice.fallback_reason)


def test_checkpoint_of_another_model_leads_to_the_next_step(config: SamConfig, tiny_dir: Path) -> None:
    torch.save(build_sam(replace(SMALL, depth=3)).state_dict(), config.model_dir / "sam_vit_b.pth")
    backend, choice = load_backend(config, BOTH, tiny_dir)
    assert runs_tiny(backend, choice)
    assert "sam_vit_b.pth did not load" in str(choice.fallback_reason)


def test_nothing_there_runs_the_tiny_model_and_says_so(
    config: SamConfig, tiny_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        backend, choice = load_backend(config, BOTH, tiny_dir)
    assert runs_tiny(backend, choice)
    reason = str(choice.fallback_reason)
    assert "no ONNX files of vit_b" in reason
    assert f"no checkpoint {OFFICIAL}" in reason
    assert "SAM_OFFLINE=true" in reason
    assert "FALLBACK: vit_b on auto was asked for, but tiny on pytorch runs." in caplog.text
    assert reason in caplog.text


def test_tiny_asked_for_is_no_fallback(config: SamConfig, tiny_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(config, model_type="tiny", strict=True)
    with caplog.at_level(logging.WARNING):
        backend, choice = load_backend(config, BOTH, tiny_dir)
    assert (choice.step, choice.model_type, choice.fallback_reason) == (Step.TINY_MODEL, "tiny", None)
    assert backend.spec == SMALL_TINY.spec
    assert caplog.messages == []
    put_onnx(config.onnx_dir, "tiny", "encoder", "decoder")
    assert choose_backend(config, BOTH, tiny_dir).step == Step.ONNX_FILES


def test_nothing_at_all(config: SamConfig, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no model can run: no ONNX files of vit_b .*sam_tiny\.safetensors is missing"
    ):
        load_backend(config, BOTH, tmp_path / "nowhere")


def test_named_checkpoint_with_its_config(config: SamConfig, tiny_dir: Path) -> None:
    put_onnx(config.onnx_dir, "vit_b", "encoder", "decoder")
    path = tiny_dir / "sam_tiny.safetensors"
    backend, choice = load_backend(replace(config, checkpoint=path, strict=True), BOTH, tiny_dir)
    assert backend.spec == SMALL_TINY.spec
    assert (choice.files, choice.model_type, choice.fallback_reason) == ((path,), "tiny", None)


def test_named_checkpoint_without_config(config: SamConfig, tiny_dir: Path) -> None:
    path = put_checkpoint(config, "mine.pth")
    backend, _ = load_backend(replace(config, checkpoint=path), BOTH, tiny_dir)
    assert backend.spec == SMALL.spec


def test_named_checkpoint_that_is_broken_runs_nothing_else(config: SamConfig, tiny_dir: Path) -> None:
    path = config.model_dir / "mine.pth"
    path.write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match=r"no model can run: mine\.pth did not load"):
        load_backend(replace(config, checkpoint=path), BOTH, tiny_dir)


def test_strict_refuses_the_cpu_where_a_gpu_was_asked_for(config: SamConfig, tiny_dir: Path) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        expected = "cuda" if torch.cuda.is_available() else "mps"
        backend, _ = load_backend(replace(config, model_type="tiny", use_gpu=True, strict=True), BOTH, tiny_dir)
        assert backend.info.device.startswith(expected)
        return
    with pytest.raises(ConfigError, match=r"SAM_USE_GPU=true, but the model runs on the CPU: .*CUDA|CPU build"):
        load_backend(replace(config, model_type="tiny", use_gpu=True, strict=True), BOTH, tiny_dir)


def test_strict_refuses_another_precision(config: SamConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's CPU provider, which a server without OpenVINO has, computes in fp32 whatever it is asked."""
    monkeypatch.setattr("onnx_sam_wrapper.available_providers", lambda: (CPU_PROVIDER,))
    asked = replace(config, backend="onnx", model_type="tiny", precision="bf16")
    backend, _ = load_backend(asked, BOTH, TINY_DIR)
    assert backend.info.precision == "fp32"
    with pytest.raises(
        ConfigError, match="SAM_PRECISION=bf16, but the model runs in fp32: bf16 was asked for, but CPU"
    ):
        load_backend(replace(asked, strict=True), BOTH, TINY_DIR)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A server of the files in `tmp_path / "mirror"`."""
    (tmp_path / "mirror").mkdir()
    with serving_files(tmp_path / "mirror") as url:
        yield url


def test_checkpoint_is_downloaded(
    config: SamConfig, tiny_dir: Path, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = put_checkpoint(config, OFFICIAL).rename(tmp_path / "mirror" / OFFICIAL)
    make_official(published, monkeypatch)
    config = replace(config, offline=False, checkpoint_mirror=mirror, strict=True)
    backend, choice = load_backend(config, BOTH, tiny_dir)
    assert choice == BackendChoice(
        "pytorch", "vit_b", (config.model_dir / OFFICIAL,), Step.DOWNLOAD, "auto", "vit_b", None
    )
    assert backend.spec == SMALL.spec
    assert load_backend(config, BOTH, tiny_dir)[1].step == Step.CHECKPOINT


def test_download_that_is_refused_leads_to_the_tiny_model(config: SamConfig, tiny_dir: Path, mirror: str) -> None:
    backend, choice = load_backend(replace(config, offline=False, checkpoint_mirror=mirror), BOTH, tiny_dir)
    assert runs_tiny(backend, choice)
    assert "HTTP status 404" in str(choice.fallback_reason)
    with pytest.raises(ConfigError, match=r"SAM_STRICT=true: .*HTTP status 404"):
        load_backend(replace(config, offline=False, checkpoint_mirror=mirror, strict=True), BOTH, tiny_dir)


def test_download_where_nobody_listens_leads_to_the_tiny_model(config: SamConfig, tiny_dir: Path) -> None:
    # Port 9 (discard) of this machine: nothing listens there.
    config = replace(config, offline=False, checkpoint_mirror="http://127.0.0.1:9")
    backend, choice = load_backend(config, BOTH, tiny_dir)
    assert runs_tiny(backend, choice)
    assert "no answer from http://127.0.0.1:9" in str(choice.fallback_reason)


def runs_tiny(backend: SamBackend, choice: BackendChoice) -> bool:
    assert choice.requested_model_type == "vit_b"
    assert choice.fallback_reason
    return backend.spec == SMALL_TINY.spec and choice.model_type == "tiny" and choice.step == Step.TINY_MODEL
