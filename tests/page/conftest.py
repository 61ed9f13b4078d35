"""A real Chromium on a real server with a small random model; a test fails for any error on the console."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright
from skimage import data, filters, measure
from werkzeug.serving import make_server as make_wsgi_server

from pytorch_sam_wrapper import PyTorchSam
from sam_server.backend import BackendInfo, Candidates, ImageEmbedding, LowResMasks, ModelSpec
from sam_server.network.sam import Sam
from sam_server.network.variants import VARIANTS
from sam_server.web.application import make_app
from sam_server.web.model import BackendReport
from sam_server.web.state import Server, WebSettings, make_server
from tests.debian import provide
from tests.serving import serving

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
COINS_SIZE = (384, 303)
# How long a test waits for the page, in milliseconds; ten times what a quiet core needs.
PATIENCE = 30_000
REPORT = BackendReport(
    requested_backend="auto",
    requested_model_type="vit_h",
    requested_gpu=True,
    performance_mode=False,
    onnx_available=True,
    pytorch_available=True,
    fallback_reason="no checkpoint of vit_h could be downloaded",
)
# What Chromium writes by itself for an answer with an error status.
_FAILED_LOAD = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, installed if it is missing."""
    provide("chromium", CHROMIUM.exists)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def backend() -> PyTorchSam:
    """A small SAM of the real classes with random weights."""
    torch.manual_seed(0)
    return PyTorchSam(Sam(replace(VARIANTS["tiny"], image_size=128)), torch.device("cpu"), "fp32")


class ThresholdSam:
    """Finds what is brighter than its surroundings: a backend whose masks are known, for what is made of masks.

    A random network has no masks of things, and the search of a trained one keeps a core busy for many seconds.
    """

    spec = ModelSpec("tiny", image_size=256, embedding_size=64, embedding_channels=1)
    info = BackendInfo("pytorch", "cpu", "fp32", "threshold")

    def encode(self, images):
        return [self._encode(image) for image in images]

    def _encode(self, image):
        grey = filters.gaussian(image.pixels.mean(axis=-1), 1.5)
        parts = np.zeros((self.spec.low_res_size, self.spec.low_res_size), np.int32)
        parts[: grey.shape[0], : grey.shape[1]] = measure.label(grey > filters.threshold_local(grey, 101, offset=-10))
        return ImageEmbedding(parts, image.original_size, image.input_size, parts.nbytes)

    def decode(self, embedding, prompts, multimask_output):
        kinds = 3 if multimask_output else 1
        logits = np.stack([self._logits(embedding.data, points)[:kinds] for points in prompts.point_coords])
        on_thing = [[embedding.data[int(y), int(x)] > 0] for x, y in prompts.point_coords[:, 0]]
        return LowResMasks(logits, np.where(on_thing, [[0.95, 0.7, 0.5][:kinds]], 0.1).astype(np.float32))

    def _logits(self, parts, points):
        """The part under the first point, the same grown, and all parts."""
        x, y = points[0].astype(int)
        part = (parts == parts[y, x]).astype(np.float32)
        masks = [part, cv2.dilate(part, np.ones((9, 9), np.uint8)), (parts > 0).astype(np.float32)]
        return np.stack([16 * cv2.GaussianBlur(mask, (3, 3), 0.5) - 8 for mask in masks])

    def decode_above(self, embedding, prompts, min_iou):
        masks = self.decode(embedding, prompts, True)
        prompt, kind = np.nonzero(masks.iou > min_iou)
        return Candidates(prompt, masks.logits[prompt, kind], masks.iou[prompt, kind])

    def embedding_array(self, embedding):
        cells = (embedding.data > 0).reshape(1, self.spec.embedding_size, 4, self.spec.embedding_size, 4)
        return cells.mean(axis=(2, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def threshold_sam() -> ThresholdSam:
    """A backend that finds bright things."""
    return ThresholdSam()


@pytest.fixture
def settings() -> dict[str, object]:
    """Settings of the server that are not the default; a test parametrises this."""
    return {}


@pytest.fixture
def state(backend, settings) -> Iterator[Server]:
    """What the requests of a server share."""
    state = make_server(WebSettings(**settings))
    state.slot.fill(backend, REPORT)
    yield state
    state.jobs.close()


@pytest.fixture
def address(state) -> Iterator[str]:
    """A server on a free port."""
    with serving(make_wsgi_server("127.0.0.1", 0, make_app(state), threaded=True)) as url:
        yield url


@dataclass
class Desk:
    """The page as somebody uses it.

    Attributes:
        page: of Playwright.
        requests: what it asked of the server so far.
        refused: statuses of errors that the test brings about.
    """

    page: Page
    requests: list[Request] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        failed = _FAILED_LOAD.search(message.text)
        if failed is None or int(failed[1]) not in self.refused:
            self.errors.append(f"{message.text} {message.location}")

    def find(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def open(self, name: str, content: bytes, mimetype: str = "image/png") -> None:
        """Choose a file, and wait until it is encoded."""
        self.find("#file").set_input_files({"name": name, "mimeType": mimetype, "buffer": content})
        self.wait_ready()

    def wait_ready(self) -> None:
        expect(self.find("#messages")).to_contain_text("pixels, encoded")
        self.page.get_by_role("button", name="Close").first.click()

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a share of the canvas lies on the screen; the picture is fitted in its middle."""
        box = self.find("#canvas").bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def click(self, x: float = 0.5, y: float = 0.5, **options: object) -> None:
        """Click at a share of the canvas."""
        self.find("#canvas").click(position=self._position(x, y), **options)

    def _position(self, x: float, y: float) -> dict[str, float]:
        box = self.find("#canvas").bounding_box()
        assert box is not None
        return {"x": x * box["width"], "y": y * box["height"]}

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag between shares of the canvas."""
        self.page.mouse.move(*self.place(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(*end), steps=4)
        self.page.mouse.up()

    def sent(self, path: str) -> list[dict[str, object]]:
        """Bodies of the requests to a path."""
        return [request.post_data_json for request in self.requests if request.url.split("?")[0].endswith("/" + path)]

    def find_masks(self, points: str = "16") -> None:
        """Search the picture."""
        self.find("#tab-groups").click()
        self.find("#points").select_option(points)
        self.page.get_by_role("button", name="Find every mask").click()

    def wait_masks(self) -> None:
        """Wait until the search has ended and its masks are grouped; it computes for longer than a click."""
        expect(self.find("#summary")).to_contain_text("masks", timeout=4 * PATIENCE)

    def shot(self) -> np.ndarray:
        """What the canvas shows: (H, W, 3) uint8."""
        return np.asarray(Image.open(io.BytesIO(self.find("#canvas").screenshot())).convert("RGB"))

    def colours(self) -> int:
        """How many different colours the canvas shows."""
        return len(np.unique(self.shot().reshape(-1, 3), axis=0))

    def spot(self, x: float, y: float) -> tuple[float, float]:
        """Share of the canvas where a place of the coins lies, while they are fitted."""
        box = self.find("#canvas").bounding_box()
        assert box is not None
        scale = min((box["width"] - 32) / COINS_SIZE[0], (box["height"] - 32) / COINS_SIZE[1], 8)
        return (
            0.5 + (x - COINS_SIZE[0] / 2) * scale / box["width"],
            0.5 + (y - COINS_SIZE[1] / 2) * scale / box["height"],
        )

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(80):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab never comes to {selector}")

    def download(self, fmt: str) -> tuple[str, bytes]:
        """Name and content of the file that a button of the exports gives."""
        with self.page.expect_download() as caught:
            self.find(f"[data-format={fmt}]").click()
        return caught.value.suggested_filename, caught.value.path().read_bytes()


@pytest.fixture
def viewport() -> dict[str, object]:
    """Options of the browser's window; a test parametrises this."""
    return {"viewport": {"width": 1280, "height": 800}}


@pytest.fixture
def desk(browser, address, viewport) -> Iterator[Desk]:
    """The page, freshly opened."""
    with browser.new_context(accept_downloads=True, **viewport) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        desk = Desk(page)
        desk.listen()
        page.goto(address)
        expect(desk.find("#truth")).to_contain_text("tiny")
        yield desk
        assert desk.errors == []


def write(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def to_file() -> Callable[..., bytes]:
    """Writes an array as a picture file."""
    return write


@pytest.fixture(scope="session")
def coins() -> bytes:
    """skimage's coins, 384 x 303."""
    return write(data.coins())


@pytest.fixture
def with_coins(desk, coins) -> Desk:
    """The page with the coins open."""
    desk.open("coins.png", coins)
    return desk


@pytest.fixture
def with_masks(with_coins) -> Desk:
    """The page with masks of the coins found and grouped."""
    with_coins.find_masks()
    with_coins.wait_masks()
    return with_coins
