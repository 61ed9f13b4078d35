"""Processes of a test: Redis, servers and workers, each on a free port."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis
import requests

from tests.serving import free_port

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COINS = (ROOT / "docs" / "images" / "coins.png").read_bytes()
# How long a process may take to do what it is waited for, in seconds; ten times what a quiet core needs.
PATIENCE = 240.0
# Nothing is thrown away when it is killed.
REDIS_OPTIONS = ("--save", "", "--appendonly", "yes", "--appendfsync", "always", "--bind", "127.0.0.1")


def wait_until(holds: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The first value that counts as true."""
    deadline = time.monotonic() + patience
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to pass")
        time.sleep(0.05)
    return value


class RedisServer:
    """Redis on a port of its own, which can be stopped and started again."""

    def __init__(self, program: str, directory: Path) -> None:
        self._command = [program, "--port", str(free_port()), "--dir", str(directory), *REDIS_OPTIONS]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._command[2]}/0"
        self.client = redis.Redis.from_url(self.url)

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait()

    def pause(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)

    def close(self) -> None:
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGKILL)

    def keys(self, pattern: str) -> list[str]:
        return sorted(name.decode() for name in self.client.keys(pattern))

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


class Node:
    """A process of the project: a server, or a worker."""

    def __init__(self, command: list[str], log: Path, settings: Mapping[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SAM_")}
        own = {"SAM_MODEL_TYPE": "tiny", "SAM_OFFLINE": "true", "SAM_USE_GPU": "false", "SAM_INTRA_OP_THREADS": "1"}
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**clean, **own, **settings},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{settings.get('SAM_PORT')}"

    def says(self, text: str) -> bool:
        """Whether the log has it; a process that ended meanwhile is a failure."""
        assert self.process.poll() is None, self.log.read_text()
        return text in self.log.read_text()

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/ready", timeout=10).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        """End it at once, with all processes that it started: nothing is cleaned up."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=PATIENCE, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.request("POST", path, **options)

    def open(self, picture: bytes = COINS, **options: Any) -> str:
        """A session on a picture."""
        answer = self.post("/sessions", files={"image": picture}, **options)
        assert answer.status_code == 201, answer.text
        session_id: str = answer.json()["session_id"]
        return session_id

    def segment(self, session_id: str, point: tuple[int, int] = (154, 198), **fields: Any) -> dict[str, Any]:
        """The best mask of a click, as the server sends it."""
        answer = self.post("/segment", json={"session_id": session_id, "points": [point], **fields})
        assert answer.status_code == 200, answer.text
        mask: dict[str, Any] = answer.json()["results"][0]["masks"][0]
        return mask

    def start_job(self, session_id: str, **fields: Any) -> str:
        body = {"session_id": session_id, **fields}
        answer = self.post("/generate_masks", json=body, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        fields: dict[str, Any] = answer.json()
        return fields

    def ended(self, job_id: str) -> dict[str, Any]:
        """A job once it has ended."""
        fields = wait_until(lambda: self._ended(job_id))
        assert isinstance(fields, dict)
        return fields

    def _ended(self, job_id: str) -> dict[str, Any] | None:
        fields = self.job(job_id)
        return fields if fields["state"] in ("done", "failed", "cancelled") else None
