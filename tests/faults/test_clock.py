"""The clock of the machine jumps ten days ahead and back: nothing expires, nobody is killed, work goes on.

clock.c stands between the server and the clock of the wall; the monotonic clock stays the kernel's.
"""

import shutil
import struct
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.debian import provide
from tests.faults.servers import Running, wait_for

DAYS = 10
CLICK = {"points": [[154, 198]]}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clock.c, compiled; the compiler is installed if it is missing."""
    provide("gcc", lambda: shutil.which("cc") is not None)
    provide("libc6-dev", lambda: Path("/usr/include/stdlib.h").exists())
    made = tmp_path_factory.mktemp("library") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.fixture(scope="module")
def offset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that says how far the clock is off."""
    path = tmp_path_factory.mktemp("clock") / "offset"
    path.write_bytes(struct.pack("l", 0))
    return path


def jump(offset: Path, days: int) -> None:
    """Set the clock; the file is changed in place, since the server has it in its memory."""
    with offset.open("r+b") as file:
        file.write(struct.pack("l", days * 86_400))


@pytest.fixture(scope="module")
def server(launch: Callable[..., Running], library: Path, offset: Path) -> Running:
    """The real server, with a clock that can be set."""
    return launch(LD_PRELOAD=str(library), CLOCK_OFFSET_FILE=str(offset))


def days_ahead(expires_at: str) -> int:
    """Days between this machine's clock and a time that the server told."""
    return round((datetime.fromisoformat(expires_at) - datetime.now(UTC)) / timedelta(days=1))


def test_nothing_is_lost_when_the_clock_jumps(server: Running, coins: bytes, offset: Path) -> None:
    session = server.open_session(coins)
    masks = server.post("/segment", json={"session_id": session, **CLICK})["results"][0]["masks"]
    search = {"session_id": session, "points_per_side": 4}
    done = server.post("/generate_masks", json=search)["mask_set_id"]
    ended = server.post("/generate_masks", json=search, headers={"Prefer": "respond-async"})["job_id"]
    wait_for(lambda: server.get(f"/jobs/{ended}")["state"] == "done", "the job did not end", server.tail)
    workers = [worker.pid for worker in server.workers]
    for days in (DAYS, -DAYS, 0):
        long = {**search, "points_per_side": 12}
        running = server.post("/generate_masks", json=long, headers={"Prefer": "respond-async"})["job_id"]
        jump(offset, days)
        look = server.get(f"/sessions/{session}")
        assert days_ahead(look["expires_at"]) == days, "the server does not see the clock that was set"
        again = server.post("/segment", json={"session_id": session, **CLICK})["results"][0]["masks"]
        assert [mask["segmentation"] for mask in again] == [mask["segmentation"] for mask in masks]
        refined = {"session_id": session, **CLICK, "mask_id": masks[0]["mask_id"]}
        assert server.ask("POST", "/segment", json=refined).status_code == 200
        assert server.get(f"/mask_sets/{done}")["mask_set_id"] == done
        assert server.get(f"/jobs/{ended}")["state"] == "done"
        state = wait_for_end(server, running)
        assert state == "done", f"a running job became {state} when the clock jumped"
    assert server.get("/backend_info")["cache"]["expirations"] == 0
    assert [worker.pid for worker in server.workers] == workers
    assert "Traceback" not in server.log.read_text()


def wait_for_end(server: Running, job: str) -> str:
    final = ("done", "failed", "cancelled")
    wait_for(lambda: server.get(f"/jobs/{job}")["state"] in final, "the job does not end", server.tail)
    state: str = server.get(f"/jobs/{job}")["state"]
    return state
