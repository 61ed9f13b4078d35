"""Read weights from a file: tensors and nothing else, so that no file can run code."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# A trainer may wrap the weights in one of these keys, beside its own state.
WRAPPER_KEYS = ("model", "state_dict")
ZIP_MAGIC = b"PK\x03\x04"
# How torch's restricted unpickler names a class or function that it refuses.
FOREIGN_OBJECT = re.compile(r"Unsupported (global|class)", re.IGNORECASE)


class CheckpointError(ValueError):
    """A file that is not a checkpoint; the message says what it is and what to do."""


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors, mapped from the file where its format allows, on the CPU.

    Args:
        path: .safetensors file, or .pth or .pt file as `torch.save(model.state_dict(), path)` writes it.

    Returns:
        Tensors by key, in the file's dtypes.

    Raises:
        CheckpointError: there is no such file, it is cut short, it is no checkpoint, or it holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _tensors(_load_pickle(path), path)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is cut short or not a safetensors file ({error}); fetch it again") from None


def _load_pickle(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    if not zipped:
        with path.open("rb") as file:
            magic = file.read(len(ZIP_MAGIC))
        if magic == ZIP_MAGIC:
            raise CheckpointError(f"{path} is cut short: the end of the file is missing; fetch it again")
    try:
        # torch maps only its zip format; files from before torch 1.6 are read into memory.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # from bytes that are no checkpoint the unpickler raises almost anything
        if isinstance(error, pickle.UnpicklingError) and FOREIGN_OBJECT.search(str(error)):
            raise CheckpointError(
                f"{path} holds objects other than tensors, which could run code, so it is not read; "
                "write it again with torch.save(model.state_dict(), path) or as .safetensors"
            ) from None
        raise CheckpointError(f"{path} is broken or not a PyTorch checkpoint ({type(error).__name__})") from None


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        for key in WRAPPER_KEYS:
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not weights by name")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} is not a state dict: {key!r} is a {type(value).__name__}, not a tensor")
    return dict(content)
