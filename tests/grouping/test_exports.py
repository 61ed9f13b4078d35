"""Tables, COCO, label maps and overlays, read back by the programs that people use."""

import csv
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image
from pycocotools.coco import COCO
from skimage import color, data
from skimage import io as skio
from skimage.measure import regionprops

from sam_server.grouping import coco, label_map, overlay, tables
from sam_server.grouping.errors import GroupingError
from sam_server.grouping.filters import Filters
from sam_server.grouping.group import GroupResult, group_masks
from sam_server.grouping.hierarchy import HierarchyParameters
from sam_server.grouping.selection import Scale
from sam_server.grouping.size import SizeParameters
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import MeasuredSet, measure_set


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:120, :160]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


MASKS = [
    disc(40, 40, 20),
    disc(45, 45, 6),
    disc(110, 50, 21),
    disc(130, 95, 6),
    disc(5, 110, 9),
    np.zeros((120, 160), bool),
]


@pytest.fixture
def measured(set_of_masks: Callable[[list[np.ndarray]], MaskSet]) -> MeasuredSet:
    return measure_set(set_of_masks(MASKS))


@pytest.fixture
def result(measured: MeasuredSet) -> GroupResult:
    methods = [SizeParameters(), HierarchyParameters()]
    return group_masks(measured, methods, Filters(drop_touching_edge=True), Scale(0.5, "µm"))


def test_csv_has_a_row_per_kept_mask(measured: MeasuredSet, result: GroupResult) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(measured, result).decode())))
    assert [int(row["mask"]) for row in rows] == [0, 1, 2, 3]
    assert [row["group_size"] for row in rows] == ["size class 1", "size class 2"] * 2
    assert rows[0]["group_hierarchy"] == rows[1]["group_hierarchy"] != rows[2]["group_hierarchy"]
    for row, mask in zip(rows, MASKS, strict=False):
        (region,) = regionprops(mask.astype(np.uint8), spacing=0.5)
        assert float(row["area"]) == pytest.approx(region.area)
        assert float(row["centroid_x"]) == pytest.approx(region.centroid[1])
        assert (row["parts"], row["touches_edge"], row["unit"]) == ("1", "0", "µm")
        assert [int(row[f"bbox_{side}"]) for side in ("y", "height")] == [
            region.bbox[0],
            region.bbox[2] - region.bbox[0],
        ]


def test_csv_leaves_the_unknown_empty(measured: MeasuredSet) -> None:
    bare = measure_set(MaskSet(measured.masks.size, measured.masks.records))
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(bare, group_masks(bare)).decode())))
    assert {row["mean_intensity"] for row in rows} == {""}
    assert all(
        row["mean_intensity"]
        for row in csv.DictReader(io.StringIO(tables.to_csv(measured, group_masks(measured)).decode()))
    )


def test_xlsx_holds_the_same_table(measured: MeasuredSet, result: GroupResult) -> None:
    book = openpyxl.load_workbook(io.BytesIO(tables.to_xlsx(measured, result)))
    assert book.sheetnames == ["masks", "groups", "filters"]
    header, *rows = book["masks"].iter_rows(values_only=True)
    assert list(header) == tables.mask_columns(result)
    for row, expected in zip(rows, tables.mask_rows(measured, result), strict=True):
        assert [cell for cell in row if isinstance(cell, str)] == [cell for cell in expected if isinstance(cell, str)]
        numbers = [cell for cell in expected if not isinstance(cell, str)]
        assert [cell for cell in row if not isinstance(cell, str)] == pytest.approx(numbers)
    header, total, *groups = book["groups"].iter_rows(values_only=True)
    assert total[: header.index("count") + 1] == (None, "total", 4)
    assert [(row[0], row[2]) for row in groups] == [
        ("size", 2),
        ("size", 2),
        ("hierarchy", 1),
        ("hierarchy", 2),
        ("hierarchy", 1),
    ]
    assert list(book["filters"].iter_rows(values_only=True)) == [
        ("filter", "removed"),
        ("empty", 1),
        ("drop_touching_edge", 1),
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("method", [None, "size"])
def test_pycocotools_loads_the_coco_file(
    measured: MeasuredSet, result: GroupResult, method: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "masks.json"
    path.write_bytes(coco.to_coco(measured, result, method, "discs.png"))
    loaded = COCO(str(path))
    annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[1]))
    assert [annotation["id"] - 1 for annotation in annotations] == list(result.kept)
    for annotation in annotations:
        mask = MASKS[annotation["id"] - 1]
        np.testing.assert_array_equal(loaded.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    categories = {entry["id"]: entry["name"] for entry in loaded.loadCats(loaded.getCatIds())}
    names = [categories[annotation["category_id"]] for annotation in annotations]
    assert names == (["object"] * 4 if method is None else ["size class 1", "size class 2"] * 2)


def test_an_unknown_method_is_named(measured: MeasuredSet, result: GroupResult) -> None:
    with pytest.raises(GroupingError, match="shape"):
        coco.to_coco(measured, result, "shape")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_scikit_image_reads_the_label_map(measured: MeasuredSet, suffix: str, tmp_path: Path) -> None:
    painted = label_map.make_label_map(measured, range(len(MASKS)))
    path = tmp_path / f"labels.{suffix}"
    path.write_bytes(painted.to_png() if suffix == "png" else painted.to_tiff())
    labels = skio.imread(path)
    assert labels.dtype == np.uint16
    for i, mask in enumerate(MASKS):
        np.testing.assert_array_equal(labels == i + 1, mask & ~MASKS[1] if i == 0 else mask)
    assert painted.overlapping_pixels == MASKS[1].sum()
    assert painted.hidden == {0: MASKS[1].sum()}


def test_label_map_of_groups(measured: MeasuredSet, result: GroupResult) -> None:
    group_of = result.groupings[0].group_of()
    labels = label_map.make_label_map(measured, result.kept, {m: g + 1 for m, g in group_of.items()}).labels
    assert (labels[40, 25], labels[45, 45], labels[95, 130], labels[110, 5]) == (1, 2, 2, 0)


def test_overlay_colours_by_group(measured: MeasuredSet, result: GroupResult) -> None:
    picture = np.full((120, 160, 3), 100, np.uint8)
    group_of = result.groupings[0].group_of()
    drawn = overlay.draw_overlay(measured, result.kept, group_of, picture)
    assert (picture == 100).all()
    painted = np.any([MASKS[i] for i in result.kept], axis=0)
    np.testing.assert_array_equal((drawn != 100).any(axis=2), painted)
    np.testing.assert_array_equal(drawn[40, 25], drawn[50, 110])
    assert (drawn[40, 25] != drawn[95, 130]).any()
    assert (drawn[40, 20] == overlay.PALETTE[0]).all()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(overlay.to_png(drawn)))), drawn)
    assert (overlay.draw_overlay(measured, result.kept)[0, 100] == 255).all()
    with pytest.raises(ValueError, match="shape"):
        overlay.draw_overlay(measured, result.kept, None, picture[:100])


def test_stripes_part_groups_of_one_colour(measured: MeasuredSet) -> None:
    looks = [overlay.look(number) for number in range(35)]
    assert len(set(looks)) == 35
    drawn = [overlay.draw_overlay(measured, [2], {2: 7 * stripes}) for stripes in range(5)]
    for one, other in itertools.combinations(drawn, 2):
        assert (one != other).any()


# Machado, Oliveira & Fernandes 2009, severity 1.0; they act on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("vision", VISION)
def test_colour_blind_people_tell_the_palette_apart(vision: str) -> None:
    encoded = np.array(overlay.PALETTE) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    srgb = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = color.rgb2lab(srgb)
    for one, other in itertools.combinations(lab, 2):
        # CIEDE2000: 1 is just noticeable side by side; 10 is seen at a glance.
        assert color.deltaE_ciede2000(one, other) > 10


def test_overlay_of_a_photograph_keeps_what_no_mask_covers() -> None:
    photo = np.ascontiguousarray(data.chelsea()[:120, :160])
    empty = measure_set(MaskSet((120, 160), ()))
    np.testing.assert_array_equal(overlay.draw_overlay(empty, (), None, photo), photo)
    assert label_map.make_label_map(empty, ()).hidden == {}
