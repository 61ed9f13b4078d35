"""Clients that send a byte a second, say nothing, or take nothing of their answer: others are served, and they end."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.faults.servers import GUNICORN, PNG, ROOT, Running, to_png

THREADS = 4
# More than there are threads.
SLOW_CLIENTS = 6
HEAD = b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n"
BYTE_EVERY = 1.0  # seconds
# gunicorn.conf.py with less patience, for a test that waits for its end. Rooms and rules are the same.
IMPATIENT = """
exec(compile(open({conf!r}).read(), {conf!r}, "exec"))
import gunicorn_worker
gunicorn_worker.PATIENCE, gunicorn_worker.CROWDED_PATIENCE = 5.0, 2.0
gunicorn_worker.SILENCE, gunicorn_worker.STALL = 3.0, 2.0
"""


class SlowClient:
    """Sends a byte a second of what it has to say, until it has said all or is cut off."""

    def __init__(self, port: int, at_once: bytes, slowly: bytes) -> None:
        self.said = 0
        self.wanted = len(slowly)
        self.heard = b""
        self.ended = threading.Event()
        self._line = socket.create_connection(("127.0.0.1", port))
        self._line.sendall(at_once)
        self._line.settimeout(BYTE_EVERY)
        self._thread = threading.Thread(target=self._speak, args=(slowly,), daemon=True)
        self._thread.start()

    def _speak(self, slowly: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in slowly:
                self._line.sendall(bytes([byte]))
                self.said += 1
                with contextlib.suppress(TimeoutError):
                    heard = self._line.recv(65_536)
                    self.heard += heard
                    if not heard:
                        break
        self.ended.set()

    def close(self) -> None:
        self._line.close()
        self._thread.join()


@pytest.fixture(scope="module")
def server(launch: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory) -> Running:
    """The real server with few threads and little patience."""
    conf = tmp_path_factory.mktemp("conf") / "gunicorn.conf.py"
    conf.write_text(IMPATIENT.format(conf=str(ROOT / "gunicorn.conf.py")))
    command = tuple(str(conf) if part == "gunicorn.conf.py" else part for part in GUNICORN)
    return launch(command, SAM_THREADS=str(THREADS))


@pytest.fixture
def slow(server: Running) -> Iterator[Callable[[bytes, bytes], list[SlowClient]]]:
    """Makes many slow clients."""
    made: list[SlowClient] = []

    def make(at_once: bytes, slowly: bytes) -> list[SlowClient]:
        made.extend(SlowClient(server.port, at_once, slowly) for _ in range(SLOW_CLIENTS))
        return made

    yield make
    for client in made:
        client.close()


@pytest.mark.parametrize("part", ["head", "body", "chunks"])
def test_others_are_served_and_slow_clients_end(
    server: Running, coins: bytes, slow: Callable[[bytes, bytes], list[SlowClient]], part: str
) -> None:
    chunked = HEAD.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked") + b"\r\n"
    begin, rest = {
        "head": (b"P", HEAD[1:]),
        "body": (HEAD + b"\r\n", bytes(1000)),
        "chunks": (chunked, b"3e8\r\n" + bytes(1000)),
    }[part]
    clients = slow(begin, rest)
    session = server.open_session(coins)
    answer = server.post("/segment", json={"session_id": session, "points": [[154, 198]]})
    assert answer["results"][0]["masks"]
    assert server.get("/health")["status"] == "ok"
    for client in clients:
        assert client.ended.wait(60)
        assert client.said < client.wanted, "the server waited to the end"
        if part != "head":  # a head has no answer, as with nginx
            assert client.heard.startswith(b"HTTP/1.1 408 "), client.heard
            assert b'"code":"request_timeout"' in client.heard
    assert "Traceback" not in server.log.read_text()


def test_a_slow_client_alone_is_cut_off_too(server: Running) -> None:
    client = SlowClient(server.port, HEAD + b"\r\n", bytes(1000))
    assert client.ended.wait(60)
    assert client.said < client.wanted
    client.close()


def test_an_honest_upload_that_takes_longer_than_the_patience_arrives(server: Running, coins: bytes) -> None:
    """What counts is the rate: this one sends for longer than a slow client may."""
    pause = 7.0 / (len(coins) / 5_000)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(coins), 5_000):
            yield coins[start : start + 5_000]
            time.sleep(pause)

    answer = requests.post(server.url + "/sessions", data=pieces(), headers=PNG, timeout=60)
    assert answer.status_code == 201, answer.text


def test_silent_connections_cost_no_thread_and_end(server: Running) -> None:
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3 * THREADS)]
    assert server.get("/health")["status"] == "ok"
    for line in lines:
        line.settimeout(60)
        assert line.recv(1) == b""
        line.close()


def test_clients_that_take_nothing_of_their_answer(server: Running) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), np.uint8)
    session = server.open_session(to_png(noise))  # whose picture is larger than the buffers between the two
    lines = []
    for _ in range(THREADS + 1):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        line.connect(("127.0.0.1", server.port))
        line.sendall(f"GET /sessions/{session}/image HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        lines.append(line)
    assert server.get("/health")["status"] == "ok"  # a thread came free: the first were given up
    for line in lines:
        line.close()


def test_the_configuration_has_this_worker() -> None:
    assert "gunicorn_worker.PacedWorker" in Path(ROOT / "gunicorn.conf.py").read_text()


def test_an_address_may_be_as_long_as_the_longest_choice_of_masks(server: Running, coins: bytes) -> None:
    session = server.open_session(coins)
    rle = {"size": [303, 384], "counts": [303 * 384 - 50, 50]}
    kept = server.post("/mask_sets", json={"session_id": session, "masks": [{"segmentation": rle}]})["mask_set_id"]
    choice = ",".join(["0"] * 30_000)  # 59,999 characters
    answer = server.ask("GET", f"/mask_sets/{kept}?format=csv&masks={choice}")
    assert answer.status_code == 200, answer.text[:300]
