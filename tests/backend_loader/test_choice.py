"""The order of `auto`, in clean directories: every combination of what is there and what is not; nothing is loaded."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend_loader import Step, choose_backend, installed_backends
from sam_config import ConfigError, SamConfig
from tests.backend_loader.small_files import BOTH, OFFICIAL, put_onnx

ONNX_FILES = {"no onnx": (), "onnx": ("encoder", "decoder"), "encoder only": ("encoder",)}
CHECKPOINT_FILES = {"no checkpoint": None, "official": OFFICIAL, "own": "sam_vit_b.safetensors"}


@pytest.mark.parametrize(
    ("backend", "onnx", "checkpoint", "offline", "tiny_onnx"),
    list(itertools.product(("auto", "pytorch", "onnx"), ONNX_FILES, CHECKPOINT_FILES, (True, False), (True, False))),
)
def test_every_combination_of_files(
    config: SamConfig, tiny_dir: Path, backend: str, onnx: str, checkpoint: str, offline: bool, tiny_onnx: bool
) -> None:
    config = replace(config, backend=backend, offline=offline)
    put_onnx(config.onnx_dir, "vit_b", *ONNX_FILES[onnx])
    if tiny_onnx:
        put_onnx(config.onnx_dir, "tiny", "encoder", "decoder")
    name = CHECKPOINT_FILES[checkpoint]
    if name is not None:
        (config.model_dir / name).write_bytes(b"")

    choice = choose_backend(config, BOTH, tiny_dir)

    there = {
        (Step.ONNX_FILES, "onnx", "vit_b"): onnx == "onnx",
        (Step.CHECKPOINT, "pytorch", "vit_b"): name is not None,
        (Step.DOWNLOAD, "pytorch", "vit_b"): not offline and name is None,
    }
    if backend == "pytorch":
        there = dict([*list(there.items())[1:], *list(there.items())[:1]])
    there[(Step.TINY_MODEL, "onnx", "tiny")] = tiny_onnx and backend != "pytorch"
    there[(Step.TINY_MODEL, "pytorch", "tiny")] = True
    assert (choice.step, choice.backend, choice.model_type) == next(key for key, value in there.items() if value)

    asked_for = choice.model_type == "vit_b" and backend in ("auto", choice.backend)
    half_there = onnx == "encoder only" and backend != "pytorch"
    assert (choice.fallback_reason is None) == (asked_for and not half_there)
    if choice.fallback_reason is None:
        assert choose_backend(replace(config, strict=True), BOTH, tiny_dir) == choice
    else:
        with pytest.raises(ConfigError, match=r"SAM_STRICT=true: vit_b on .* was asked for"):
            choose_backend(replace(config, strict=True), BOTH, tiny_dir)


@pytest.mark.parametrize(
    ("installed", "backend", "onnx", "checkpoint", "expected"),
    [
        ({"onnx"}, "auto", True, True, ("onnx", "vit_b", False)),
        ({"onnx"}, "auto", False, True, None),
        ({"onnx"}, "pytorch", True, True, ("onnx", "vit_b", True)),
        ({"pytorch"}, "auto", True, True, ("pytorch", "vit_b", True)),
        ({"pytorch"}, "auto", False, True, ("pytorch", "vit_b", False)),
        ({"pytorch"}, "onnx", True, True, ("pytorch", "vit_b", True)),
        ({"pytorch"}, "onnx", True, False, ("pytorch", "tiny", True)),
        (set(), "auto", True, True, None),
    ],
)
def test_engines_that_are_not_installed(
    config: SamConfig,
    tiny_dir: Path,
    installed: set[str],
    backend: str,
    onnx: bool,
    checkpoint: bool,
    expected: tuple[str, str, bool] | None,
) -> None:
    config = replace(config, backend=backend)
    if onnx:
        put_onnx(config.onnx_dir, "vit_b", "encoder", "decoder")
    if checkpoint:
        (config.model_dir / OFFICIAL).write_bytes(b"")
    if expected is None:
        with pytest.raises(ConfigError, match=r"no model can run: .*installed"):
            choose_backend(config, frozenset(installed), tiny_dir)
        return
    choice = choose_backend(config, frozenset(installed), tiny_dir)
    assert (choice.backend, choice.model_type, choice.fallback_reason is not None) == expected
    if expected[2]:
        assert "installed" in str(choice.fallback_reason)


@pytest.mark.parametrize(
    ("installed", "backend", "expected"),
    [
        (BOTH, "auto", ("onnx", None)),
        (BOTH, "pytorch", ("pytorch", None)),
        (BOTH, "onnx", ("onnx", None)),
        ({"onnx"}, "auto", ("onnx", None)),
        ({"onnx"}, "pytorch", ("onnx", "torch is not installed")),
        ({"pytorch"}, "auto", ("pytorch", None)),
        ({"pytorch"}, "onnx", ("pytorch", "neither onnxruntime nor openvino is installed")),
    ],
)
def test_onnx_files_of_the_model_that_ships(
    config: SamConfig, tiny_dir: Path, installed: set[str], backend: str, expected: tuple[str, str | None]
) -> None:
    put_onnx(tiny_dir, "tiny", "encoder", "decoder")
    config = replace(config, model_type="tiny", backend=backend)
    choice = choose_backend(config, frozenset(installed), tiny_dir)
    assert choice.backend == expected[0]
    assert choice.files[0].parent == tiny_dir
    assert choice.fallback_reason is None if expected[1] is None else expected[1] in str(choice.fallback_reason)

    put_onnx(config.onnx_dir, "tiny", "encoder", "decoder")  # those that somebody made go first
    choice = choose_backend(config, frozenset(installed), tiny_dir)
    if "onnx" in installed and backend != "pytorch":
        assert (choice.backend, choice.files[0].parent) == ("onnx", config.onnx_dir)


@pytest.mark.parametrize(
    ("gpu", "settings", "expected"),
    [
        (True, {}, "onnx"),
        (True, {"use_gpu": True}, "pytorch"),
        (True, {"use_gpu": True, "precision": "int8"}, "onnx"),
        (False, {"use_gpu": True}, "onnx"),
        (False, {"use_gpu": True, "performance_mode": True}, "onnx"),
        (False, {"precision": "fp32"}, "onnx"),
        (False, {"precision": "bf16"}, "pytorch"),
        (False, {"precision": "fp16"}, "pytorch"),
        (False, {"torch_compile": True}, "pytorch"),
    ],
)
@pytest.mark.parametrize("model_type", ["tiny", "vit_b"])
def test_which_form_of_the_model_that_ships(
    config: SamConfig,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool,
    settings: dict[str, Any],
    expected: str,
    model_type: str,
) -> None:
    """The fastest: ONNX on a processor, PyTorch where it may have a GPU or what was asked for is its alone."""
    monkeypatch.setattr("backend_loader.pytorch_may_have_gpu", lambda _: gpu)
    put_onnx(tiny_dir, "tiny", "encoder", "decoder")
    choice = choose_backend(replace(config, model_type=model_type, **settings), BOTH, tiny_dir)
    assert (choice.step, choice.backend) == (Step.TINY_MODEL, expected)
    assert ("SAM_OFFLINE" in str(choice.fallback_reason)) == (model_type == "vit_b")


def test_engines_of_this_environment() -> None:
    assert installed_backends() == BOTH
