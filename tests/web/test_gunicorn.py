"""The server as operators run it: gunicorn with the repository's configuration, in a process of its own."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.serving import free_port

ROOT = Path(__file__).parents[2]
GUNICORN = [str(Path(sys.executable).parent / "gunicorn"), "--config", "gunicorn.conf.py"]
POINT = {"points": [[154, 198]], "point_labels": [1]}


class Served:
    """A running server."""

    def __init__(self, log: Path, arguments: tuple[str, ...], settings: dict[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SAM_")}
        settings = {"SAM_MODEL_TYPE": "tiny", "SAM_USE_GPU": "false", "SAM_INTRA_OP_THREADS": "1"} | settings
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*GUNICORN, *arguments, "app:app"],
                cwd=ROOT,
                env={**kept, "SAM_PORT": str(port), "SAM_OFFLINE": "true", **settings},
                stdout=stream,
                stderr=stream,
            )

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def wait_for(self, condition: Callable[[], object], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def is_ready(self) -> bool:
        return self._says_yes("/ready")

    def is_alive(self) -> bool:
        return self._says_yes("/health")

    def _says_yes(self, path: str) -> bool:
        try:
            return requests.get(f"{self.url}{path}", timeout=10).status_code == 200
        except requests.RequestException:
            return False

    def post(self, path: str, **options) -> requests.Response:
        return requests.post(f"{self.url}{path}", timeout=60, **options)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[..., Served]]:
    """Starts servers: `serve("--timeout", "3", SAM_THREADS="2")`."""
    running = []

    def start(*arguments: str, until: Callable[[Served], bool] = Served.is_ready, **settings: str) -> Served:
        served = Served(tmp_path / f"log{len(running)}", arguments, settings)
        running.append(served)
        served.wait_for(lambda: until(served))
        return served

    yield start
    for served in running:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()


def test_every_line_of_the_log_is_json(serve, coins):
    server = serve(SAM_BACKEND="pytorch", SAM_LOG_FORMAT="json", SAM_METRICS="open", SAM_API_KEYS="key-of-the-test")
    head = {"X-API-Key": "key-of-the-test", "X-Request-ID": "first-1"}
    assert server.post("/sessions", data=coins, headers={**head, "Content-Type": "image/png"}).status_code == 201
    # Two scrapes see the same process: there is one, and its counters only grow.
    for _ in range(2):
        text = requests.get(f"{server.url}/metrics", timeout=30).text
        assert 'sam_http_requests_total{method="POST",route="/sessions",status="201"} 1.0' in text
    assert server.stop() == 0
    documents = [json.loads(line) for line in server.lines]
    assert all({"time", "level", "logger", "message"} <= set(document) for document in documents)
    assert {document["logger"] for document in documents} >= {"gunicorn.error", "sam_server.requests"}
    [line] = [document for document in documents if document.get("request_id") == "first-1"]
    assert (line["message"], line["route"], line["status"]) == ("request", "/sessions", 201)
    assert any(document["message"].startswith("serving tiny with torch") for document in documents)
    assert "gunicorn.access" not in {document["logger"] for document in documents}
    assert "key-of-the-test" not in str(documents)


# So many points that no machine of the tests is through with them soon.
LONG = {"points_per_side": 200, "pred_iou_thresh": 0}


def open_session(server: Served, coins: bytes) -> str:
    answer = server.post("/sessions", data=coins, headers={"Content-Type": "image/png"})
    assert answer.status_code == 201, answer.text
    return answer.json()["session_id"]


def start_job(server: Served, session: str) -> str:
    """A job that runs, and goes on running."""
    search = {"session_id": session, **LONG}
    answer = server.post("/generate_masks", json=search, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    path = f"{server.url}{answer.headers['Location']}"
    server.wait_for(lambda: requests.get(path, timeout=30).json()["state"] == "running")
    return path


def last_event(path: str) -> dict:
    """What a client that follows a job hears last."""
    with requests.get(f"{path}/events", stream=True, timeout=120) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith(b"data: ")]
    return json.loads(lines[-1].removeprefix(b"data: "))


def test_a_server_that_is_asked_to_stop_answers_what_has_begun(serve, coins):
    server = serve()
    session = open_session(server, coins)
    job = start_job(server, session)
    body = json.dumps({"session_id": session, **POINT}).encode()
    half = len(body) // 2
    with ThreadPoolExecutor(2) as pool:
        follower = pool.submit(last_event, job)
        waiter = pool.submit(server.post, "/generate_masks", json={"session_id": session, **LONG})
        server.wait_for(lambda: requests.get(f"{server.url}/backend_info", timeout=30).json()["jobs"]["running"] == 2)
        click = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        # The connection has a thread of the worker by now; then half of a click is on its way.
        click.request("GET", "/health", headers={"Connection": "keep-alive"})
        assert click.getresponse().read()
        click.putrequest("POST", "/segment")
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            click.putheader(name, value)
        click.endheaders()
        click.send(body[:half])
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        click.send(body[half:])
        answer = click.getresponse()
        assert (answer.status, len(json.loads(answer.read())["results"])) == (200, 1)
        click.close()
        told, refused = follower.result(), waiter.result()
    assert (told["state"], told["error"]["code"]) == ("cancelled", "server_stopping")
    assert (refused.status_code, refused.json()["code"]) == (503, "server_stopping")
    assert int(refused.headers["Retry-After"]) >= 1
    assert server.process.wait(60) == 0
    assert not [line for line in server.lines if "Traceback" in line]


@pytest.mark.parametrize("backend", ["pytorch", "onnx"])
def test_a_server_that_is_asked_to_stop_while_it_loads_stops(serve, backend):
    server = serve(until=Served.is_alive, SAM_BACKEND=backend)
    time.sleep(0.5)  # loading is in native code by then
    assert server.stop() == 0
    # The worker's own end, too: gunicorn tells of one that crashed.
    assert not [line for line in server.lines if re.search("Traceback|terminate called|SIG[A-Z]+!|code [1-9]", line)]


def test_a_long_job_outlives_the_time_out_of_the_worker(serve, coins):
    seconds = 8
    server = serve("--timeout", str(seconds))
    job = start_job(server, open_session(server, coins))
    end = time.monotonic() + 1.5 * seconds
    while time.monotonic() < end:
        assert requests.get(job, timeout=30).json()["state"] == "running"
        time.sleep(0.5)
    assert requests.delete(job, timeout=30).json()["state"] in ("running", "cancelled")
    assert server.stop() == 0
    assert not [line for line in server.lines if "TIMEOUT" in line]
    assert len([line for line in server.lines if "Booting worker" in line]) == 1
