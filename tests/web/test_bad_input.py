"""Bad input: each case has its status, its code and a sentence that says what to change; none is a 500."""

import base64
import io
import json
import struct
import zlib

import pytest

from sam_server.images import ImageLimits
from sam_server.web.application import make_app
from sam_server.web.problems import MIMETYPE
from sam_server.web.schemas import ProblemOut

POINT = {"points": [[10, 10]], "point_labels": [1]}


@pytest.fixture(scope="module")
def huge() -> bytes:
    """A PNG of one colour, 30,000 x 30,000 pixels, in a few hundred kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = 30_000
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def session(client, coins) -> str:
    return client.post("/sessions", data=coins, content_type="image/png").json["session_id"]


def check(answer, status: int, code: str, *words: str) -> dict:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.json
    assert answer.mimetype == MIMETYPE
    assert set(answer.json) <= set(ProblemOut.model_fields)
    ProblemOut.model_validate(answer.json)
    assert answer.json["status"] == status
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]
    for word in words:
        assert word in answer.json["detail"]
    assert "Traceback" not in answer.text
    return answer.json


def as_json(text: str) -> dict:
    return {"data": text, "content_type": "application/json"}


@pytest.mark.parametrize("path", ["/sessions", "/segment"])
class TestPicture:
    """What is wrong with a picture is the same on every path that takes one."""

    def test_no_body(self, client, path):
        check(client.post(path), 400, "empty_body", "no body")
        check(client.post(path, **as_json("")), 400, "empty_body")
        check(client.post(path, data=b"", content_type="image/png"), 400, "empty_body")
        check(client.post(path, data={}, content_type="multipart/form-data"), 400, "empty_body")

    def test_no_picture(self, client, path):
        check(client.post(path, json={}), 400, "missing_picture", "image")

    def test_empty_picture(self, client, path):
        check(client.post(path, data={"image": (io.BytesIO(), "x.png")}), 400, "image_empty")
        check(client.post(path, json={"image": ""}), 400, "image_empty")
        check(client.post(path, json={"image": "data:image/png;base64,"}), 400, "image_empty")

    def test_not_a_picture(self, client, path):
        words = b"what a lovely day"
        points = {"points": json.dumps(POINT["points"])} if path == "/segment" else {}
        fields = POINT if path == "/segment" else {}
        for answer in (
            client.post(path, data=words, content_type="image/png", query_string=points),
            client.post(path, data={"image": (io.BytesIO(words), "x.png"), **points}),
            client.post(path, json={"image": base64.b64encode(words).decode(), **fields}),
        ):
            assert check(answer, 415, "not_an_image", "JPEG, PNG")["field"] == "image"

    def test_truncated_jpeg(self, client, path, cat):
        points = {"points": "[[10, 10]]"} if path == "/segment" else {}
        answer = client.post(path, data=cat[: len(cat) // 2], content_type="image/jpeg", query_string=points)
        check(answer, 400, "image_truncated", "send all of it")

    def test_too_many_pixels(self, client, path, huge):
        points = {"points": "[[10, 10]]"} if path == "/segment" else {}
        answer = client.post(path, data=huge, content_type="image/png", query_string=points)
        check(answer, 413, "image_too_large", "30000 x 30000", "limit")

    @pytest.mark.parametrize("text", ["%%%%", "abc", "data:image/png,abc", "data:image/png;base64", "ä" * 8])
    def test_base64_rubbish(self, client, path, text):
        check(client.post(path, json={"image": text, **(POINT if path == "/segment" else {})}), 400, "bad_base64")

    def test_unknown_fields(self, client, path, coins):
        assert check(client.post(path, json={"picture": "x"}), 422, "unknown_field", "picture")["field"] == "picture"
        answer = client.post(path, data={"picture": (io.BytesIO(coins), "x.png")})
        check(answer, 422, "unknown_field", "'image'")
        answer = client.post(path, data={"image": (io.BytesIO(coins), "x.png"), "colour": "red"})
        check(answer, 422, "unknown_field", "colour")
        answer = client.post(path, data=coins, content_type="image/png", query_string={"colour": "red"})
        check(answer, 422, "unknown_field", "colour")

    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "video/mp4"]
    )
    def test_wrong_content_type(self, client, path, kind):
        check(client.post(path, data=b"{}", content_type=kind), 415, "unsupported_media_type", kind, "application/json")

    @pytest.mark.parametrize("text", ["{", "[1, 2", '{"image": }', "\xff"])
    def test_malformed_json(self, client, path, text):
        check(client.post(path, **as_json(text)), 400, "malformed_json")

    @pytest.mark.parametrize("text", ["[]", "1", "null", '"text"'])
    def test_json_that_is_no_object(self, client, path, text):
        check(client.post(path, **as_json(text)), 422, "invalid_field")

    def test_two_pictures(self, client, path, coins):
        files = [(io.BytesIO(coins), "a.png"), (io.BytesIO(coins), "b.png")]
        check(client.post(path, data={"image": files}), 422, "invalid_field", "one picture")


BAD_PROMPTS = {
    "nothing": ({}, "invalid_prompt", "points, a box or a mask_id"),
    "no points": ({"points": []}, "invalid_prompt", "one or more"),
    "labels without points": ({"point_labels": [1]}, "invalid_prompt", "without points"),
    "too few labels": ({"points": [[1, 1], [2, 2]], "point_labels": [1]}, "invalid_prompt", "2 expected"),
    "left of the picture": ({"points": [[-1, 5]]}, "invalid_prompt", "outside the picture"),
    "below the picture": ({"points": [[5, 304]]}, "invalid_prompt", "384 x 303"),
    "box without area": ({"box": [10, 10, 10, 50]}, "invalid_prompt", "no area"),
    "box outside": ({"box": [400, 10, 500, 50]}, "invalid_prompt", "outside the picture"),
    "huge coordinate": ({"points": [[1e300, 1]]}, "invalid_prompt", "points"),
    "three numbers": ({"points": [[1, 2, 3]]}, "invalid_field", "points[0]"),
    "flat points": ({"points": [1, 2]}, "invalid_field", "points[0]"),
    "text": ({"points": [["1", "2"]]}, "invalid_field", "points[0][0]"),
    "label 2": ({"points": [[1, 1]], "point_labels": [2]}, "invalid_field", "point_labels[0]"),
    "label true": ({"points": [[1, 1]], "point_labels": [True]}, "invalid_field", "point_labels[0]"),
    "short box": ({"box": [1, 2, 3]}, "invalid_field", "box"),
    "null point": ({"points": [None]}, "invalid_field", "points[0]"),
    "unknown field": ({"points": [[1, 1]], "labels": [1]}, "unknown_field", "labels"),
    "unknown format": ({"points": [[1, 1]], "mask_format": "gif"}, "invalid_field", "mask_format"),
    "wish in words": ({"points": [[1, 1]], "multimask_output": "yes"}, "invalid_field", "multimask_output"),
    "no prompts": ({"prompts": []}, "invalid_field", "prompts"),
    "empty prompt": ({"prompts": [POINT, {}]}, "invalid_prompt", "prompts[1]"),
    "one and many": ({"prompts": [POINT], **POINT}, "ambiguous_prompt", "not both"),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_bad_prompts(client, session, name):
    fields, code, words = BAD_PROMPTS[name]
    check(client.post("/segment", json={"session_id": session, **fields}), 422, code, words)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ['"points": [[?, 1]]', '"box": [1, 2, ?, 4]', '"prompts": [{"points": [[1, ?]]}]'])
def test_numbers_that_are_none(client, session, number, field):
    body = f'{{"session_id": "{session}", {field.replace("?", number)}}}'
    check(client.post("/segment", **as_json(body)), 422, "invalid_field", "finite")


def test_nan_in_a_form(client, coins):
    form = {"image": (io.BytesIO(coins), "c.png"), "points": "[[NaN, 1]]"}
    check(client.post("/segment", data=form), 422, "invalid_field", "finite")


def test_fields_of_a_form_that_are_not_json(client, coins):
    form = {"image": (io.BytesIO(coins), "c.png"), "points": "120,80"}
    assert check(client.post("/segment", data=form), 400, "malformed_json", "points")["field"] == "points"


def test_a_field_given_twice(client, coins):
    answer = client.post("/segment?points=[[1,1]]&points=[[2,2]]", data=coins, content_type="image/png")
    check(answer, 422, "invalid_field", "2 times")


def test_ten_thousand_points(client, session):
    points = [[1, 1]] * 10_000
    check(client.post("/segment", json={"session_id": session, "points": points}), 422, "too_many_points", "1000")
    answer = client.post("/segment", json={"session_id": session, "prompts": [POINT, {"points": points}]})
    assert check(answer, 422, "too_many_points")["field"] == "prompts[1].points"


def test_too_many_prompts(client, session):
    answer = client.post("/segment", json={"session_id": session, "prompts": [POINT] * 257})
    check(answer, 422, "too_many_prompts", "256")


def test_every_wrong_field_is_listed_but_not_without_end(client, session):
    answer = client.post("/segment", json={"session_id": session, "points": [["a", "b"]] * 100})
    problem = check(answer, 422, "invalid_field")
    assert len(problem["errors"]) == 10
    assert problem["errors"][1]["field"] == "points[0][1]"


@pytest.mark.parametrize("name", ["0" * 32, "", "x" * 10_000, "../../etc/passwd", "ü"])
def test_unknown_session(client, name):
    check(client.post("/segment", json={"session_id": name, **POINT}), 404, "unknown_session")


def test_unknown_and_forgotten_masks(make_state, coins):
    client = make_app(make_state(cache_bytes=1 << 20)).test_client()
    session = client.post("/sessions", data=coins, content_type="image/png").json["session_id"]
    check(client.post("/segment", json={"session_id": session, "mask_id": "m1"}), 404, "unknown_mask", "'m1'")
    for _ in range(30):
        assert client.post("/segment", json={"session_id": session, **POINT}).status_code == 200
    check(
        client.post("/segment", json={"session_id": session, "mask_id": "m1"}), 410, "mask_evicted", "without mask_id"
    )


def test_a_session_and_a_picture_at_once(client, session, coins):
    form = {"image": (io.BytesIO(coins), "c.png"), "session_id": session, "points": "[[1, 1]]"}
    check(client.post("/segment", data=form), 422, "ambiguous_picture", "not both")


def test_a_body_that_is_too_large(make_state, coins):
    client = make_app(make_state(image_limits=ImageLimits(max_bytes=10_000, max_pixels=1 << 20))).test_client()
    check(client.post("/sessions", data=coins, content_type="image/png"), 413, "image_too_large", "10,000")
    body = bytes(8 << 20)
    check(client.post("/sessions", data=body, content_type="image/png"), 413, "body_too_large", "bytes")
    check(client.post("/sessions", json={"image": "A" * (8 << 20)}), 413, "body_too_large", "bytes")


def test_paths_and_methods_that_do_not_exist(client):
    check(client.get("/nothing"), 404, "unknown_path", "/docs")
    answer = client.get("/segment")
    check(answer, 405, "method_not_allowed", "GET")
    assert "POST" in answer.headers["Allow"]


def test_a_mistake_of_the_server_shows_no_traceback(make_state, coins, caplog):
    state = make_state()

    def fail(*_):
        raise RuntimeError("secret inner workings")

    state.sessions.open = fail
    answer = make_app(state).test_client().post("/sessions", data=coins, content_type="image/png")
    problem = check(answer, 500, "internal_error", "request_id")
    assert "secret" not in answer.text
    assert problem["request_id"] in caplog.text
    assert "secret inner workings" in caplog.text
