"""kill -9 under load: what was answered was right, what comes after is clear, nothing stays locked or half written."""

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.faults.servers import Running, wait_for

CLIENTS = 6
CLICK = {"points": [[154, 198]], "multimask_output": False}
SEARCH = {"points_per_side": 8}
GONE = "gone"

# Several starts of a server each, which take long on a machine that is busy.
pytestmark = pytest.mark.timeout(900)


class Load:
    """Clients that click and start jobs until they are told to stop; what they heard is counted."""

    def __init__(self, server: Running, session: str, expected: Any) -> None:
        self.heard: Counter[int | str] = Counter()
        self.wrong: list[Any] = []
        self._server, self._session, self._expected = server, session, expected
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                status = self._search() if number == 0 else self._click()
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                status = GONE
                self._stop.wait(0.05)
            self.heard[status] += 1

    def _click(self) -> int:
        body = {"session_id": self._session, **CLICK}
        answer = requests.post(f"{self._server.url}/segment", json=body, timeout=240)
        # Whatever is answered is whole: JSON, and either the mask or a reason.
        document = answer.json()
        if answer.status_code == 200 and document["results"][0]["masks"][0]["segmentation"] != self._expected:
            self.wrong.append(document)
        return answer.status_code

    def _search(self) -> int:
        body = {"session_id": self._session, **SEARCH}
        answer = requests.post(f"{self._server.url}/generate_masks", json=body, timeout=240)
        answer.json()
        return answer.status_code

    def wait_for(self, what: int | str, more: int) -> None:
        wanted = self.heard[what] + more
        wait_for(lambda: self.heard[what] >= wanted, f"{dict(self.heard)}", self._server.tail)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every directory that the server may write to."""
    rooms = {"TMPDIR": tmp_path_factory.mktemp("tmp"), "SAM_MODEL_DIR": tmp_path_factory.mktemp("model")}
    return {**rooms, "SAM_ONNX_DIR": rooms["SAM_MODEL_DIR"]}


@pytest.fixture(scope="module")
def server(launch: Callable[..., Running], rooms: dict[str, Path]) -> Running:
    return launch(**{name: str(path) for name, path in rooms.items()})


def click(server: Running, session: str) -> Any:
    answer = server.post("/segment", json={"session_id": session, **CLICK})
    return answer["results"][0]["masks"][0]["segmentation"]


@contextlib.contextmanager
def loaded(server: Running, coins: bytes) -> Iterator[tuple[Load, str, str]]:
    """Load on a server, a session and a job that still runs."""
    session = server.open_session(coins)
    load = Load(server, session, click(server, session))
    try:
        body = {"session_id": session, "points_per_side": 48}
        job = server.post("/generate_masks", json=body, headers={"Prefer": "respond-async"})["job_id"]
        load.wait_for(200, CLIENTS)
        yield load, session, job
    finally:
        load.stop()
    assert load.wrong == []
    # Old ids are unknown to the new process; nothing else went wrong.
    assert set(load.heard) <= {200, 404, 503, GONE}


def check_old_ids(server: Running, session: str, job: str) -> None:
    for path, code in ((f"/sessions/{session}", "unknown_session"), (f"/jobs/{job}", "unknown_job")):
        answer = server.ask("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (404, code)
    answer = server.ask("POST", "/segment", json={"session_id": session, **CLICK})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_session")


def check_rooms(rooms: dict[str, Path]) -> None:
    assert [file for path in rooms.values() for file in path.rglob("*") if file.is_file()] == []


def test_worker(server: Running, coins: bytes, rooms: dict[str, Path]) -> None:
    """gunicorn starts another, and the same clients go on with a new session."""
    (worker,) = server.workers
    with loaded(server, coins) as (load, session, job):
        worker.kill()
        load.wait_for(GONE, 1)
        server.wait_until_ready()
        load.wait_for(404, CLIENTS)
        check_old_ids(server, session, job)
        new = server.open_session(coins)
        assert click(server, new) == load._expected
    (another,) = server.workers
    assert another.pid != worker.pid
    check_rooms(rooms)


def test_all_at_once(server: Running, launch: Callable[..., Running], coins: bytes, rooms: dict[str, Path]) -> None:
    """The next start finds its port and its directories free."""
    with loaded(server, coins) as (load, session, job):
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        load.wait_for(GONE, CLIENTS)
        again = launch(port=server.port, **{name: str(path) for name, path in rooms.items()})
        load.wait_for(404, CLIENTS)
        check_old_ids(again, session, job)
        assert click(again, again.open_session(coins)) == load._expected
    check_rooms(rooms)
    again.stop()


def test_master_alone(launch: Callable[..., Running], coins: bytes, rooms: dict[str, Path]) -> None:
    """Its worker does not live on as an orphan that holds the port."""
    server = launch(**{name: str(path) for name, path in rooms.items()})
    workers = server.workers
    with loaded(server, coins) as (load, session, job):
        server.process.kill()
        server.process.wait()
        load.wait_for(GONE, 1)
        _, alive = psutil.wait_procs(workers, 60)
        assert alive == []
        again = launch(port=server.port)
        load.wait_for(404, 1)
        check_old_ids(again, session, job)
    check_rooms(rooms)
