"""How the page looks and what it weighs: phone, dark, accessible, small, and strict about scripts."""

import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parents[2]
AXE_VERSION = "4.10.3"
FIRST_PAINT_BYTES = 150_000
FIRST_COLOUR = (230, 159, 0)  # of the first object
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@pytest.fixture(scope="session")
def backend(threshold_sam):
    """Known masks."""
    return threshold_sam


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core from npm, kept in build/."""
    folder = ROOT / "build" / "axe-core"
    script = folder / AXE_VERSION / "package" / "axe.min.js"
    if not script.exists():
        script.parents[1].mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", f"axe-core@{AXE_VERSION}", "--silent", "--pack-destination", script.parents[1]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"the test needs axe-core from npm: {done.stderr.strip()[-300:]}", pytrace=False)
        archive = script.parents[1] / f"axe-core-{AXE_VERSION}.tgz"
        subprocess.run(["tar", "xzf", archive, "-C", script.parents[1]], check=True)
    return script.read_text()


def violations(desk, axe: str) -> list[str]:
    """What axe finds serious, with the elements."""
    desk.page.evaluate(axe)
    found = desk.page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {[node['html'] for node in each['nodes']][:3]}" for each in serious]


@pytest.mark.parametrize(
    "viewport", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_nothing_serious_stands_in_anybodys_way(desk, coins, axe):
    assert violations(desk, axe) == []
    desk.open("coins.png", coins)
    desk.click()
    expect(desk.find(".candidates button")).to_have_count(3)
    assert violations(desk, axe) == []
    desk.find_masks()
    desk.wait_masks()
    assert violations(desk, axe) == []
    desk.find("#tab-export").click()
    assert violations(desk, axe) == []
    desk.find("#help").click()
    assert violations(desk, axe) == []


def brightness(colour: str) -> float:
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


@pytest.mark.parametrize(("viewport", "dark"), [({"color_scheme": "dark"}, True), ({"color_scheme": "light"}, False)])
def test_dark_and_light_follow_the_system(desk, dark):
    ground, text = (
        brightness(desk.find("body").evaluate(f"body => getComputedStyle(body).{name}"))
        for name in ("backgroundColor", "color")
    )
    assert (ground < text) is dark


@pytest.mark.parametrize("viewport", [PHONE], ids=["phone"])
def test_a_phone_shows_it_all_without_scrolling_sideways(desk, coins):
    desk.open("coins.png", coins)
    assert desk.page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(desk.find("#hint")).to_contain_text("Tap a thing, hold to take away")
    box = desk.find("#canvas").bounding_box()
    desk.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(desk.find(".candidates button")).to_have_count(3)
    desk.find("#tab-groups").click()
    expect(desk.page.get_by_role("button", name="Find every mask")).to_be_visible()
    assert desk.page.evaluate("document.documentElement.scrollWidth") <= 390


def near(shot: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture shows a colour: (H, W) bool."""
    return (np.abs(shot.astype(int) - colour).max(axis=-1) < 8).astype(np.uint8)


def test_opacity_changes_masks_and_outlines_are_crisp_at_any_zoom(with_coins):
    desk = with_coins
    coin = desk.spot(154, 198)
    before = desk.shot()
    desk.click(*coin)
    expect(desk.find(".candidates button")).to_have_count(3)
    row, column = round(coin[1] * before.shape[0]), round(coin[0] * before.shape[1]) + 14  # beside the point's mark
    half = desk.shot()
    assert np.abs(half[row, column].astype(int) - before[row, column]).max() > 20
    desk.find("#opacity").fill("0")
    clear = desk.shot()
    np.testing.assert_array_equal(clear[row, column], before[row, column])
    outline = near(clear, FIRST_COLOUR)
    ys, xs = np.nonzero(outline)
    assert 0 < cv2.distanceTransform(outline, cv2.DIST_L2, 5).max() <= 2.5
    desk.page.mouse.move(*desk.place(xs[0] / before.shape[1], ys[0] / before.shape[0]))
    zoom = desk.find("#zoom").inner_text()
    desk.page.mouse.wheel(0, -1500)
    expect(desk.find("#zoom")).not_to_have_text(zoom)
    assert int(desk.find("#zoom").inner_text().split()[0]) > 1000
    outline = near(desk.shot(), FIRST_COLOUR)
    assert outline.sum() > 20
    assert cv2.distanceTransform(outline, cv2.DIST_L2, 5).max() <= 2.5


def test_first_paint_is_light(browser, address):
    with browser.new_context() as context:
        page = context.new_page()
        sizes = []
        page.on("response", lambda answer: sizes.append((answer.url, len(answer.body()))))
        page.goto(address, wait_until="networkidle")
        loaded = dict(sizes)
        assert len(loaded) > 10
        assert all(url.startswith(address) for url in loaded)
        assert sum(loaded.values()) < FIRST_PAINT_BYTES


def test_nothing_runs_but_the_pages_own_files(desk, address):
    answer = desk.page.request.get(address)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in answer.text()
    assert not re.search(r"\son\w+=|\sstyle=", answer.text())


def test_the_truth_is_told(desk):
    expect(desk.find("#truth")).to_contain_text("tiny · pytorch")
    expect(desk.find("#truth")).to_contain_text("cpu · fp32")
    expect(desk.find("#banner")).to_contain_text("The model tiny stands in for vit_h")
    expect(desk.find("#banner")).to_contain_text("No checkpoint of vit_h could be downloaded")
