"""Every export is opened by the software that people open it with."""

import csv
import io
import json

import numpy as np
import pytest
import tifffile
from openpyxl import load_workbook
from PIL import Image
from playwright.sync_api import expect
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO


@pytest.fixture(scope="session")
def backend(threshold_sam):
    """Known masks."""
    return threshold_sam


def read_coco(content: bytes, folder) -> COCO:
    path = folder / "coco.json"
    path.write_bytes(content)
    return COCO(str(path))


@pytest.fixture
def with_object(with_coins):
    """A clicked object, and the panel of exports."""
    desk = with_coins
    desk.click()
    expect(desk.find(".candidates button")).to_have_count(3)
    desk.find("#tab-export").click()
    return desk


def read_mask(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("L")) > 127


def test_files_of_an_object_agree(with_object, coins, tmp_path):
    desk = with_object
    name, content = desk.download("mask")
    assert name == "coins_Object_1.mask.png"
    mask = read_mask(content)
    assert mask.shape == (303, 384)
    name, content = desk.download("cutout")
    cutout = np.asarray(Image.open(io.BytesIO(content)))
    assert cutout.shape == (303, 384, 4)
    np.testing.assert_array_equal(cutout[..., 3] > 0, mask)
    grey = np.asarray(Image.open(io.BytesIO(coins)).convert("L"))
    np.testing.assert_array_equal(cutout[..., 0][mask], grey[mask])
    coco = read_coco(desk.download("coco")[1], tmp_path)
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert coco.imgs[1]["file_name"] == "coins.png"
    np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]) > 0, mask)
    (row,) = csv.DictReader(io.StringIO(desk.download("csv")[1].decode()))
    assert int(float(row["area"])) == mask.sum()
    labels = np.asarray(Image.open(io.BytesIO(desk.download("labels_png")[1])))
    np.testing.assert_array_equal(labels == 1, mask)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(desk.download("labels_tiff")[1])), labels)
    overlay = np.asarray(Image.open(io.BytesIO(desk.download("overlay")[1])).convert("RGB"))
    np.testing.assert_array_equal(overlay[~mask], np.stack([grey] * 3, axis=-1)[~mask])
    sheet = load_workbook(io.BytesIO(desk.download("xlsx")[1]))["masks"]
    assert sheet.max_row == 2


def test_files_of_a_group_hold_its_masks_alone(with_masks, tmp_path):
    desk = with_masks
    desk.find("#choice").select_option("method:shape")
    expect(desk.find(".groups button").first).to_contain_text("round")
    counts = desk.find(".groups .count").all_inner_texts()
    number = next(number for number, count in enumerate(counts) if int(count))
    button = desk.find(".groups button").nth(number)
    group, count = button.get_attribute("data-group"), int(counts[number])
    button.click()
    desk.find("#tab-export").click()
    desk.find("#scope").select_option("selected")
    name, content = desk.download("csv")
    assert name == f"coins_{group}.csv"
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert len(rows) == count
    assert {row["group_shape"] for row in rows} == {group}
    coco = read_coco(desk.download("coco")[1], tmp_path)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert {coco.cats[annotation["category_id"]]["name"] for annotation in annotations} == {group}
    union = np.any([coco_mask.decode(annotation["segmentation"]) for annotation in annotations], axis=0)
    np.testing.assert_array_equal(read_mask(desk.download("mask")[1]), union)


def test_all_masks_and_a_selection_of_them(with_masks):
    desk = with_masks
    shown = desk.find("#masks tbody tr").count()
    first = desk.find("#masks tbody tr").first
    mask = first.get_attribute("data-row")
    first.locator("button").click()
    desk.find("#tab-export").click()
    desk.find("#scope").select_option("all")
    name, content = desk.download("xlsx")
    assert name == "coins.xlsx"
    assert load_workbook(io.BytesIO(content))["masks"].max_row == shown + 1
    desk.find("#scope").select_option("selected")
    name, content = desk.download("csv")
    assert name == "coins_selection.csv"
    assert [row["mask"] for row in csv.DictReader(io.StringIO(content.decode()))] == [mask]
    assert len(json.loads(desk.download("coco")[1])["annotations"]) == 1


def test_objects_keep_their_names(with_coins, tmp_path):
    desk = with_coins
    names = ["coin", 'a "worn", <b>bent</b> coin', "coin"]
    for number, ((x, y), name) in enumerate(zip([(154, 198), (272, 119), (52, 52)], names, strict=True)):
        desk.click(*desk.spot(x, y))
        expect(desk.find(".objects .facts").last).to_contain_text("predicted IoU")
        field = desk.find(".objects input").nth(number)
        field.fill(name)
        field.press("Enter")
        desk.find("#canvas").press("n")
    assert desk.find(".objects b").count() == 0
    desk.find("#tab-export").click()
    desk.find("#scope").select_option("objects")
    name, content = desk.download("coco")
    assert name == "coins.coco.json"
    coco = read_coco(content, tmp_path)
    annotations = coco.loadAnns(sorted(coco.getAnnIds()))
    assert [coco.cats[annotation["category_id"]]["name"] for annotation in annotations] == names
    assert len(coco.cats) == 2
    rows = list(csv.DictReader(io.StringIO(desk.download("csv")[1].decode())))
    assert [(row["mask"], row["name"]) for row in rows] == [(str(number), name) for number, name in enumerate(names)]
    assert [float(row["area"]) for row in rows] == [annotation["area"] for annotation in annotations]


def test_files_are_made_though_the_server_forgot(with_masks, state):
    desk = with_masks
    shown = desk.find("#masks tbody tr").count()
    desk.find("#tab-export").click()
    desk.refused = {410}
    state.sessions.delete(desk.sent("generate_masks")[0]["session_id"])
    rows = list(csv.DictReader(io.StringIO(desk.download("csv")[1].decode())))
    assert len(rows) == shown
    assert desk.find("#messages .message:not(.note)").count() == 0
