"""Values that nobody means, in every field: an answer or a problem, never a mistake of the server."""

import json
from dataclasses import fields

import pytest

from sam_server.grouping.filters import Filters
from sam_server.grouping.registry import METHODS
from sam_server.web.application import make_app
from sam_server.web.group_schemas import GroupIn
from sam_server.web.schemas import SearchIn, SegmentIn

# JSON texts: too large for float64, for int64, for float32, not exact, no numbers at all.
NUMBERS = ("0", "-1", "1e400", "1" + "0" * 400, "1e300", "1e-300", "9007199254740993", "NaN")
VALUES = (*NUMBERS, "null", "true", '"x"', "[]", "{}")
ODD_JSON = ("[" * 100_000, '{"a":' * 100_000, '{"session_id": "\\ud800"}', '{"session_id": "\\u0000"}')
ODD_TYPES = ("multipart/form-data", "multipart/form-data; boundary=", "", "image/", "a" * 9_000)
ANY = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def client(lasting_state):
    return make_app(lasting_state).test_client()


@pytest.fixture(scope="module")
def made(client, coins) -> dict:
    return client.post("/generate_masks", data=coins, content_type="image/png", query_string=ANY).json


def ask(client, path: str, body: str) -> None:
    answer = client.post(path, data=body, content_type="application/json")
    assert answer.status_code < 500, (body, answer.text)
    assert answer.status_code in (200, 201) or answer.json["code"]


@pytest.mark.parametrize("method", METHODS)
def test_parameters_of_methods(client, made, method):
    for item in fields(METHODS[method].parameters):
        for value in VALUES:
            text = f'{{"method": "{method}", "{item.name}": {value}}}'
            ask(client, "/group_masks", f'{{"mask_set_id": "{made["mask_set_id"]}", "methods": [{text}]}}')


@pytest.mark.parametrize("algorithm", ["hdbscan", "agglomerative"])
def test_numbers_of_groups_by_looks(client, made, algorithm):
    for name in ("groups", "min_members", "max_distance"):
        for value in ("1", "2", "12", "13", "1000000", "1e12"):
            text = f'{{"method": "appearance", "algorithm": "{algorithm}", "{name}": {value}}}'
            ask(client, "/group_masks", f'{{"mask_set_id": "{made["mask_set_id"]}", "methods": [{text}]}}')


def test_filters(client, made):
    methods = json.dumps(["size", "droplets", "hierarchy", "proximity"])
    for item in fields(Filters):
        for value in VALUES:
            text = f'"filters": {{"{item.name}": {value}}}, "methods": {methods}'
            ask(client, "/group_masks", f'{{"mask_set_id": "{made["mask_set_id"]}", {text}}}')


@pytest.mark.parametrize("name", GroupIn.model_fields)
def test_fields_of_group_masks(client, made, name):
    for value in VALUES:
        ask(client, "/group_masks", f'{{"mask_set_id": "{made["mask_set_id"]}", "unit": "mm", "{name}": {value}}}')


@pytest.mark.parametrize("name", SearchIn.model_fields)
def test_parameters_of_the_search(client, made, name):
    search = {**ANY, "points_per_side": 1}
    search.pop(name, None)
    rest = json.dumps(search)[1:]
    for value in VALUES:
        if (name, value) == ("points_per_side", "null"):
            continue
        text = f'{{"session_id": "{made["session_id"]}", "mask_format": "none", "{name}": {value}, {rest}'
        ask(client, "/generate_masks", text)


@pytest.mark.parametrize("name", SegmentIn.model_fields)
def test_fields_of_segment(client, made, name):
    point = "" if name in ("points", "prompts") else ', "points": [[9, 9]]'
    for value in VALUES:
        ask(client, "/segment", f'{{"session_id": "{made["session_id"]}"{point}, "{name}": {value}}}')
        ask(client, "/segment", f'{{"session_id": "{made["session_id"]}", "prompts": [{{"{name}": {value}}}]}}')
        ask(client, "/segment", f'{{"session_id": "{made["session_id"]}", "points": [[{value}, {value}]]}}')


def test_masks_of_a_caller(client, made):
    for value in VALUES:
        for rle in (
            f'{{"size": [303, 384], "counts": {value}}}',
            f'{{"size": [303, 384], "counts": [{value}, 116352]}}',
            f'{{"size": [{value}, 384], "counts": [116352]}}',
        ):
            text = f'"masks": [{{"segmentation": {rle}}}]'
            ask(client, "/mask_sets", f'{{"session_id": "{made["session_id"]}", {text}}}')


@pytest.mark.parametrize("text", ODD_JSON)
def test_odd_json(client, text):
    for path in ("/sessions", "/segment", "/generate_masks", "/group_masks"):
        answer = client.post(path, data=text, content_type="application/json")
        assert 400 <= answer.status_code < 500


@pytest.mark.parametrize("name", ["%00", "%ff", "x" * 5_000, "a%2Fb", "%2e%2e"])
def test_odd_paths(client, name):
    for folder in ("sessions", "jobs", "mask_sets", "docs/ui", "static"):
        assert client.get(f"/{folder}/{name}").status_code in (404, 308)


@pytest.mark.parametrize("kind", ODD_TYPES)
@pytest.mark.parametrize("body", [b"", b"abc", b"--x\r\n"])
def test_odd_content_types(client, kind, body):
    answer = client.post("/segment", data=body, headers={"Content-Type": kind})
    assert 400 <= answer.status_code < 500
