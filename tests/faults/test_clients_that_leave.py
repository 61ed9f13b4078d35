"""Clients that leave in the middle: of their upload, of long work, of a long answer, of a job that they follow."""

import json
import socket
import struct
from collections.abc import Callable

import numpy as np
import pytest

from tests.faults.servers import Running, to_png, wait_for

THREADS = 4
STREAMS = 2
# Every point is decoded, and nothing is found soon: work of many chunks on this picture.
LONG = {"points_per_side": 48, "points_per_batch": 16, "crop_n_layers": 1}
CLICK = {"points": [[154, 198]], "multimask_output": False}


@pytest.fixture(scope="module")
def server(launch: Callable[..., Running]) -> Running:
    """The real server with few threads."""
    return launch(SAM_THREADS=str(THREADS), SAM_EVENT_STREAMS=str(STREAMS))


@pytest.fixture(scope="module")
def session(server: Running, coins: bytes) -> str:
    return server.open_session(coins)


@pytest.fixture(autouse=True)
def whole(server: Running, session: str) -> object:
    """Afterwards every thread serves, the queue is empty, and the log has no traceback."""
    before = server.post("/segment", json={"session_id": session, **CLICK})
    yield
    after = server.post("/segment", json={"session_id": session, **CLICK})
    records = [answer["results"][0]["masks"][0] for answer in (before, after)]
    assert records[0]["segmentation"] == records[1]["segmentation"]
    wait_for(lambda: jobs(server).get("running", 0) == 0, "a job still runs", server.tail)
    assert server.get("/backend_info")["queue_waiting"] == 0
    assert "Traceback" not in server.log.read_text()


def jobs(server: Running) -> dict[str, int]:
    counts: dict[str, int] = server.get("/backend_info")["jobs"]
    return counts


def leave(line: socket.socket, rudely: bool) -> None:
    """Close a connection, or break it off, so that the other end hears of an error."""
    if rudely:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


def send(server: Running, method: str, path: str, body: dict[str, object] | None = None) -> socket.socket:
    """A connection on which a request was sent and nothing was read."""
    text = b"" if body is None else json.dumps(body).encode()
    line = socket.create_connection(("127.0.0.1", server.port))
    fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    line.sendall(f"{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + text)
    return line


@pytest.mark.parametrize("rudely", [False, True])
def test_in_the_middle_of_an_upload(server: Running, coins: bytes, rudely: bool) -> None:
    head = f"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(coins)}\r\n\r\n"
    before = server.get("/backend_info")["cache"]["images"]
    for share in (0.0, 0.1, 0.5, 0.9, 1.0) * 3:
        line = socket.create_connection(("127.0.0.1", server.port))
        # A picture of its own, so that one that was opened in spite of all would be counted.
        line.sendall(head.encode() + coins[: int(share * (len(coins) - 1))])
        leave(line, rudely)
    assert server.get("/backend_info")["cache"]["images"] == before


@pytest.mark.parametrize("rudely", [False, True])
@pytest.mark.parametrize("path", ["/generate_masks", "/group_masks"])
def test_in_the_middle_of_a_search(server: Running, session: str, path: str, rudely: bool) -> None:
    before = jobs(server)
    body = {"session_id": session, **LONG} if path == "/generate_masks" else {"session_id": session, "generate": LONG}
    line = send(server, "POST", path, body)
    wait_for(lambda: jobs(server).get("running", 0) == 1, "the search did not begin", server.tail)
    leave(line, rudely)
    cancelled = before.get("cancelled", 0) + 1
    wait_for(lambda: jobs(server).get("cancelled", 0) == cancelled, "the search was not cancelled", server.tail)
    assert jobs(server).get("failed", 0) == before.get("failed", 0)


def test_in_the_middle_of_many_prompts(server: Running, session: str) -> None:
    prompts = [{"points": [[10 + number, 150]]} for number in range(256)]
    lines = [send(server, "POST", "/segment", {"session_id": session, "prompts": prompts}) for _ in range(2)]
    for line, rudely in zip(lines, (False, True), strict=True):
        leave(line, rudely)


@pytest.mark.parametrize("rudely", [False, True])
def test_in_the_middle_of_a_long_answer(server: Running, rudely: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)
    picture = server.open_session(to_png(noise))
    for _ in range(2 * THREADS):
        line = send(server, "GET", f"/sessions/{picture}/image")
        assert line.recv(1_000).startswith(b"HTTP/1.1 200 ")
        leave(line, rudely)
    assert server.ask("DELETE", f"/sessions/{picture}").status_code == 204


def test_who_followed_a_job(server: Running, session: str) -> None:
    """The places of those who left are free for others while the job still runs."""
    body = {"session_id": session, **LONG}
    job = server.post("/generate_masks", json=body, headers={"Prefer": "respond-async"})["job_id"]
    try:
        for _ in range(3):
            wait_for(lambda: follow_and_leave(server, job), "the places stay taken", server.tail)
        assert server.get(f"/jobs/{job}")["state"] == "running"
    finally:
        assert server.ask("DELETE", f"/jobs/{job}").json()["state"] in ("running", "cancelled")


def follow_and_leave(server: Running, job: str) -> bool:
    """Take all places, see that there is none left, and leave; False if one was still taken."""
    lines = [send(server, "GET", f"/jobs/{job}/events") for _ in range(STREAMS)]
    try:
        if [line.recv(12) for line in lines] != [b"HTTP/1.1 200"] * STREAMS:
            return False
        answer = server.ask("GET", f"/jobs/{job}/events")
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_streams")
        assert int(answer.headers["Retry-After"]) >= 1
        return True
    finally:
        for line in lines:
            leave(line, rudely=True)
