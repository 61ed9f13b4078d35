"""Make the pictures of the page in docs/images, with the model that ships: `python -m tests.page.screenshots`."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from werkzeug.serving import WSGIRequestHandler, make_server

from app import create_app
from sam_config import load_config

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WINDOW = {"width": 1280, "height": 800}
# Milliseconds until the model is loaded and every mask found, on a machine that has other things to do.
PATIENCE = 300_000
# The tiny model is less sure of its masks than the large ones that the defaults are made for.
THRESHOLDS = {"pred_iou_thresh": "0.7", "stability_score_thresh": "0.75"}
# A page loads quickly with pictures of this size; the first number of colours that gives it is taken.
MOST_BYTES = 280_000
COLOURS = (256, 128, 64)


class Quiet(WSGIRequestHandler):
    """Writes no line for every request."""

    def log_request(self, *_: object) -> None:
        pass


@contextmanager
def served() -> Iterator[str]:
    """The address of a server with the model that ships."""
    config = replace(load_config(), model_type="tiny", use_gpu=False)
    server = make_server("127.0.0.1", 0, create_app(config), threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()


def shoot(page: Page, name: str) -> None:
    """Save what the page shows."""
    page.locator("#messages button").evaluate_all("buttons => buttons.forEach((button) => button.click())")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colours in COLOURS:
        file = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if len(file.getvalue()) < MOST_BYTES:
            break
    (IMAGES / name).write_bytes(file.getvalue())


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
    shoot(page, "start.png")


def grouped(page: Page) -> None:
    """Coins found, measured, and grouped by size."""
    page.locator("#file").set_input_files(IMAGES / "coins.png")
    expect(page.locator("#messages")).to_contain_text("encoded in")
    page.locator("#tab-groups").click()
    page.locator("#points").select_option("16")
    page.locator("summary").filter(has_text="Thresholds").click()
    for name, value in THRESHOLDS.items():
        page.locator(f"#{name}").fill(value)
    page.locator("summary").filter(has_text="Thresholds").click()
    page.get_by_role("button", name="Find every mask").click()
    expect(page.locator("#summary")).to_contain_text("masks")
    page.locator("#choice").select_option("preset:droplets")
    expect(page.locator("legend").first).to_have_text("Method: size")
    page.locator("#groups-panel").evaluate("panel => panel.scrollTo(0, 0)")
    page.mouse.move(5, 5)
    page.wait_for_timeout(500)
    shoot(page, "page.png")


def objects(page: Page) -> None:
    """Objects by clicks, with the candidates of the last one."""
    page.locator("[data-sample='droplets.jpg']").click()
    expect(page.locator("#messages")).to_contain_text("encoded in")
    for number, (x, y) in enumerate([(0.29, 0.60), (0.87, 0.29), (0.415, 0.72)]):
        if number:
            page.keyboard.press("n")
        point(page, x, y)
    page.locator("#canvas").blur()
    shoot(page, "objects.png")


def main() -> None:
    """Make all pictures."""
    expect.set_options(timeout=PATIENCE)
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport=WINDOW)
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        start(page)
        grouped(page)
        page.reload()
        objects(page)
        browser.close()


if __name__ == "__main__":
    main()
