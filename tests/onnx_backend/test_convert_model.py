"""The whole conversion, as a person starts it."""

import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import convert_model
from onnx_sam_wrapper import load_onnx_sam
from sam_server.network.variants import SamVariant
from sam_server.onnx.agreement import LIMITS, Agreement, Run, compare, every_kind_of_prompt, mask_iou
from sam_server.onnx.files import find_files, part_path
from sam_server.onnx.metadata import PARTS
from tests.exported import ExportedModel
from tests.onnx_backend.small_model import SMALL, save_checkpoint

ROOT = Path(convert_model.__file__).parent


@pytest.fixture
def settings(small_model: ExportedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SAM_CHECKPOINT is the small model; returns SAM_ONNX_DIR, which does not exist yet."""
    monkeypatch.setenv("SAM_CHECKPOINT", str(small_model.checkpoint))
    monkeypatch.setenv("SAM_ONNX_DIR", str(tmp_path / "onnx"))
    monkeypatch.setenv("SAM_OFFLINE", "true")
    return tmp_path / "onnx"


def test_converts_checks_and_does_it_once(
    settings: Path, small_model: ExportedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert_model.main([]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"engine +torch .*, fp32 +openvino .*, fp32", printed)
    assert re.search(r"IoU of 216 masks, mean +(1\.0|0\.999)", printed)
    for words in ("encode a picture", "decode a click", "most memory", "embedding error", "standard decoder error"):
        assert words in printed
    assert {path.name for path in settings.iterdir()} == {
        ".convert.lock",
        *(part_path(settings, "small", part).name for part in PARTS),
    }
    assert find_files(settings, "small").encoder_metadata.checkpoint_sha256 == small_model.sha256
    assert load_onnx_sam(settings, "small", use_gpu=False).spec == SMALL.spec

    written = {path: path.stat().st_mtime_ns for path in settings.glob("*.onnx")}
    assert convert_model.main([]) == 0
    assert "has small already; --force converts it again" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in settings.glob("*.onnx")} == written


def test_files_that_are_there_are_asked_what_they_are(settings: Path, small_model: ExportedModel) -> None:
    source = convert_model.Source(small_model.checkpoint, SMALL, small_model.sha256)
    there = small_model.onnx_dir
    options = convert_model.ExportOptions()
    assert convert_model.is_converted(source, there, options)
    assert not convert_model.is_converted(source, settings, options)
    assert not convert_model.is_converted(replace(source, sha256="1" * 64), there, options)
    assert not convert_model.is_converted(source, there, replace(options, precision="fp16"))
    assert not convert_model.is_converted(source, there, replace(options, encoder_input="uint8"))


def test_other_weights_fail_and_leave_nothing(
    settings: Path,
    small_model: ExportedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An export gone wrong: what it writes are other weights than those that PyTorch runs."""
    other = save_checkpoint(tmp_path / "other" / "sam_small.safetensors", SMALL, seed=1)
    monkeypatch.setenv("SAM_CHECKPOINT", str(other))

    def export(_checkpoint: Path, _variant: SamVariant, directory: Path, *_options: object) -> list[Path]:
        return [Path(shutil.copy(file, directory)) for file in small_model.onnx_dir.iterdir()]

    monkeypatch.setattr(convert_model, "export_checkpoint", export)
    assert convert_model.main([]) == 1
    said = capsys.readouterr()
    assert re.search(r"FAILED, nothing was written: embedding error .* is above 1e-04; mean IoU", said.err)
    assert "worst" in said.out
    assert [path.name for path in settings.iterdir()] == [".convert.lock"]


def test_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"MODEL_DIR": str(tmp_path), "ONNX_DIR": str(tmp_path / "onnx"), "OFFLINE": "true"}.items():
        monkeypatch.setenv(f"SAM_{name}", value)
    assert convert_model.main(["--model-type", "vit_b"]) == 1
    assert "no checkpoint of vit_b: no checkpoint sam_vit_b_01ec64.pth" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_killed_conversion_leaves_nothing_that_runs(settings: Path) -> None:
    """Killed while it writes; the next one starts from a clean place."""
    process = subprocess.Popen([sys.executable, "convert_model.py"], cwd=ROOT)
    deadline = time.monotonic() + 200
    while not list(settings.glob(".convert-*/*.onnx")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(settings.glob("*.onnx"))
    with convert_model.staging(settings) as stage:
        assert [path for path in settings.iterdir() if path.is_dir()] == [stage]


def run_of(seed: float) -> Run:
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2] = True
    return Run({"a": np.full((1, 2, 2), 1 + seed, np.float32)}, {"a": masks}, 1.0, 0.1, 1, "engine")


def test_agreement_of_a_run_with_itself() -> None:
    agreement = compare(run_of(0), run_of(0))
    assert agreement == Agreement(0.0, 1.0, 1.0, 2)
    assert agreement.failures(LIMITS["fp32"]) == []


@pytest.mark.parametrize(
    ("agreement", "count"),
    [
        (Agreement(2e-4, 1.0, 1.0, 9), 1),
        (Agreement(0.0, 0.998, 0.998, 9), 1),
        (Agreement(0.0, 1.0, 0.98, 9), 1),
        (Agreement(float("nan"), float("nan"), float("nan"), 9), 3),
    ],
)
def test_what_is_beyond_the_limits(agreement: Agreement, count: int) -> None:
    assert len(agreement.failures(LIMITS["fp32"])) == count


def test_mask_iou() -> None:
    one = np.zeros((3, 2, 2), bool)
    other = one.copy()
    one[0, 0, 0] = other[0, 0, :] = one[1, 0, 0] = other[1, 1, 1] = True
    np.testing.assert_array_equal(mask_iou(one, other), np.array([0.5, 0.0, 1.0], np.float32))


def test_prompts_are_of_every_kind() -> None:
    kinds = {prompt.shape for prompt in every_kind_of_prompt(300, 400, 32)}
    shapes = [(1, False), (3, False), (0, True), (2, True)]
    assert kinds == {(*shape, mask) for shape in shapes for mask in (False, True)} | {(0, False, True)}
