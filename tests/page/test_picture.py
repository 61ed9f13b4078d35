"""Pictures into the page: every way in, every kind, and what cannot be read."""

import base64
import io

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
