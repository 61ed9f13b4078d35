"""Whether PyTorch may have a GPU, by the files of drivers and the variables that hide devices."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sam_server.gpus import pytorch_may_have_gpu


@pytest.fixture(autouse=True)
def cuda_build_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch as the package index has it."""
    monkeypatch.setattr(importlib.metadata, "version", {"torch": "2.13.0"}.__getitem__)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.parametrize(
    ("files", "hidden", "expected"),
    [
        ([], None, False),
        (["null", "dri", "nvidiactl", "nvidia-uvm"], None, False),  # the driver, and no device of it
        (["nvidia0"], None, True),
        (["nvidia0", "nvidia1"], "CUDA_VISIBLE_DEVICES=1", True),
        (["nvidia0"], "CUDA_VISIBLE_DEVICES=", False),
        (["nvidia0"], "CUDA_VISIBLE_DEVICES=-1", False),
        (["nvidia0"], "HIP_VISIBLE_DEVICES=", True),
        (["nvhost-gpu"], None, True),
        (["dxg"], None, True),
        (["kfd"], None, True),
        (["kfd"], "HIP_VISIBLE_DEVICES=-1", False),
        (["nvidia0", "kfd"], "CUDA_VISIBLE_DEVICES=", True),
    ],
)
def test_by_device_files(tmp_path: Path, files: list[str], hidden: str | None, expected: bool) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert pytorch_may_have_gpu(dict([hidden.split("=")]) if hidden else {}, tmp_path) is expected


def test_a_build_for_the_cpu_finds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(importlib.metadata, "version", {"torch": "2.13.0+cpu"}.__getitem__)
    assert not pytorch_may_have_gpu({}, tmp_path)


def test_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert not pytorch_may_have_gpu({}, tmp_path)


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [("darwin", "arm64", True), ("darwin", "x86_64", False), ("win32", "AMD64", True)],
)
def test_other_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, expected: bool
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert pytorch_may_have_gpu({}, tmp_path) is expected


def asked() -> list[str]:
    """What a process of its own is told, and whether torch was imported for it."""
    code = """
import os, sys
from sam_server.gpus import pytorch_may_have_gpu
print(pytorch_may_have_gpu(os.environ), "torch" in sys.modules)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_imports_no_engine() -> None:
    assert asked()[1] == "False"


@pytest.mark.gpu
def test_a_gpu_that_pytorch_has_is_not_missed() -> None:
    assert torch.cuda.is_available()
    assert asked()[0] == "True"
