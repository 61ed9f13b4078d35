"""Pictures into the page: every way in, every kind, and what cannot be read."""

import base64
import io
import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from playwright.sync_api import expect

# Hands a file to the page the way a drop or a paste does.
HAND_OVER = """([kind, name, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    const options = { bubbles: true, cancelable: true };
    const event = kind === "paste"
        ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
        : new DragEvent("drop", { ...options, dataTransfer: transfer });
    document.body.dispatchEvent(event);
}"""


def test_a_chosen_file_is_shown_and_encoded(desk, coins):
    desk.open("coins.png", coins)
    expect(desk.find("#picture-name")).to_have_text("coins.png · 384 × 303")
    expect(desk.find("#last")).to_contain_text("sessions in")
    assert desk.colours() > 100


def test_encoding_shows_progress_and_time(with_coins, state, to_file):
    desk = with_coins
    other = to_file(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    with state.gate.enter():
        desk.find("#file").set_input_files({"name": "other.png", "mimeType": "image/png", "buffer": other})
        # The picture before tells how long it may take.
        expect(desk.find("#busy-text")).to_have_text(re.compile(r"Encoding other\.png: [\d.]+ of about [\d.]+ s"))
        assert desk.find("#busy-bar").get_attribute("value") is not None
    expect(desk.find("#messages")).to_contain_text(re.compile(r"64 × 64 pixels, encoded in [\d.]+ s"))
    expect(desk.find("#busy")).to_be_hidden()


def test_sending_shows_progress(desk, to_file):
    network = desk.page.context.new_cdp_session(desk.page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", slow)
    noise = to_file(np.random.default_rng(0).integers(0, 255, (360, 360, 3), np.uint8))
    desk.find("#file").set_input_files({"name": "noise.png", "mimeType": "image/png", "buffer": noise})
    expect(desk.find("#busy-text")).to_have_text(re.compile(r"Sending noise\.png: \d+ %"))
    desk.wait_ready()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(desk, coins, way):
    desk.page.evaluate(HAND_OVER, [way, "handed.png", base64.b64encode(coins).decode()])
    desk.wait_ready()
    expect(desk.find("#picture-name")).to_contain_text("handed.png · 384 × 303")


def test_every_sample_opens(desk):
    samples = desk.find("#samples button")
    expect(samples).to_have_count(3)
    names = [samples.nth(number).get_attribute("data-sample") for number in range(3)]
    for name in names:
        samples.locator(f"xpath=self::*[@data-sample='{name}']").click()
        desk.wait_ready()
        expect(desk.find("#picture-name")).to_contain_text(name)
        desk.page.reload()


def test_deep_levels_are_shown_as_the_server_scales_them(desk):
    ramp = np.linspace(1000, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, ramp)
    desk.open("deep.tif", file.getvalue(), "image/tiff")
    expect(desk.find("#picture-name")).to_contain_text("levels 1")
    shot = np.asarray(Image.open(io.BytesIO(desk.find("#canvas").screenshot())).convert("L"))
    height, width = shot.shape
    middle = shot[height // 4 : -height // 4, width // 2]
    assert middle.max() - middle.min() > 100


def test_a_photograph_stands_upright(desk):
    picture = Image.new("RGB", (60, 40), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    desk.open("turned.jpg", file.getvalue(), "image/jpeg")
    expect(desk.find("#picture-name")).to_contain_text("40 × 60")
    shot = np.asarray(Image.open(io.BytesIO(desk.find("#canvas").screenshot())).convert("RGB"))
    red = (shot[..., 0] > 200) & (shot[..., 1] < 60)
    assert red.any(axis=1).sum() > red.any(axis=0).sum()


def test_a_wrong_file_is_refused_in_the_servers_words(desk):
    desk.refused = {415}
    desk.find("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    message = desk.find("#messages .message")
    expect(message).to_contain_text("notes.txt could not be opened")
    assert message.locator("p").inner_text() != ""
    expect(desk.find("#start")).to_be_visible()


def test_a_name_is_never_code(desk, coins):
    desk.open("<img src=x onerror=alert(1)>.png", coins)
    expect(desk.find("#picture-name")).to_contain_text("<img src=x onerror=alert(1)>.png")
    assert desk.find("#picture-name img").count() == 0
    desk.click()
    expect(desk.find(".objects .facts")).to_contain_text("predicted IoU")
    desk.find("#tab-export").click()
    assert desk.download("mask")[0] == "_img src=x onerror=alert(1)__Object_1.mask.png"


def test_zoom_and_pan_by_wheel_and_keys(with_coins):
    desk = with_coins
    zoom = desk.find("#zoom")
    fitted = zoom.inner_text()
    desk.page.mouse.move(*desk.place(0.5, 0.5))
    desk.page.mouse.wheel(0, -400)
    expect(zoom).not_to_have_text(fitted)
    desk.find("#canvas").focus()
    desk.page.keyboard.press("0")
    expect(zoom).to_have_text(fitted)
    desk.page.keyboard.press("1")
    expect(zoom).to_have_text("100 %")
    desk.page.keyboard.press("+")
    expect(zoom).to_have_text("125 %")


TOUCH = {"viewport": {"width": 800, "height": 900}, "has_touch": True}


@pytest.fixture
def touch(desk):
    """Puts fingers on the canvas, by their distance in pixels from its middle."""
    session = desk.page.context.new_cdp_session(desk.page)

    def put(kind: str, *fingers: tuple[float, float]) -> None:
        x, y = desk.place(0.5, 0.5)
        points = [{"x": x + dx, "y": y + dy, "id": number} for number, (dx, dy) in enumerate(fingers)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    return put


@pytest.mark.parametrize("viewport", [TOUCH], ids=["touch"])
def test_two_fingers_zoom_and_pan(with_coins, touch):
    desk = with_coins
    expect(desk.find("#hint")).to_contain_text("Two fingers")
    fitted = int(desk.find("#zoom").inner_text().split()[0])
    touch("touchStart", (-50, 0))
    touch("touchStart", (-50, 0), (50, 0))
    for reach in (60, 80, 100):
        touch("touchMove", (-reach, 0), (reach, 0))
    # The distance of the fingers was doubled; the shown share is rounded.
    twice = re.compile("|".join(f"^{2 * fitted + by} %$" for by in range(-3, 4)))
    expect(desk.find("#zoom")).to_have_text(twice)
    zoomed = int(desk.find("#zoom").inner_text().split()[0])
    touch("touchMove", (-70, 0), (130, 0))
    touch("touchEnd", (-70, 0))
    touch("touchEnd")
    expect(desk.find("#zoom")).to_have_text(twice)
    expect(desk.find(".objects li")).to_have_count(0)  # it was no click and no box
    touch("touchStart", (0, 0))
    touch("touchEnd")
    expect(desk.find(".objects .facts")).to_contain_text("predicted IoU")
    ((x, y),) = desk.sent("segment")[0]["points"]
    # What lay in the middle was moved by 30 pixels of the screen.
    assert x == pytest.approx(192 - 30 / (zoomed / 100), abs=1.5)
    assert y == pytest.approx(151.5, abs=1.5)


@pytest.mark.parametrize("viewport", [TOUCH], ids=["touch"])
def test_a_held_finger_takes_away(with_coins, touch):
    desk = with_coins
    touch("touchStart", (0, 0))
    touch("touchEnd")
    expect(desk.find(".candidates button")).to_have_count(3)
    touch("touchStart", (60, 40))
    expect(desk.find(".candidates")).to_have_count(0)
    expect(desk.find(".objects .facts")).to_contain_text("predicted IoU")
    touch("touchEnd")
    assert [body["point_labels"] for body in desk.sent("segment")] == [[1], [1, 0]]
