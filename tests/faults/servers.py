"""The real server in processes of its own, to be hurt."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 240
ANSWER_SECONDS = 240
LOG_CHARACTERS = 4_000
PNG = {"Content-Type": "image/png"}


def environment(**settings: str) -> dict[str, str]:
    """A clean environment with the model that ships, and settings on top."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SAM_", "PYTEST_"))}
    base = {"SAM_MODEL_TYPE": "tiny", "SAM_USE_GPU": "false", "SAM_OFFLINE": "true", "SAM_INTRA_OP_THREADS": "1"}
    return {**clean, **base, **settings}


@dataclass
class Running:
    """A server that was started.

    Attributes:
        process: gunicorn, or what was started in its place.
        port: where it listens.
        log: what it writes.
    """

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        # A new connection each time: one that is kept may end just as a request sets out on it.
        try:
            return requests.request(method, self.url + path, timeout=ANSWER_SECONDS, **options)
        except requests.ConnectionError as error:
            raise AssertionError(f"{method} {path}: {error}\n{self.tail()}") from error

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, (answer.text, self.tail())
        return answer.json()

    def post(self, path: str, **options: Any) -> Any:
        answer = self.ask("POST", path, **options)
        assert answer.ok, (answer.text, self.tail())
        return answer.json()

    def open_session(self, picture: bytes) -> str:
        return str(self.post("/sessions", data=picture, headers=PNG)["session_id"])

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.process.poll() is not None or self.is_ready(), "the server is not ready", self.tail)
        assert self.process.poll() is None, self.tail()

    def is_ready(self) -> bool:
        try:
            return requests.get(self.url + "/ready", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_CHARACTERS:]

    def stop(self) -> None:
        """Ask the server to end; what is left of it after a while is killed."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(45)
            for process in psutil.wait_procs(family, 5)[1]:
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def wait_for(is_true: Callable[[], bool], otherwise: str, tell: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"{otherwise}\n{tell()}"
        time.sleep(0.05)


GUNICORN = (sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "app:app")


def to_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
