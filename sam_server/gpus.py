"""Whether PyTorch may find a GPU, known before it is imported: importing it takes longer than loading a small model."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

DEVICES = Path("/dev")

# Files of the drivers, and the variables that hide their devices where they are set to nothing or to -1.
# nvidia0, ...: NVIDIA; nvgpu, nvhost-gpu: its Tegra; dxg: any GPU in WSL; kfd: AMD.
NVIDIA_FILES, NVIDIA_MASK = ("nvidia[0-9]*", "nvgpu", "nvhost-gpu", "dxg"), "CUDA_VISIBLE_DEVICES"
AMD_FILES, AMD_MASK = ("kfd",), "HIP_VISIBLE_DEVICES"


def pytorch_may_have_gpu(devices: Path = DEVICES) -> bool:
    """Say whether the PyTorch of this environment may find a GPU here; imports nothing and starts no driver.

    A driver that is started before a server forks is of no use to its workers, so only files and variables are read.

    Args:
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
    families = ((NVIDIA_FILES, NVIDIA_MASK), (AMD_FILES, AMD_MASK))
    return any(not _hidden(mask) and any(any(devices.glob(file)) for file in files) for files, mask in families)


def _built_for_cpu() -> bool:
    """PyTorch is not installed, or its version ends in +cpu, as that of the builds without CUDA and ROCm does."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return True


def _hidden(mask: str) -> bool:
    value = os.environ.get(mask)
    return value is not None and value.strip() in ("", "-1")
