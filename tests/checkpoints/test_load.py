"""Files that are checkpoints, and files that are not."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sam_server.checkpoints.load import CheckpointError, load_state_dict

WEIGHTS = {"neck.weight": torch.arange(6000.0).reshape(2, 3000), "neck.bias": torch.ones(2, dtype=torch.float16)}


class RunsCode:
    """What an attacker pickles: a call that happens while the file is read."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (os.environ["PROOF"],)


def save_zip(path: Path) -> None:
    torch.save(WEIGHTS, path)


def save_legacy(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


def save_wrapped(path: Path) -> None:
    torch.save({"epoch": 3, "model": WEIGHTS}, path)


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_wrapped])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_reads_what_torch_writes(tmp_path: Path, save: Callable[[Path], None], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save(path)
    assert_equal(load_state_dict(path))


def test_reads_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(WEIGHTS, path)
    assert_equal(load_state_dict(path))


def test_zip_is_mapped_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"big": torch.zeros(1024, 1024)}, path)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():  # another system than Linux tells its mappings in another way
        return
    weights = load_state_dict(path)
    assert str(path) in mapped.read_text()
    assert weights["big"].shape == (1024, 1024)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    monkeypatch.setenv("PROOF", str(tmp_path / "ran"))
    path = tmp_path / "weights.pth"
    torch.save({"neck.weight": RunsCode()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="could run code"):
        load_state_dict(path)
    assert not (tmp_path / "ran").exists()
    # The file does run code where it is read without care: the test above can fail.
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(("save", "kept"), [(save_zip, 0.5), (save_zip, 0.99), (save_legacy, 0.5)])
def test_cut_short(tmp_path: Path, save: Callable[[Path], None], kept: float) -> None:
    path = tmp_path / "weights.pth"
    save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=r"weights\.pth is (cut short|broken)"):
        load_state_dict(path)


def test_cut_short_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        load_state_dict(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404 Not Found</html>", b"\x00" * 500, bytes(range(256)) * 4, b"PK\x03\x04rest"],
    ids=["empty", "html", "zeros", "bytes", "zip-start"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_not_a_checkpoint(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"weights{suffix}"):
        load_state_dict(path)


def test_plain_pickle(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(CheckpointError, match="weights"):
        load_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list"),
        ({}, "holds a dict"),
        ({"epoch": 3}, "'epoch' is a int, not a tensor"),
        ({5: torch.ones(2)}, "not a state dict: 5"),
    ],
)
def test_content_is_no_state_dict(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_state_dict(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_state_dict(tmp_path / "weights.pth")


def assert_equal(weights: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == WEIGHTS.keys()
    for key, value in WEIGHTS.items():
        assert weights[key].dtype == value.dtype
        assert torch.equal(weights[key], value)
