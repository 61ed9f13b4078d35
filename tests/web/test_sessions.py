"""POST, GET and DELETE /sessions: three ways to send a picture, one encode, and what is forgotten."""

import base64
import io
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from sam_server.web.application import make_app
from sam_server.web.schemas import SessionCreated, SessionOut


def post_json(client, data: bytes, head: str = ""):
    return client.post("/sessions", json={"image": head + base64.b64encode(data).decode()})


def post_form(client, data: bytes):
    return client.post("/sessions", data={"image": (io.BytesIO(data), "coins.png")})


def test_every_way_to_send_a_picture_gives_the_same_session(client, coins, backend):
    wrapped = base64.encodebytes(coins).decode()
    answers = [
        client.post("/sessions", data=coins, content_type="image/png"),
        client.post("/sessions", data=coins, content_type="application/octet-stream"),
        post_form(client, coins),
        client.post("/sessions", data={"image": base64.b64encode(coins).decode()}, content_type="multipart/form-data"),
        post_json(client, coins),
        post_json(client, coins, "data:image/png;base64,"),
        client.post("/sessions", json={"image": wrapped}),
    ]
    assert [answer.status_code for answer in answers] == [201] * len(answers)
    assert [answer.json["cached"] for answer in answers] == [False] + [True] * (len(answers) - 1)
    assert {(answer.json["width"], answer.json["height"]) for answer in answers} == {(384, 303)}
    assert len({answer.json["session_id"] for answer in answers}) == len(answers)
    assert backend.encoded == 1


def test_a_new_session_says_where_it_is_and_when_it_ends(client, coins):
    answer = post_form(client, coins)
    assert set(answer.json) == set(SessionCreated.model_fields)
    SessionCreated.model_validate(answer.json)
    assert answer.headers["Location"] == f"/sessions/{answer.json['session_id']}"
    left = datetime.fromisoformat(answer.json["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    for phase in ("decode", "encode", "cache", "total"):
        assert f"{phase};dur=" in answer.headers["Server-Timing"]


def test_look_and_forget(client, coins):
    path = post_form(client, coins).headers["Location"]
    answer = client.get(path)
    assert answer.status_code == 200
    assert set(answer.json) == set(SessionOut.model_fields)
    assert (answer.json["masks"], answer.json["mask_sets"]) == (0, [])
    assert client.delete(path).status_code == 204
    for method in ("get", "delete"):
        answer = getattr(client, method)(path)
        assert (answer.status_code, answer.json["code"]) == (410, "session_deleted")


def test_deep_pixels_are_scaled_and_the_scaling_is_told(client, to_file):
    deep = np.linspace(1_000, 3_000, 64 * 48).reshape(48, 64).astype(np.uint16)
    answer = client.post("/sessions", data=to_file(deep), content_type="image/png")
    assert answer.json["scaling"]["low"] == pytest.approx(1_002, abs=2)
    assert answer.json["scaling"]["high"] == pytest.approx(2_998, abs=2)


def test_sizes_are_those_after_exif_rotation(client, to_file):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = to_file(np.zeros((20, 50, 3), np.uint8), "JPEG", exif=exif)
    answer = client.post("/sessions", data=turned, content_type="image/jpeg")
    assert (answer.json["width"], answer.json["height"]) == (20, 50)


def test_expired_and_evicted_sessions_are_gone(make_state, coins, cat):
    short = make_app(make_state(session_ttl=0.0)).test_client()
    path = short.post("/sessions", data=coins, content_type="image/png").headers["Location"]
    answer = short.get(path)
    assert (answer.status_code, answer.json["code"]) == (410, "session_expired")

    measured = make_state()
    make_app(measured).test_client().post("/sessions", data=coins, content_type="image/png")
    small = make_app(make_state(cache_bytes=measured.sessions.stats().bytes + 1_000)).test_client()
    path = small.post("/sessions", data=coins, content_type="image/png").headers["Location"]
    small.post("/sessions", data=cat, content_type="image/jpeg")
    answer = small.get(path)
    assert (answer.status_code, answer.json["code"]) == (410, "session_evicted")
    assert "post the picture again" in answer.json["detail"]


def test_a_picture_that_no_cache_can_hold_is_refused(make_state, coins):
    answer = (
        make_app(make_state(cache_bytes=10_000)).test_client().post("/sessions", data=coins, content_type="image/png")
    )
    assert (answer.status_code, answer.json["code"]) == (413, "picture_over_budget")
