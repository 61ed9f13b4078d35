"""Requests at a busy model: each client in its turn, until its deadline, as long as it is there."""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from skimage import data

from sam_server.jobs.queue import CancelledJobError
from sam_server.web.application import make_app

HEAD = {"Content-Type": "image/png"}


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def opened(url: str, picture: bytes) -> str:
    answer = requests.post(f"{url}/sessions", data=picture, headers=HEAD, timeout=60)
    assert answer.status_code == 201, answer.text
    return answer.json()["session_id"]


def click(url: str, session: str, **options) -> requests.Response:
    return requests.post(f"{url}/segment", json={"session_id": session, "points": [[20, 20]]}, timeout=60, **options)


def send(url: str, path: str, body: bytes, content_type: str) -> socket.socket:
    """A connection on which a request was sent and nothing was read."""
    address = urlsplit(url)
    line = socket.create_connection((address.hostname, address.port), 60)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    line.sendall(head.encode() + body)
    return line


def test_a_busy_session_does_not_keep_another_waiting(make_state, serve, coins, cat, backend, pool, monkeypatch):
    state = make_state()
    url = serve(state)
    busy, other = opened(url, coins), opened(url, cat)
    order: list[tuple[int, int]] = []
    decode = backend.decode

    def note(embedding, prompts, multimask_output):
        order.append(embedding.original_size)
        return decode(embedding, prompts, multimask_output)

    monkeypatch.setattr(backend, "decode", note)
    with state.gate.enter():
        answers: list[Future] = []
        for session in (*[busy] * 6, other):
            answers.append(pool.submit(click, url, session))
            wait_until(lambda: state.gate.waiting == len(answers))
    assert {answer.result().status_code for answer in answers} == {200}
    assert order.index((300, 451)) == 1


def test_a_request_ends_with_its_deadline(make_state, serve, coins):
    state = make_state(request_deadline=2)
    url = serve(state)
    session = opened(url, coins)
    with state.gate.enter():
        answer = click(url, session)
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert "deadline" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
    again = click(url, session)
    assert again.status_code == 200
    assert "queue" in click(url, session).headers["Server-Timing"] or state.gate.waiting == 0


def test_the_time_in_the_queue_is_told(make_state, serve, coins, pool):
    state = make_state()
    url = serve(state)
    session = opened(url, coins)
    with state.gate.enter():
        answer = pool.submit(click, url, session)
        wait_until(lambda: state.gate.waiting == 1)
    assert "queue;dur=" in answer.result().headers["Server-Timing"]
    text = requests.get(f"{url}/metrics", timeout=60).text
    assert 'sam_queue_wait_seconds_count{lane="interactive"}' in text
    assert "sam_queue_running 0.0" in text


def test_a_client_that_left_frees_its_place(make_state, serve, coins):
    state = make_state()
    url = serve(state)
    session = opened(url, coins)
    body = b'{"session_id": "%s", "points": [[20, 20]]}' % session.encode()
    with state.gate.enter():
        line = send(url, "/segment", body, "application/json")
        wait_until(lambda: state.gate.waiting == 1)
        line.close()
        wait_until(lambda: state.gate.waiting == 0)
    wait_until(lambda: 'status="499"' in requests.get(f"{url}/metrics", timeout=60).text)
    assert 'sam_queue_refused_total{reason="gone"} 1.0' in requests.get(f"{url}/metrics", timeout=60).text
    assert click(url, session).status_code == 200


def test_who_waited_for_the_picture_of_a_client_that_left_encodes_it_himself(make_state, serve, coins, backend, pool):
    state = make_state()
    url = serve(state)
    with state.gate.enter():
        leaver = send(url, "/sessions", coins, "image/png")
        wait_until(lambda: state.gate.waiting == 1)
        stayer = pool.submit(requests.post, f"{url}/sessions", data=coins, headers=HEAD, timeout=60)
        wait_until(lambda: state.sessions.stats().hits == 1)  # he waits for the other's
        leaver.close()
        wait_until(lambda: state.gate.waiting == 0 or state.sessions.stats().misses == 2)
        wait_until(lambda: state.gate.waiting == 1)
    assert stayer.result().status_code == 201
    assert backend.encoded == 1


def test_pictures_that_wait_are_encoded_together_and_come_out_the_same(make_state, serve, to_file, backend, pool):
    pictures = [to_file(part) for part in (data.coins(), data.camera(), data.chelsea()[:200, :150])]
    alone = make_state(encode_batch=1)
    alone_url = serve(alone)
    expected = [alone.sessions.get(opened(alone_url, picture)).image.embedding for picture in pictures]
    state = make_state(encode_batch=4)
    url = serve(state)
    with state.gate.enter():
        answers = []
        for picture in pictures:
            answers.append(pool.submit(opened, url, picture))
            wait_until(lambda: state.gate.waiting == len(answers))
    found = [state.sessions.get(answer.result()).image.embedding for answer in answers]
    text = requests.get(f"{url}/metrics", timeout=60).text
    assert "sam_encode_batch_pictures_count 1.0" in text
    assert "sam_encode_batch_pictures_sum 3.0" in text
    for one, other in zip(expected, found, strict=True):
        assert (one.original_size, one.input_size) == (other.original_size, other.input_size)
        arrays = [backend.embedding_array(embedding) for embedding in (one, other)]
        np.testing.assert_allclose(arrays[1], arrays[0], atol=1e-4)


def test_a_computation_that_does_not_end_makes_health_fail(make_state):
    state = make_state(stuck_after=1e-6)
    client = make_app(state).test_client()
    assert client.get("/health").status_code == 200
    with state.gate.enter():
        answer = client.get("/health")
    assert (answer.status_code, answer.json["code"]) == (503, "model_stuck")
    assert client.get("/health").status_code == 200


def test_a_server_that_stops_says_so(make_state, coins):
    state = make_state()
    client = make_app(state).test_client()
    session = client.post("/sessions", data=coins, content_type="image/png").json["session_id"]
    state.stop()
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["code"]) == (503, "server_stopping")
    assert client.get("/health").status_code == 200
    # What needs no job is still answered, for it may have been on its way.
    assert client.post("/segment", json={"session_id": session, "points": [[20, 20]]}).status_code == 200
    search = client.post("/generate_masks", json={"session_id": session, "points_per_side": 1})
    assert search.status_code == 503
    assert int(search.headers["Retry-After"]) >= 1


def test_a_job_that_the_stop_ends_says_why(make_state):
    state = make_state()
    client = make_app(state).test_client()
    job = state.jobs.submit("generate_masks", wait_for_the_end)
    wait_until(lambda: state.jobs.get(job.id).state == "running")
    state.stop(patience=60)
    document = client.get(f"/jobs/{job.id}").json
    assert document["state"] == "cancelled"
    assert document["error"]["code"] == "server_stopping"


def wait_for_the_end(context) -> None:
    wait_until(context.cancelled)
    raise CancelledJobError
