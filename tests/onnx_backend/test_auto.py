"""`auto` with real ONNX files: whole, missing, broken, of another model or another version."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from backend_loader import Step, load_backend
from sam_config import ConfigError, SamConfig
from sam_server.network.variants import VARIANTS
from sam_server.onnx.metadata import PREFIX
from tests.exported import ExportedModel
from tests.onnx_backend.small_model import SMALL

ENCODER, DECODER = "sam_small_encoder.onnx", "sam_small_decoder.onnx"


@pytest.fixture
def config(tmp_path: Path, small_model: ExportedModel, monkeypatch: pytest.MonkeyPatch) -> SamConfig:
    """Checkpoint and ONNX files of the small model, all there."""
    monkeypatch.setitem(VARIANTS, "small", SMALL)
    model_dir = tmp_path / "model"
    shutil.copytree(small_model.onnx_dir, model_dir / "onnx")
    shutil.copy(small_model.checkpoint, model_dir)
    return SamConfig(
        model_type="small",
        use_gpu=False,
        offline=True,
        model_dir=model_dir,
        onnx_dir=model_dir / "onnx",
        intra_op_threads=1,
    )


def set_metadata(path: Path, key: str, value: str) -> None:
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == PREFIX + key:
            entry.value = value
    onnx.save(model, path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"MatMul", b"MatMux"))


def test_onnx_files_go_first(config: SamConfig, small_model: ExportedModel) -> None:
    backend, choice = load_backend(config)
    assert (backend.info.backend, choice.step, choice.fallback_reason) == ("onnx", Step.ONNX_FILES, None)
    assert backend.info.sha256 == small_model.sha256


@pytest.mark.parametrize(
    ("encoder", "decoder", "checkpoint"), [case for case in itertools.product((True, False), repeat=3) if any(case)]
)
def test_every_combination_of_files(config: SamConfig, encoder: bool, decoder: bool, checkpoint: bool) -> None:
    there = {config.onnx_dir / ENCODER: encoder, config.onnx_dir / DECODER: decoder}
    there[config.model_dir / "sam_small.safetensors"] = checkpoint
    for path, keep in there.items():
        if not keep:
            path.unlink()
    if not checkpoint and not (encoder and decoder):
        backend, choice = load_backend(config)  # the model that ships
        assert (choice.step, backend.spec.model_type) == (Step.TINY_MODEL, "tiny")
        assert choice.fallback_reason is not None
        return
    backend, choice = load_backend(config)
    assert backend.info.backend == ("onnx" if encoder and decoder else "pytorch")
    assert backend.spec == SMALL.spec
    if encoder != decoder:
        assert f"{DECODER if encoder else ENCODER} is missing" in str(choice.fallback_reason)
    else:
        assert choice.fallback_reason is None


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not an ONNX file, or cut short"),
    "cut short": (cut, "cut short"),
    "another format": (lambda path: path.write_text("<html>404</html>"), "ONNX file|cut short"),
    "damaged graph": (damage, "cannot be loaded"),
    "another model": (lambda path: set_metadata(path, "model_type", "vit_b"), "of vit_b, not what its name says"),
    "another version": (lambda path: set_metadata(path, "format", "99"), "its format is 99, this version reads 1"),
    "another checkpoint": (lambda path: set_metadata(path, "checkpoint_sha256", "0" * 64), "do not belong together"),
    "another size": (lambda path: set_metadata(path, "image_size", "64"), "do not belong together"),
}


@pytest.mark.parametrize("name", [ENCODER, DECODER])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_lead_to_the_checkpoint_and_are_named(config: SamConfig, kind: str, name: str) -> None:
    break_it, words = BROKEN[kind]
    break_it(config.onnx_dir / name)
    backend, choice = load_backend(config)
    assert (backend.info.backend, choice.step) == ("pytorch", Step.CHECKPOINT)
    assert name in str(choice.fallback_reason)
    assert any(word in str(choice.fallback_reason) for word in words.split("|"))


def test_strict_refuses_broken_files(config: SamConfig) -> None:
    cut(config.onnx_dir / DECODER)
    with pytest.raises(ConfigError, match=r"SAM_STRICT=true.*cut short"):
        load_backend(replace(config, strict=True))


def test_strict_refuses_a_gpu_that_did_not_bind(config: SamConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"SAM_STRICT=true.*SAM_USE_GPU=true.*a GPU was asked for, but this onnxruntime"
    ):
        load_backend(replace(config, strict=True, use_gpu=True))
