"""The model that ships, on a sample that ships, from the page: droplets found, grouped and exported."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from scipy import ndimage
from skimage import color, filters, measure

from backend_loader import load_backend
from sam_config import load_config
from sam_server.arrays import BoolArray

DROPLETS = Path(__file__).resolve().parents[2] / "sam_server" / "web" / "static" / "page" / "samples" / "droplets.jpg"
GOOD_IOU = 0.7
ENOUGH = 0.5  # of the droplets: the small model is no microscope
# The rows of the table are as many as the groups have masks.
SHOWN_EQUAL_COUNTED = """() => {
  const counts = [...document.querySelectorAll(".groups .count")].map((each) => Number(each.textContent));
  return counts.length && document.querySelectorAll("#masks tbody tr").length === counts.reduce((sum, n) => sum + n);
}"""
SPECK = 300  # pixels; what is smaller is no droplet


@pytest.fixture(scope="module")
def backend():
    """The model that ships."""
    return load_backend(load_config({"SAM_MODEL_TYPE": "tiny", "SAM_USE_GPU": "false"}, env_file=None))[0]


@pytest.fixture(scope="module")
def droplets() -> list[BoolArray]:
    """Masks of the droplets within the picture, by their colour: they alone are green."""
    saturation = color.rgb2hsv(np.asarray(Image.open(DROPLETS)))[..., 1]
    green = ndimage.binary_fill_holes(filters.gaussian(saturation, 2) > filters.threshold_otsu(saturation))
    regions = measure.regionprops(measure.label(green))
    last = green.shape[0]
    inside = [region for region in regions if min(region.bbox) > 0 and max(region.bbox) < last and region.area > SPECK]
    return [measure.label(green) == region.label for region in inside if region.solidity > 0.95]


def test_droplets_are_found_grouped_and_exported(desk, droplets):
    assert len(droplets) > 12
    desk.find("[data-sample='droplets.jpg']").click()
    desk.wait_ready()
    desk.find_masks("16")
    desk.wait_masks()
    desk.find("#choice").select_option("preset:droplets")
    expect(desk.find("legend").first).to_have_text("Method: size")
    desk.page.wait_for_function(SHOWN_EQUAL_COUNTED)  # the table follows the groups
    kept = desk.find("#masks tbody tr").count()
    desk.find("#tab-export").click()
    name, content = desk.download("labels_png")
    assert name == "droplets.labels.png"
    labels = np.asarray(Image.open(io.BytesIO(content)))
    found = sum(is_found(droplet, labels) for droplet in droplets)
    assert found >= ENOUGH * len(droplets), f"{found} of {len(droplets)} droplets, {kept} masks"


def is_found(droplet: BoolArray, labels: np.ndarray) -> bool:
    """Whether one of the masks is this droplet."""
    candidates = [labels == label for label in np.unique(labels[droplet]) if label]
    return any((mask & droplet).sum() / (mask | droplet).sum() >= GOOD_IOU for mask in candidates)
