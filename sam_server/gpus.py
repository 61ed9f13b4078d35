"""Whether PyTorch may find a GPU, known before it is imported: importing it takes longer than loading a small model."""

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

DEVICES = Path("/dev")

# By the variable that hides devices where it is set to nothing or to -1: files of their drivers. nvidia0 and so on are
# NVIDIA's, nvgpu and nvhost-gpu those of its Tegra, dxg is any GPU in WSL, kfd AMD's.
DRIVER_FILES = {
    "CUDA_VISIBLE_DEVICES": ("nvidia[0-9]*", "nvgpu", "nvhost-gpu", "dxg"),
    "HIP_VISIBLE_DEVICES": ("kfd",),
}


def pytorch_may_have_gpu(environment: Mapping[str, str], devices: Path = DEVICES) -> bool:
    """Say whether the PyTorch of this environment may find a GPU here; imports nothing and starts no driver.

    A driver that is started before a server forks is of no use to its workers, so only files and variables are read.

    Args:
        environment: variables of this process.
        devices: directory of the device files.

    Returns:
        False where it surely finds none: a build for the CPU alone, no driver of NVIDIA's or AMD's, or devices that
        are hidden. Outside of Linux nothing is known, and only a Mac with another processor than Apple's has none.

    Source: CUDA C++ Programming Guide, CUDA_VISIBLE_DEVICES; ROCm, "GPU isolation techniques".
    """
    if _built_for_cpu():
        return False
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform != "linux":
        return True
    seen = [files for mask, files in DRIVER_FILES.items() if not _hidden(environment.get(mask))]
    return any(any(devices.glob(file)) for files in seen for file in files)


def _built_for_cpu() -> bool:
    """PyTorch is not installed, or its version ends in +cpu, as that of the builds without CUDA and ROCm does."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return True


def _hidden(devices: str | None) -> bool:
    return devices is not None and devices.strip() in ("", "-1")
