"""An ONNX file that is damaged: the checkpoint answers in its place and /backend_info says why; strict servers stop."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from onnx_sam_wrapper import load_onnx_sam
from tests.exported import exported_small, under_another_name
from tests.faults.servers import Running, wait_for
from tests.onnx_backend.small_model import SMALL

ENCODER = "sam_vit_b_encoder.onnx"
EXIT_NO_MODEL = 3

# Several starts of a server each, which take long on a machine that is busy.
pytestmark = pytest.mark.timeout(900)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_the_end(path: Path) -> None:
    """What a file system may leave of a file after the power went."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


DAMAGE = {"cut short": cut_short, "zeros from the middle": zero_the_end}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a checkpoint and whole ONNX files of it."""
    variant, directory = replace(SMALL, name="vit_b"), tmp_path_factory.mktemp("whole")
    under_another_name(exported_small(tmp_path_factory, SMALL), variant, directory)
    assert load_onnx_sam(directory, "vit_b", use_gpu=False).spec == variant.spec
    return directory


@pytest.fixture
def start(launch: Callable[..., Running], whole: Path, tmp_path: Path) -> Callable[..., Running]:
    """Starts a server on damaged files."""

    def begin(damage: Callable[[Path], None], **options: object) -> Running:
        directory = tmp_path / "model"
        shutil.copytree(whole, directory)
        damage(directory / ENCODER)
        command = (sys.executable, "-m", "tests.faults.small_server", str(directory / "sam_vit_b.safetensors"))
        settings = {"SAM_MODEL_TYPE": "vit_b", "SAM_MODEL_DIR": str(directory), "SAM_ONNX_DIR": str(directory)}
        return launch((*command, "--config", "gunicorn.conf.py", "app:app"), **settings, **options)

    return begin


@pytest.mark.parametrize("kind", DAMAGE)
def test_checkpoint_in_its_place(start: Callable[..., Running], coins: bytes, kind: str) -> None:
    server = start(DAMAGE[kind])
    info = server.get("/backend_info")
    assert (info["backend"], info["model_type"], info["onnx_providers"]) == ("pytorch", "vit_b", [])
    assert ENCODER in info["fallback_reason"]
    assert "FALLBACK" in server.tail()
    assert server.post("/segment", json={"session_id": server.open_session(coins), "points": [[154, 198]]})["results"]


def test_strict_server_stops_with_one_line(start: Callable[..., Running]) -> None:
    server = start(zero_the_end, SAM_STRICT="true", wait=False)
    wait_for(lambda: server.process.poll() is not None, "the server does not stop", server.tail)
    assert server.process.returncode == EXIT_NO_MODEL
    lines = [line for line in server.log.read_text().splitlines() if ENCODER in line]
    assert len(lines) == 1, server.tail()
    assert "SAM_STRICT=true" in lines[0]
    assert "Traceback" not in server.log.read_text()
