"""The disk is full while a checkpoint is fetched: the small model answers and says why; with room the rest follows."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from sam_server.checkpoints.table import CHECKPOINTS
from sam_server.network.sam import build_sam
from tests.faults.servers import Running, wait_for
from tests.onnx_backend.small_model import SMALL
from tests.serving import serving

NAME = CHECKPOINTS["vit_b"].name
# The largest file that the server may write, in KiB: the checkpoint has more, the log has less.
ROOM = 128
EXIT_NO_MODEL = 3


@dataclass
class Mirror:
    """A server of one file, and what it was asked for."""

    path: Path
    port: int = 0
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mirror") / NAME
    torch.manual_seed(0)
    torch.save(build_sam(replace(SMALL, name="vit_b")).state_dict(), path)
    assert path.stat().st_size > 2 * 1024 * ROOM
    return path


@pytest.fixture(scope="module")
def mirror(checkpoint: Path) -> Iterator[Mirror]:
    """Serves the checkpoint, from where it is asked."""
    found = Mirror(checkpoint)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            found.ranges.append(wanted)
            content = found.path.read_bytes()
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *_: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = http.server_port
    with serving(http):
        yield found


# Stands for a full disk where files must outlive the server: the write fails in the middle, and Python ignores the
# signal beside it.
LIMITED = ("bash", "-c", f'ulimit -f {ROOM}; exec "$@"', "bash")


def on_full_disk(directory: Path) -> tuple[str, ...] | None:
    """What runs a command with a file system of ROOM KiB at `directory`; None where nobody may mount one."""
    directory.mkdir()
    mount = f'mount -t tmpfs -o size={ROOM}k tmpfs "$0" && exec "$@"'
    within = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(directory))
    try:
        subprocess.run([*within, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        return None
    return within


@pytest.fixture
def start(launch: Callable[..., Running], mirror: Mirror, model_dir: Path) -> Callable[..., Running]:
    """Starts a server that wants vit_b and has to fetch it."""
    gunicorn = (sys.executable, "-m", "tests.faults.small_server", str(mirror.path))
    gunicorn = (*gunicorn, "--config", "gunicorn.conf.py", "app:app")

    def begin(within: tuple[str, ...], **environ: str) -> Running:
        return launch(
            (*within, *gunicorn),
            SAM_MODEL_TYPE="vit_b",
            SAM_OFFLINE="false",
            SAM_CHECKPOINT_MIRROR=f"http://127.0.0.1:{mirror.port}",
            SAM_MODEL_DIR=str(model_dir),
            SAM_ONNX_DIR=str(model_dir),
            **environ,
        )

    return begin


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_disk_full_while_a_checkpoint_is_fetched(
    start: Callable[..., Running], mirror: Mirror, model_dir: Path, coins: bytes
) -> None:
    server = start(LIMITED)
    info = server.get("/backend_info")
    assert (info["model_type"], info["requested_model_type"]) == ("tiny", "vit_b")
    assert f"{NAME} cannot be written" in info["fallback_reason"]
    assert "SAM_MODEL_DIR" in info["fallback_reason"]
    assert server.post("/segment", json={"session_id": server.open_session(coins), "points": [[154, 198]]})["results"]
    assert "FALLBACK" in server.tail()
    assert not (model_dir / NAME).exists(), "half a file under the name of a whole one"
    came = (model_dir / f"{NAME}.part").stat().st_size
    assert 0 < came <= 1024 * ROOM
    server.stop()

    mirror.ranges.clear()
    server = start(())
    info = server.get("/backend_info")
    assert (info["model_type"], info["fallback_reason"], info["model_files"]) == ("vit_b", None, [NAME])
    assert mirror.ranges == [f"bytes={came}-"], "what had come was fetched again"
    assert [path.name for path in model_dir.iterdir() if ".lock" not in path.name] == [NAME]
    assert (model_dir / NAME).read_bytes() == mirror.path.read_bytes()


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_strict_server_stops_with_one_line(start: Callable[..., Running], model_dir: Path, when: str) -> None:
    disk = on_full_disk(model_dir) if when == "before" else None
    server = start(disk or LIMITED, SAM_STRICT="true", wait=False)
    wait_for(lambda: server.process.poll() is not None, "the server does not stop", server.tail)
    assert server.process.returncode == EXIT_NO_MODEL
    words = "make room, or set SAM_MODEL_DIR" if disk else "cannot be written"
    lines = [line for line in server.log.read_text().splitlines() if words in line]
    assert len(lines) == 1, server.tail()
    assert "SAM_STRICT=true" in lines[0]
    assert NAME in lines[0]
    assert "Traceback" not in server.log.read_text()
    assert not (model_dir / NAME).exists()
