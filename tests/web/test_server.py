"""Over a real socket: many threads, chunked bodies, a busy model, and clients that misbehave."""

import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from sam_server.images import ImageLimits

HEAD = b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
POINT = {"points": [[120, 80]], "point_labels": [1]}


def test_threads_on_one_new_picture_and_one_session(make_state, serve, coins, backend):
    state = make_state()
    url = serve(state)
    together = threading.Barrier(32)

    def click(number: int):
        together.wait()
        if number % 2:
            answer = requests.post(f"{url}/sessions", data=coins, headers={"Content-Type": "image/png"}, timeout=60)
            assert answer.status_code == 201, answer.text
            fields = {"session_id": answer.json()["session_id"], **POINT}
            answer = requests.post(f"{url}/segment", json=fields, timeout=60)
        else:
            files = {"image": coins}
            answer = requests.post(f"{url}/segment", files=files, data={"points": "[[120, 80]]"}, timeout=60)
        assert answer.status_code == 200, answer.text
        session = answer.json()["session_id"]
        again = requests.post(f"{url}/segment", json={"session_id": session, **POINT}, timeout=60)
        assert again.status_code == 200, again.text
        return [[mask["segmentation"] for mask in found.json()["results"][0]["masks"]] for found in (answer, again)]

    with ThreadPoolExecutor(32) as pool:
        answers = [answer for pair in pool.map(click, range(32)) for answer in pair]
    assert backend.encoded == 1
    assert len(answers) == 64
    assert all(answer == answers[0] for answer in answers)


def test_threads_on_one_session(make_state, serve, coins, backend):
    url = serve(make_state())
    answer = requests.post(f"{url}/sessions", data=coins, headers={"Content-Type": "image/png"}, timeout=60)
    session = answer.json()["session_id"]

    def click(_: int):
        answer = requests.post(f"{url}/segment", json={"session_id": session, **POINT}, timeout=60)
        assert answer.status_code == 200, answer.text
        masks = answer.json()["results"][0]["masks"]
        return [mask["segmentation"] for mask in masks], [mask["mask_id"] for mask in masks]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(click, range(32)))
    assert all(masks == answers[0][0] for masks, _ in answers)
    assert len({mask_id for _, ids in answers for mask_id in ids}) == 96
    assert backend.encoded == 1


def pieces(data: bytes, size: int):
    for start in range(0, len(data), size):
        yield data[start : start + size]


def test_a_chunked_body_is_read(make_state, serve, coins):
    url = serve(make_state())
    answer = requests.post(
        f"{url}/sessions", data=pieces(coins, 10_000), headers={"Content-Type": "image/png"}, timeout=60
    )
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_is_too_large_is_refused_while_it_is_read(make_state, serve, kind, chunked):
    url = serve(make_state(image_limits=ImageLimits(max_bytes=100_000)))
    body = bytes(6 << 20)
    if kind.startswith("multipart"):
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        body = head + body + b"\r\n--x--\r\n"
    data = pieces(body, 1 << 16) if chunked else body
    answer = requests.post(f"{url}/sessions", data=data, headers={"Content-Type": kind}, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_client_that_leaves_in_the_middle_hurts_nobody(make_state, serve, coins):
    url = serve(make_state())
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(
            b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 70000\r\n\r\n1234"
        )
    answer = requests.post(f"{url}/sessions", data=coins, headers={"Content-Type": "image/png"}, timeout=60)
    assert answer.status_code == 201


def test_a_busy_model_says_when_to_come_again(make_state, serve, coins):
    state = make_state(queue_length=0)
    url = serve(state)
    head = {"Content-Type": "image/png"}
    with state.gate.enter():
        answer = requests.post(f"{url}/sessions", data=coins, headers=head, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) >= 1
    assert requests.post(f"{url}/sessions", data=coins, headers=head, timeout=60).status_code == 201


def test_health_answers_while_the_model_works(make_state, serve):
    state = make_state()
    url = serve(state)
    with state.gate.enter():
        assert requests.get(f"{url}/health", timeout=10).status_code == 200
        info = requests.get(f"{url}/backend_info", timeout=10).json()
        assert info["queue_waiting"] == 0


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "BREW"])
def test_odd_methods_are_refused(make_state, serve, method):
    address = urlsplit(serve(make_state()))
    line = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    line.request(method, "/segment")
    answer = line.getresponse()
    assert answer.status == 405
    assert answer.headers["Content-Type"] == "application/problem+json"
    line.close()
