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


def download(desk, fmt: str) -> tuple[str, bytes]:
    """Name and content of the file that a button gives."""
    with desk.page.expect_download() as caught:
        desk.find(f"[data-format={fmt}]").click()
    return caught.value.suggested_filename, caught.value.path().read_bytes()


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
    name, content = download(desk, "mask")
    assert name == "coins_Object_1.mask.png"
    mask = read_mask(content)
    assert mask.shape == (303, 384)
    name, content = download(desk, "cutout")
    cutout = np.asarray(Image.open(io.BytesIO(content)))
    assert cutout.shape == (303, 384, 4)
    np.testing.assert_array_equal(cutout[..., 3] > 0, mask)
    grey = np.asarray(Image.open(io.BytesIO(coins)).convert("L"))
    np.testing.assert_array_equal(cutout[..., 0][mask], grey[mask])
    coco = read_coco(download(desk, "coco")[1], tmp_path)
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]) > 0, mask)
    (row,) = csv.DictReader(io.StringIO(download(desk, "csv")[1].decode()))
    assert int(float(row["area"])) == mask.sum()
    labels = np.asarray(Image.open(io.BytesIO(download(desk, "labels_png")[1])))
    np.testing.assert_array_equal(labels == 1, mask)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(download(desk, "labels_tiff")[1])), labels)
    overlay = np.asarray(Image.open(io.BytesIO(download(desk, "overlay")[1])).convert("RGB"))
    np.testing.assert_array_equal(overlay[~mask], np.stack([grey] * 3, axis=-1)[~mask])
    sheet = load_workbook(io.BytesIO(download(desk, "xlsx")[1]))["masks"]
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
    name, content = download(desk, "csv")
    assert name == f"coins_{group}.csv"
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert len(rows) == count
    assert {row["group_shape"] for row in rows} == {group}
    coco = read_coco(download(desk, "coco")[1], tmp_path)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert {coco.cats[annotation["category_id"]]["name"] for annotation in annotations} == {group}
    union = np.any([coco_mask.decode(annotation["segmentation"]) for annotation in annotations], axis=0)
    np.testing.assert_array_equal(read_mask(download(desk, "mask")[1]), union)


def test_all_masks_and_a_selection_of_them(with_masks):
    desk = with_masks
    shown = desk.find("#masks tbody tr").count()
    first = desk.find("#masks tbody tr").first
    mask = first.get_attribute("data-row")
    first.locator("button").click()
    desk.find("#tab-export").click()
    desk.find("#scope").select_option("all")
    name, content = download(desk, "xlsx")
    assert name == "coins.xlsx"
    assert load_workbook(io.BytesIO(content))["masks"].max_row == shown + 1
    desk.find("#scope").select_option("selected")
    name, content = download(desk, "csv")
    assert name == "coins_selection.csv"
    assert [row["mask"] for row in csv.DictReader(io.StringIO(content.decode()))] == [mask]
    assert len(json.loads(download(desk, "coco")[1])["annotations"]) == 1
