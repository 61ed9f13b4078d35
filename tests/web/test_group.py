"""POST /group_masks: the groups of the grouping room, no inference where masks are known, and what is refused."""

import io
import json
from dataclasses import asdict

import numpy as np
import pytest

from sam_server.automatic.parameters import MODEL_DEFAULTS
from sam_server.grouping.filters import Filters
from sam_server.grouping.group import group_masks
from sam_server.grouping.presets import PRESETS
from sam_server.grouping.registry import METHODS
from sam_server.masks.measures import NAMES
from sam_server.web.application import make_app
from sam_server.web.group_schemas import FiltersIn, GroupOut
from sam_server.web.schemas import JobOut

# A random model finds masks only where nothing is asked of them, and they are all alike.
ANY = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def state(lasting_state):
    """One server for all tests here: they look at mask sets and change none."""
    return lasting_state


@pytest.fixture(scope="module")
def client(state):
    return make_app(state).test_client()


@pytest.fixture(scope="module")
def made(client, coins) -> dict:
    """A mask set of the coins."""
    query = {**ANY, "mask_format": "none"}
    return client.post("/generate_masks", data=coins, content_type="image/png", query_string=query).json


@pytest.fixture
def own(client, coins) -> dict:
    """A mask set that a test may do with as it likes."""
    query = {**ANY, "points_per_side": 1}
    return client.post("/generate_masks", data=coins, content_type="image/png", query_string=query).json


def ask(client, **fields) -> dict:
    answer = client.post("/group_masks", json=fields)
    assert answer.status_code == 200, answer.json
    GroupOut.model_validate(answer.json)
    assert set(answer.json) == set(GroupOut.model_fields)
    return answer.json


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_those_of_the_grouping_room(client, made, state, preset):
    answer = ask(client, mask_set_id=made["mask_set_id"], preset=preset)
    kept = state.sessions.mask_set(made["mask_set_id"])[1]
    chosen = PRESETS[preset]
    alone = json.loads(json.dumps(group_masks(kept.measured, chosen.methods, chosen.filters).to_dict()))
    assert {name: answer[name] for name in alone} == alone
    assert answer["count"] == made["count"] == 12
    assert kept.grouping.to_dict()["kept"] == answer["kept"]


@pytest.mark.parametrize("method", METHODS)
def test_every_kept_mask_is_in_one_group_of_each_method(client, made, method):
    answer = ask(client, mask_set_id=made["mask_set_id"], methods=[method])
    assert answer["kept"] == list(range(made["count"]))
    (grouping,) = answer["groupings"]
    assert grouping["method"] == method
    assert sorted(mask for group in grouping["groups"] for mask in group["masks"]) == answer["kept"]


def test_a_known_mask_set_needs_no_inference(client, made, backend):
    before = backend.encoded
    named = ask(client, mask_set_id=made["mask_set_id"], preset="everything")
    newest = ask(client, session_id=made["session_id"])
    same = ask(client, session_id=made["session_id"], generate=ANY)
    assert named["groupings"] == newest["groupings"] == same["groupings"]
    assert {answer["mask_set_id"] for answer in (named, newest, same)} == {made["mask_set_id"]}
    assert backend.encoded == before
    assert client.get(f"/sessions/{made['session_id']}").json["mask_sets"] == [made["mask_set_id"]]


def test_other_search_parameters_find_the_masks_anew(client, own):
    answer = ask(client, session_id=own["session_id"], generate=ANY)
    assert answer["mask_set_id"] != own["mask_set_id"]
    assert len(client.get(f"/sessions/{own['session_id']}").json["mask_sets"]) == 2


def test_a_picture_is_searched_and_grouped_in_one_call(client, cat, backend):
    before = backend.encoded
    form = {"image": (io.BytesIO(cat), "cat.jpg"), "generate": json.dumps(ANY), "preset": "parts"}
    answer = client.post("/group_masks", data=form)
    assert answer.status_code == 200, answer.json
    assert answer.json["groupings"][0]["method"] == "hierarchy"
    assert backend.encoded == before + 1
    again = ask(client, session_id=answer.json["session_id"], preset="parts")
    assert again["mask_set_id"] == answer.json["mask_set_id"]


def test_a_preset_and_the_model_choose_what_the_search_does_not_name(client, cat, state):
    form = {"image": (io.BytesIO(cat), "cat.jpg"), "generate": '{"points_per_side": 1}', "preset": "droplets"}
    answer = client.post("/group_masks", data=form)
    assert answer.status_code == 200, answer.json
    model_type = state.model().backend.spec.model_type
    chosen = {**MODEL_DEFAULTS[model_type], **PRESETS["droplets"].search, "points_per_side": 1}
    assert chosen.items() <= answer.json["parameters"].items()
    asked = ask(client, session_id=answer.json["session_id"], preset="droplets", generate={**ANY, "points_per_side": 1})
    assert {**ANY, "points_per_side": 1}.items() <= asked["parameters"].items()


def test_the_search_may_be_a_job(client, coins, state):
    query = {"generate": json.dumps(ANY), "preset": "droplets"}
    headers = {"Prefer": "respond-async"}
    answer = client.post("/group_masks", data=coins, content_type="image/png", query_string=query, headers=headers)
    assert answer.status_code == 202
    job = answer.json
    while job["state"] not in ("done", "failed"):
        job = client.get(answer.headers["Location"]).json
        JobOut.model_validate(job)
    assert (job["kind"], job["state"]) == ("group_masks", "done")
    kept = state.sessions.mask_set(job["result"]["mask_set_id"])[1]
    assert [grouping.method for grouping in kept.grouping.groupings] == ["size", "droplets"]


def test_filters_change_those_of_the_preset_one_by_one(client, made):
    base = ask(client, mask_set_id=made["mask_set_id"], preset="parts")
    assert [entry["filter"] for entry in base["removed"]] == ["max_duplicate_iou"]
    more = ask(client, mask_set_id=made["mask_set_id"], preset="parts", filters={"min_area": 3_000})
    assert [entry["filter"] for entry in more["removed"]] == ["min_area", "max_duplicate_iou"]
    off = ask(client, mask_set_id=made["mask_set_id"], preset="parts", filters={"max_duplicate_iou": None})
    assert off["removed"] == []
    assert len(off["kept"]) == made["count"]


def test_methods_take_the_place_of_those_of_the_preset(client, made):
    methods = ["shape", {"method": "size", "classes": 2}]
    answer = ask(client, mask_set_id=made["mask_set_id"], preset="droplets", methods=methods)
    assert [grouping["method"] for grouping in answer["groupings"]] == ["shape", "size"]
    assert answer["groupings"][1]["parameters"]["classes"] == 2
    assert answer["removed"][0]["filter"] == "max_picture_share"
    assert ask(client, mask_set_id=made["mask_set_id"], methods=[])["groupings"] == []


def test_real_units(client, made):
    fields = {"mask_set_id": made["mask_set_id"], "methods": ["shape"], "include_measures": True}
    pixels = ask(client, **fields)
    real = ask(client, **fields, pixel_size=0.5, unit="µm")
    assert (pixels["unit"], real["unit"], real["pixel_size"]) == ("px", "µm", 0.5)
    assert tuple(pixels["measures"]) == NAMES
    assert real["measures"]["area"] == pytest.approx([area / 4 for area in pixels["measures"]["area"]])
    assert real["total"]["measures"]["area"]["mean"] == pytest.approx(pixels["total"]["measures"]["area"]["mean"] / 4)
    assert real["measures"]["circularity"] == pytest.approx(pixels["measures"]["circularity"])


def test_the_filters_of_a_request_are_those_of_the_grouping_room():
    assert FiltersIn.model_validate({}).model_dump() == asdict(Filters())


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"preset": "bubbles"}, "invalid_field", "preset"),
        ({"methods": ["colour"]}, "invalid_field", "methods[0]"),
        ({"methods": [3]}, "invalid_field", "methods[0]"),
        ({"methods": [{"classes": 3}]}, "invalid_field", "methods[0]"),
        ({"methods": ["size", "size"]}, "invalid_grouping", "methods"),
        ({"methods": [{"method": "size", "classes": 99}]}, "invalid_grouping", "size.classes"),
        ({"methods": [{"method": "size", "classes": "many"}]}, "invalid_field", "methods[0].size.classes"),
        ({"methods": [{"method": "size", "colour": 1}]}, "unknown_field", "methods[0].size.colour"),
        ({"methods": [{"method": "appearance", "like": 10**6}]}, "invalid_grouping", "appearance.like"),
        ({"filters": {"min_area": -1}}, "invalid_grouping", "filters.min_area"),
        ({"filters": {"min_area": "big"}}, "invalid_field", "filters.min_area"),
        ({"filters": {"min_size": 3}}, "unknown_field", "filters.min_size"),
        ({"filters": {"drop_touching_edge": None}}, "invalid_field", "filters.drop_touching_edge"),
        ({"pixel_size": 0.5}, "invalid_grouping", "unit"),
        ({"pixel_size": 0, "unit": "µm"}, "invalid_grouping", "pixel_size"),
        ({"pixel_size": 1, "unit": "=cmd()"}, "invalid_grouping", "unit"),
        ({"generate": {"points_per_side": 3}}, "ambiguous_picture", "mask_set_id"),
        ({"session_id": "x"}, "ambiguous_picture", "mask_set_id"),
        ({"threshold": 0.5}, "unknown_field", "threshold"),
    ],
)
def test_bad_requests(client, made, fields, code, field):
    answer = client.post("/group_masks", json={"mask_set_id": made["mask_set_id"], **fields})
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (422, code, field), answer.json


def test_bad_searches_are_refused_before_they_run(client, to_file, backend):
    before = backend.encoded
    query = {"generate": json.dumps({"points_per_side": 0})}
    picture = to_file(np.zeros((9, 9), np.uint8))
    answer = client.post("/group_masks", data=picture, content_type="image/png", query_string=query)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_parameter")
    assert backend.encoded == before


def test_unknown_and_forgotten_mask_sets(client, own):
    answer = client.post("/group_masks", json={"mask_set_id": "0" * 32})
    assert (answer.status_code, answer.json["code"]) == (404, "unknown_mask_set")
    client.delete(f"/sessions/{own['session_id']}")
    answer = client.post("/group_masks", json={"mask_set_id": own["mask_set_id"]})
    assert (answer.status_code, answer.json["code"]) == (410, "mask_set_deleted")
