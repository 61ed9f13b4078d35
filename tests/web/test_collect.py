"""POST /mask_sets, exports of some masks, GET /sessions/ID/image, and what of the page needs no key."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from skimage import data

from sam_server.web.application import make_app
from sam_server.web.schemas import MaskSetOut

HEIGHT, WIDTH = 303, 384


@pytest.fixture
def session(client, coins) -> str:
    return client.post("/sessions", data=coins, content_type="image/png").json["session_id"]


def square(left: int, top: int, side: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def counts(mask: np.ndarray) -> list[int]:
    """COCO counts as a list, by hand: runs down the columns."""
    flat = np.concatenate([[0], mask.T.reshape(-1), [0]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def collect(client, session: str, masks: list[np.ndarray]) -> dict:
    entries = [{"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts(mask)}} for mask in masks]
    answer = client.post("/mask_sets", json={"session_id": session, "masks": entries})
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/mask_sets/{answer.json['mask_set_id']}"
    return answer.json


def test_masks_come_back_as_they_were(client, session):
    masks = [square(10, 20, 30), square(200, 100, 7)]
    made = collect(client, session, masks)
    MaskSetOut.model_validate(made)
    assert made["parameters"] == {}
    for mask, record in zip(masks, made["masks"], strict=True):
        np.testing.assert_array_equal(coco_mask.decode(record["segmentation"]), mask)
        assert record["area"] == mask.sum()


def test_they_are_grouped_and_exported_like_any_other(client, session):
    made = collect(client, session, [square(10, 20, 60), square(100, 20, 61), square(200, 100, 7)])
    fields = {"mask_set_id": made["mask_set_id"], "methods": [{"method": "size", "classes": 2}]}
    groups = client.post("/group_masks", json=fields).json["groupings"][0]["groups"]
    assert [group["masks"] for group in groups] == [[0, 1], [2]]
    path = f"/mask_sets/{made['mask_set_id']}"
    for query, wanted in [
        ({}, ["0", "1", "2"]),
        ({"method": "size", "group": groups[0]["name"]}, ["0", "1"]),
        ({"masks": "2,0"}, ["0", "2"]),
    ]:
        table = client.get(path, query_string={"format": "csv", **query}).text
        assert [row["mask"] for row in csv.DictReader(io.StringIO(table))] == wanted


@pytest.mark.parametrize("query", [{"group": "x"}, {"method": "size", "group": "x"}, {"masks": "1;2"}, {"masks": ""}])
def test_a_wish_for_masks_that_makes_no_sense_is_refused(client, session, query):
    made = collect(client, session, [square(10, 20, 60)])
    client.post("/group_masks", json={"mask_set_id": made["mask_set_id"], "methods": ["size"]})
    answer = client.get(f"/mask_sets/{made['mask_set_id']}", query_string={"format": "csv", **query})
    assert answer.status_code == 422
    assert answer.json["code"] in ("invalid_field", "invalid_grouping")


def test_masks_of_a_caller_are_never_taken_for_a_search(client, session):
    made = collect(client, session, [square(10, 20, 60)])
    search = {"points_per_side": 2}
    answer = client.post("/group_masks", json={"session_id": session, "generate": search}).json
    assert answer["mask_set_id"] != made["mask_set_id"]


@pytest.mark.parametrize(
    ("size", "runs", "field"),
    [
        ([HEIGHT, WIDTH], [5, 5], "masks[0].segmentation"),
        ([2, 3], [2, 2, 2], "masks[0].segmentation.size"),
    ],
)
def test_a_mask_that_is_none_is_refused_by_name(client, session, size, runs, field):
    masks = [{"segmentation": {"size": size, "counts": runs}}]
    answer = client.post("/mask_sets", json={"session_id": session, "masks": masks})
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (422, "invalid_mask", field)


def test_the_picture_comes_as_the_model_sees_it(client, session):
    answer = client.get(f"/sessions/{session}/image")
    assert answer.mimetype == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.data)))[..., 0], data.coins())


def test_the_page_is_open_and_its_requests_are_not(make_state):
    client = make_app(make_state(api_keys=("a-key",))).test_client()
    for path in ("/", "/page/choices.json", "/page/app.js"):
        with client.get(path) as answer:
            assert answer.status_code == 200
    assert client.get("/backend_info").status_code == 401
    assert client.get("/page/../backend_info").status_code in (401, 404)


def test_choices_name_every_preset_and_method(client):
    choices = client.get("/page/choices.json").json
    assert {"droplets", "cells", "parts", "everything"} <= set(choices["presets"])
    for preset in choices["presets"].values():
        assert all(method["method"] in choices["methods"] for method in preset["methods"])
