"""GET /mask_sets/ID: every format is read back by the software that people read it with."""

import contextlib
import csv
import io

import numpy as np
import pytest
from openpyxl import load_workbook
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from skimage import io as skimage_io

from sam_server.grouping.overlay import draw_overlay
from sam_server.web.application import make_app
from sam_server.web.group_schemas import KeptMaskSetOut

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
    answer = client.post("/generate_masks", data=coins, content_type="image/png", query_string=ANY)
    assert answer.json["count"] == 12
    return answer.json


@pytest.fixture
def own(client, coins) -> dict:
    """A mask set that a test may do with as it likes."""
    query = {**ANY, "points_per_side": 1}
    return client.post("/generate_masks", data=coins, content_type="image/png", query_string=query).json


@pytest.fixture(scope="module")
def path(made) -> str:
    return f"/mask_sets/{made['mask_set_id']}"


@pytest.fixture(scope="module")
def grouped(client, made) -> dict:
    """Groups by shape of all but the smallest masks."""
    smallest = min(mask["area"] for mask in made["masks"])
    fields = {"mask_set_id": made["mask_set_id"], "methods": ["shape"], "filters": {"min_area": smallest + 1}}
    return client.post("/group_masks", json=fields).json


def masks_of(made: dict) -> list[np.ndarray]:
    return [coco_mask.decode(mask["segmentation"]).astype(bool) for mask in made["masks"]]


def test_json_is_what_was_generated(client, own):
    path = f"/mask_sets/{own['mask_set_id']}"
    answer = client.get(path).json
    KeptMaskSetOut.model_validate(answer)
    assert set(answer) == set(KeptMaskSetOut.model_fields)
    assert {name: answer[name] for name in ("masks", "count", "parameters")} == {
        name: own[name] for name in ("masks", "count", "parameters")
    }
    assert answer["grouping"] is None
    assert "segmentation" not in client.get(f"{path}?mask_format=none").json["masks"][0]


def test_json_holds_the_last_grouping(client, made, path, grouped):
    answer = client.get(path).json
    KeptMaskSetOut.model_validate(answer)
    assert len(answer["masks"]) == made["count"]
    assert answer["grouping"]["groupings"] == grouped["groupings"]
    assert answer["grouping"]["kept"] == grouped["kept"]


@pytest.mark.parametrize("method", [None, "shape"])
def test_pycocotools_loads_the_coco_file(client, made, path, grouped, tmp_path, method):
    query = "" if method is None else f"&method={method}"
    answer = client.get(f"{path}?format=coco{query}")
    file = tmp_path / "masks.json"
    file.write_bytes(answer.data)
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(file))
    masks = masks_of(made)
    assert sorted(data.getAnnIds()) == [mask + 1 for mask in grouped["kept"]]
    for annotation in data.loadAnns(data.getAnnIds()):
        np.testing.assert_array_equal(data.annToMask(annotation).astype(bool), masks[annotation["id"] - 1])
    names = [category["name"] for category in data.loadCats(data.getCatIds())]
    assert names == (["object"] if method is None else [group["name"] for group in grouped["groupings"][0]["groups"]])


def test_csv_has_a_row_for_every_kept_mask(client, made, path, grouped):
    answer = client.get(f"{path}?format=csv")
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="mask_set_{made["mask_set_id"]}.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["mask"]) for row in rows] == grouped["kept"]
    group_of = {mask: group["name"] for group in grouped["groupings"][0]["groups"] for mask in group["masks"]}
    for row in rows:
        assert float(row["area"]) == made["masks"][int(row["mask"])]["area"]
        assert row["group_shape"] == group_of[int(row["mask"])]


def test_xlsx_opens(client, path, grouped):
    book = load_workbook(io.BytesIO(client.get(f"{path}?format=xlsx").data))
    assert book.sheetnames == ["masks", "groups", "filters"]
    assert book["masks"].max_row == len(grouped["kept"]) + 1


@pytest.mark.parametrize("kind", ["labels_png", "labels_tiff"])
def test_label_maps_read_back_to_the_masks(client, own, tmp_path, kind):
    answer = client.get(f"/mask_sets/{own['mask_set_id']}?format={kind}")
    file = tmp_path / f"labels.{kind[7:]}"
    file.write_bytes(answer.data)
    labels = skimage_io.imread(file)
    assert labels.dtype == np.uint16
    masks = masks_of(own)
    counts = np.sum(masks, axis=0)
    assert int(answer.headers["X-Overlapping-Pixels"]) == int((counts > 1).sum())
    for number, mask in enumerate(masks):
        alone = mask & (counts == 1)
        assert (labels[alone] == number + 1).all()
        assert not (labels[~mask] == number + 1).any()
    assert ((labels > 0) == (counts > 0)).all()


def test_a_label_map_of_groups(client, path, grouped):
    labels = np.asarray(Image.open(io.BytesIO(client.get(f"{path}?format=labels_png&method=shape").data)))
    groups = grouped["groupings"][0]["groups"]
    assert set(np.unique(labels)) <= {0, *[number + 1 for number, group in enumerate(groups) if group["masks"]]}


@pytest.mark.parametrize("method", [None, "shape"])
def test_the_overlay_lies_on_the_picture(client, path, grouped, state, coins, method):
    query = "" if method is None else f"&method={method}"
    answer = client.get(f"{path}?format=overlay{query}")
    assert answer.headers["Content-Disposition"].startswith("inline")
    pixels = np.asarray(Image.open(io.BytesIO(coins)).convert("RGB"))
    kept = state.sessions.mask_set(grouped["mask_set_id"])[1]
    group_of = None if method is None else kept.grouping.groupings[0].group_of()
    expected = draw_overlay(kept.measured, kept.grouping.kept, group_of, pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.data))), expected)


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("format=gif", "invalid_field", "format"),
        ("format=coco&method=size", "invalid_grouping", "method"),
        ("format=overlay&method=nothing", "invalid_grouping", "method"),
        ("colour=red", "unknown_field", "colour"),
    ],
)
@pytest.mark.usefixtures("grouped")
def test_bad_queries(client, path, query, code, field):
    answer = client.get(f"{path}?{query}")
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (422, code, field)


def test_unknown_and_forgotten_mask_sets(client, own):
    answer = client.get(f"/mask_sets/{'0' * 32}?format=csv")
    assert (answer.status_code, answer.json["code"]) == (404, "unknown_mask_set")
    client.delete(f"/sessions/{own['session_id']}")
    answer = client.get(f"/mask_sets/{own['mask_set_id']}")
    assert (answer.status_code, answer.json["code"]) == (410, "mask_set_deleted")
