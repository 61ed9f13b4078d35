"""Make the pictures of the page in docs/images, with the model that ships: `python -m tests.page.screenshots`."""

import io
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from werkzeug.serving import WSGIRequestHandler, make_server

from app import create_app
from sam_config import load_config
from tests.serving import serving

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WINDOW = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
# Milliseconds until the model is loaded and every mask found, on a machine that has other things to do.
PATIENCE = 600_000
# Text stays crisp, and a picture has some 60 kB.
QUALITY = 82


class Quiet(WSGIRequestHandler):
    """Writes no line for every request."""

    def log_request(self, *_: object) -> None:
        pass


def served() -> AbstractContextManager[str]:
    """The address of a server with the model that ships."""
    config = replace(load_config(), model_type="tiny", use_gpu=False)
    return serving(make_server("127.0.0.1", 0, create_app(config), threaded=True, request_handler=Quiet))


def shoot(page: Page, name: str) -> None:
    """Save what the page shows."""
    page.locator("#messages button").evaluate_all("buttons => buttons.forEach((button) => button.click())")
    page.mouse.move(5, 5)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(IMAGES / f"{name}.webp", quality=QUALITY, method=6)


def point(page: Page, x: float, y: float, button: str = "left") -> None:
    """Click at a share of the picture, which is fitted in the middle of the canvas."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    width, height = (int(part) for part in page.locator("#picture-name").inner_text().split(" · ")[1].split(" × "))
    scale = min((box["width"] - 32) / width, (box["height"] - 32) / height, 8)
    left, top = (box["width"] - width * scale) / 2, (box["height"] - height * scale) / 2
    page.locator("#canvas").click(
        position={"x": left + x * width * scale, "y": top + y * height * scale}, button=button
    )
    expect(page.locator(".objects .facts").last).to_contain_text("predicted IoU")


def start(page: Page) -> None:
    """The first thing that people see."""
    expect(page.locator("#truth")).to_contain_text("tiny")
    page.locator("#samples img").last.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    shoot(page, "start")


def group(page: Page) -> None:
    """Find every mask of the picture, and group droplets by size."""
    expect(page.locator("#messages")).to_contain_text("pixels, encoded")
    page.locator("#tab-groups").click()
    page.locator("#points").select_option("16")
    page.get_by_role("button", name="Find every mask").click()
    expect(page.locator("#summary")).to_contain_text("masks")
    page.locator("#choice").select_option("preset:droplets")
    expect(page.locator("legend").first).to_have_text("Method: size")
    page.locator("#groups-panel").evaluate("panel => panel.scrollTo(0, 0)")
    page.wait_for_timeout(500)


def coins(page: Page) -> None:
    """Coins found, measured, and grouped by size."""
    page.locator("#file").set_input_files(IMAGES / "coins.png")
    group(page)
    shoot(page, "page")


def droplets(page: Page) -> None:
    """Droplets in the dark; one group is selected, and the table stands beside it."""
    page.locator("[data-sample='droplets.jpg']").click()
    group(page)
    page.locator(".groups button").first.click()
    page.locator("#masks").evaluate("table => table.closest('[role=tabpanel]').scrollTo(0, 420)")
    shoot(page, "dark")


def objects(page: Page) -> None:
    """Objects by clicks, with the candidates of the last one."""
    page.locator("[data-sample='droplets.jpg']").click()
    expect(page.locator("#messages")).to_contain_text("pixels, encoded")
    for number, (x, y) in enumerate([(0.29, 0.60), (0.87, 0.29), (0.415, 0.72)]):
        if number:
            page.keyboard.press("n")
        point(page, x, y)
    page.locator("#canvas").blur()
    shoot(page, "objects")


def phone(page: Page) -> None:
    """Coins on a phone, by a tap."""
    page.locator("#file").set_input_files(IMAGES / "coins.png")
    expect(page.locator("#messages")).to_contain_text("pixels, encoded")
    point(page, 0.4, 0.65)
    page.locator("#canvas").blur()
    shoot(page, "phone")


STATES = [
    (start, WINDOW),
    (coins, WINDOW),
    (droplets, WINDOW | {"color_scheme": "dark"}),
    (objects, WINDOW),
    (phone, PHONE),
]


def main() -> None:
    """Make all pictures."""
    expect.set_options(timeout=PATIENCE)
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for make, window in STATES:
            with browser.new_context(**window) as context:
                page = context.new_page()
                page.set_default_timeout(PATIENCE)
                page.goto(address)
                make(page)
        browser.close()


if __name__ == "__main__":
    main()
