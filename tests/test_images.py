"""images.read on every kind of file, and on bytes that are none."""

import io
import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage import data

from sam_server import images
from sam_server.images import ImageLimits

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """(60, 91, 3) uint8: no side divides a block of JPEG, and no two orientations look alike."""
    return np.ascontiguousarray(data.chelsea()[20:80, 100:191])


def save(image: Image.Image | np.ndarray, file_format: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_pixels_back(photo: np.ndarray, file_format: str, options: dict[str, object]) -> None:
    picture = images.read(save(photo, file_format, **options))
    np.testing.assert_array_equal(picture.pixels, photo)
    assert (picture.format, picture.mode, picture.pages, picture.scaling) == (file_format, "RGB", 1, None)
    assert picture.size == photo.shape[:2]
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.dtype == np.uint8


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(photo: np.ndarray, file_format: str) -> None:
    picture = images.read(save(photo, file_format, quality=95))
    assert picture.format == file_format
    assert np.abs(picture.pixels.astype(int) - photo).mean() < 6


def test_address_is_of_the_pixels(photo: np.ndarray) -> None:
    addresses = [
        images.read(save(photo, "PNG")).sha256,
        images.read(save(photo, "PNG", compress_level=1)).sha256,
        images.read(save(photo, "BMP")).sha256,
    ]
    assert len(set(addresses)) == 1
    changed = photo.copy()
    changed[0, 0, 0] ^= 1
    assert images.read(save(changed, "PNG")).sha256 != addresses[0]
    assert images.read(save(np.zeros((2, 3, 3), np.uint8), "PNG")).sha256 != (
        images.read(save(np.zeros((3, 2, 3), np.uint8), "PNG")).sha256
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(photo: np.ndarray, file_format: str, orientation: int) -> None:
    image = Image.fromarray(photo)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, object] = {"lossless": True} if file_format == "WEBP" else {}
    stored = save(image, file_format, exif=exif, **options)
    plain = images.read(save(image, file_format, **options)).pixels
    tagged = Image.fromarray(plain)
    tagged.getexif()[ORIENTATION] = orientation
    np.testing.assert_array_equal(images.read(stored).pixels, np.asarray(ImageOps.exif_transpose(tagged)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_lzw_tiff_in_16_bits(photo: np.ndarray, orientation: int) -> None:
    ok, file = cv2.imencode(".tiff", photo[..., ::-1].astype(np.uint16) * 7)
    assert ok
    plain = file.tobytes()
    tagged = Image.fromarray(images.read(plain).pixels)
    tagged.getexif()[ORIENTATION] = orientation
    picture = images.read(with_orientation(plain, orientation))
    np.testing.assert_array_equal(picture.pixels, np.asarray(ImageOps.exif_transpose(tagged)))


def with_orientation(tiff: bytes, orientation: int) -> bytes:
    """The file with a new directory at its end that holds the tag."""
    directory = struct.unpack("<I", tiff[4:8])[0]
    count = struct.unpack("<H", tiff[directory : directory + 2])[0]
    entries = [tiff[directory + 2 + 12 * i : directory + 14 + 12 * i] for i in range(count)]
    entries = [entry for entry in entries if entry[:2] != struct.pack("<H", ORIENTATION)]
    entries = sorted([*entries, struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0)], key=lambda e: e[:2][::-1])
    body = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + body


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_orientation_of_deep_tiff(photo: np.ndarray, dtype: type, orientation: int) -> None:
    tag = (ORIENTATION, "H", 1, orientation, True)
    plain, turned = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(plain, photo.astype(dtype) * 7, photometric="rgb")
    tifffile.imwrite(turned, photo.astype(dtype) * 7, photometric="rgb", extratags=[tag])
    tagged = Image.fromarray(images.read(plain.getvalue()).pixels)
    tagged.getexif()[ORIENTATION] = orientation
    picture = images.read(turned.getvalue())
    np.testing.assert_array_equal(picture.pixels, np.asarray(ImageOps.exif_transpose(tagged)))


def test_grey_and_one_bit(photo: np.ndarray) -> None:
    grey = Image.fromarray(photo).convert("L")
    pixels = images.read(save(grey, "PNG")).pixels
    np.testing.assert_array_equal(pixels, np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    bits = Image.fromarray(photo).convert("1")
    np.testing.assert_array_equal(images.read(save(bits, "PNG")).pixels[..., 0], np.asarray(bits) * np.uint8(255))


def test_palette(photo: np.ndarray) -> None:
    palette = Image.fromarray(photo).quantize(32)
    np.testing.assert_array_equal(images.read(save(palette, "PNG")).pixels, np.asarray(palette.convert("RGB")))


def test_transparent_palette_entry_turns_white() -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 1), 1)
    pixels = images.read(save(image, "PNG", transparency=0)).pixels
    assert (pixels[1, 1] == (200, 100, 50)).all()
    assert (np.delete(pixels.reshape(-1, 3), 5, axis=0) == 255).all()


def test_alpha_is_laid_on_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [100, 200, 0, 128]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [177, 227, 127]]]
    np.testing.assert_array_equal(images.read(save(rgba, "PNG")).pixels, expected)
    grey_alpha = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 128)])
    np.testing.assert_array_equal(images.read(save(grey_alpha, "PNG")).pixels, [[[177, 177, 177]]])


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk(file_format: str) -> None:
    ink = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    picture = images.read(save(ink, file_format))
    assert picture.mode == "CMYK"
    assert np.abs(picture.pixels[8, 8].astype(int) - (0, 255, 255)).max() <= 3


def ramp(dtype: type, low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 200 * 300).reshape(200, 300).astype(dtype)


@pytest.mark.parametrize(
    ("file_format", "dtype", "low", "high"),
    [
        ("PNG", np.uint16, 100, 4095),
        ("TIFF", np.uint16, 100, 4095),
        ("TIFF", np.uint16, 0, 65535),
        ("TIFF", np.float32, -0.25, 1.5),
        ("TIFF", np.int32, -70000, 90000),
    ],
)
def test_deep_grey_is_scaled_by_percentiles(file_format: str, dtype: type, low: float, high: float) -> None:
    values = ramp(dtype, low, high)
    picture = images.read(save(values, file_format), percentiles=(1, 98))
    scaling = picture.scaling
    assert scaling is not None
    assert (scaling.low_percentile, scaling.high_percentile) == (1, 98)
    assert (scaling.low, scaling.high) == pytest.approx(tuple(np.percentile(values, (1, 98))), rel=1e-6)
    expected = np.clip((values.astype(float) - scaling.low) / (scaling.high - scaling.low), 0, 1) * 255
    assert np.abs(picture.pixels - expected[..., None]).max() <= 0.501


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [1, 3])
def test_scientific_tiff(dtype: type, compression: str | None, channels: int) -> None:
    values = np.stack([ramp(np.float64, 0, 200), ramp(np.float64, 200, 0), ramp(np.float64, 50, 100)], axis=-1)
    values = (values if channels == 3 else values[..., 0]).astype(dtype)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, values, photometric="rgb" if channels == 3 else "minisblack", compression=compression, metadata=None
    )
    picture = images.read(buffer.getvalue(), percentiles=(0, 100))
    expected = values.astype(float) if dtype == np.uint8 else values.astype(float) * 255 / float(values.max())
    assert np.abs(picture.pixels - expected.reshape(200, 300, channels)).max() <= 0.501
    assert (picture.scaling is None) == (dtype == np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_deep_colour_keeps_its_low_bits(suffix: str) -> None:
    """A 12-bit camera in a 16-bit file would be black in the high bytes alone."""
    rgb = np.stack([ramp(np.uint16, 0, 255), ramp(np.uint16, 255, 0), ramp(np.uint16, 0, 100)], axis=-1)
    ok, file = cv2.imencode(suffix, rgb[..., ::-1])  # OpenCV writes TIFF with LZW
    assert ok
    picture = images.read(file.tobytes(), percentiles=(0, 100))
    np.testing.assert_array_equal(picture.pixels, rgb)
    assert picture.scaling is not None


def test_deep_alpha_is_laid_on_white() -> None:
    bgra = np.array([[[0, 0, 60000, 65535], [0, 60000, 0, 0], [60000, 0, 0, 32768]]], np.uint16)
    ok, file = cv2.imencode(".png", bgra)
    assert ok
    pixels = images.read(file.tobytes(), percentiles=(0, 100)).pixels
    np.testing.assert_array_equal(pixels, [[[255, 0, 0], [255, 255, 255], [127, 127, 255]]])


def test_float_alpha_is_laid_on_white() -> None:
    rgba = np.array([[[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0.5]]], np.float32)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, rgba, photometric="rgb", extrasamples=["unassalpha"])
    pixels = images.read(buffer.getvalue(), percentiles=(0, 100)).pixels
    np.testing.assert_array_equal(pixels, [[[255, 0, 0], [255, 255, 255], [128, 128, 255]]])


def test_constant_and_nan_pixels() -> None:
    assert (images.read(save(np.full((4, 4), 1000, np.uint16), "PNG")).pixels == 0).all()
    values = np.array([[np.nan, 0.0], [1.0, np.inf]], np.float32)
    picture = images.read(save(values, "TIFF"), percentiles=(0, 100))
    np.testing.assert_array_equal(picture.pixels[..., 0], [[0, 0], [255, 255]])
    assert (images.read(save(np.full((2, 2), np.nan, np.float32), "TIFF")).pixels == 0).all()


def test_first_page_is_read_and_the_rest_counted(photo: np.ndarray) -> None:
    second, third = Image.fromarray(255 - photo), Image.fromarray(photo // 2)
    for file_format in ("TIFF", "WEBP"):
        options: dict[str, object] = {"lossless": True} if file_format == "WEBP" else {}
        pages = save(photo, file_format, save_all=True, append_images=[second, third], **options)
        picture = images.read(pages)
        assert picture.pages == 3
        np.testing.assert_array_equal(picture.pixels, photo)


def test_phone_jpeg_with_a_second_picture(photo: np.ndarray) -> None:
    file = save(photo, "MPO", save_all=True, append_images=[Image.fromarray(255 - photo)])
    picture = images.read(file)
    assert (picture.format, picture.pages) == ("JPEG", 2)


def one_colour_png() -> bytes:
    """A whole 30,000 x 30,000 PNG of one colour in 1 bit a pixel, compressed row by row."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 30_000 // 8)
    stream = b"".join(packer.compress(row) for _ in range(30_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")]
    packed = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def large_bmp() -> bytes:
    file = save(np.zeros((1, 1, 3), np.uint8), "BMP")
    return file[:18] + struct.pack("<ii", 30_000, 30_000) + file[26:]


def large_jpeg() -> bytes:
    file = save(np.zeros((8, 8, 3), np.uint8), "JPEG")
    at = file.index(b"\xff\xc0") + 5
    return file[:at] + struct.pack(">HH", 60_000, 60_000) + file[at + 4 :]


def large_webp() -> bytes:
    file = save(np.zeros((16, 16, 3), np.uint8), "WEBP")
    at = file.index(b"\x9d\x01\x2a") + 3  # start code of a VP8 key frame, then width and height in 14 bits each
    return file[:at] + struct.pack("<HH", 16_383, 16_383) + file[at + 4 :]


def large_tiff(dtype: type) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((16, 16), dtype), metadata=None)
    file = bytearray(buffer.getvalue())
    for tag in (256, 257):
        at = next(at for at in range(10, 200, 12) if file[at : at + 2] == struct.pack("<H", tag))
        file[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 30_000)
    return bytes(file)


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": one_colour_png,
    "bmp": large_bmp,
    "jpeg": large_jpeg,
    "webp": large_webp,
    "tiff": lambda: large_tiff(np.uint8),
    "float64 tiff": lambda: large_tiff(np.float64),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_bombs_are_refused_from_their_headers(kind: str) -> None:
    file = BOMBS[kind]()
    tracemalloc.start()
    try:
        with pytest.raises(images.ImageTooLargeError, match="pixels, the limit is") as caught:
            images.read(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == "image_too_large"
    assert peak < 4 * len(file) + 1_000_000


def test_limit_of_bytes_and_pixels(photo: np.ndarray) -> None:
    file = save(photo, "PNG")
    height, width, _ = photo.shape
    exact = ImageLimits(max_bytes=len(file), max_pixels=height * width)
    assert images.read(file, exact).size == (height, width)
    with pytest.raises(images.ImageTooLargeError, match="bytes, the limit is"):
        images.read(file, ImageLimits(max_bytes=len(file) - 1))
    with pytest.raises(images.ImageTooLargeError, match="91 x 60"):
        images.read(file, ImageLimits(max_pixels=height * width - 1))


def test_a_large_limit_is_not_second_guessed_by_pillow() -> None:
    """Above 89 million pixels Pillow would warn, above 179 million refuse."""
    with pytest.raises(images.TruncatedImageError):
        images.read(png_header(20_000, 10_000) + b"\0\0\0\x10IDAT", ImageLimits(max_pixels=200_000_000))


def test_empty_and_garbage() -> None:
    with pytest.raises(images.EmptyImageError) as empty:
        images.read(b"")
    assert empty.value.code == "image_empty"
    for garbage in (b"hello", b"<html></html>", bytes(1000), b"GIF89a" + bytes(100), b"%PDF-1.7"):
        with pytest.raises(images.NotAnImageError, match="JPEG, PNG, WEBP, BMP, TIFF") as caught:
            images.read(garbage)
        assert caught.value.code == "not_an_image"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_files(photo: np.ndarray, file_format: str, share: float) -> None:
    file = save(photo, file_format)
    with pytest.raises((images.TruncatedImageError, images.CorruptImageError)):
        images.read(file[: max(12, int(len(file) * share))])


def test_truncated_jpeg_has_its_code(photo: np.ndarray) -> None:
    file = save(photo, "JPEG")
    with pytest.raises(images.TruncatedImageError, match="ends before") as caught:
        images.read(file[: len(file) // 2])
    assert caught.value.code == "image_truncated"


def seeds() -> dict[str, bytes]:
    rgb = np.ascontiguousarray(data.chelsea()[100:124, 100:131])
    deep = rgb.astype(np.uint16) * 100
    files = {name: save(rgb, name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")}
    files["palette PNG"] = save(Image.fromarray(rgb).quantize(16), "PNG", transparency=0)
    files["LZW TIFF"] = save(rgb, "TIFF", compression="tiff_lzw")
    files["grey 16 PNG"], files["grey 16 TIFF"] = save(deep[..., 0], "PNG"), save(deep[..., 0], "TIFF")
    files["RGB 16 PNG"], files["RGB 16 LZW TIFF"] = (cv2.imencode(end, deep)[1].tobytes() for end in (".png", ".tiff"))
    for dtype, tile in itertools.product((np.uint16, np.float32, np.float64), (None, (16, 16))):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, rgb.astype(dtype), photometric="rgb", tile=tile)
        files[f"RGB {np.dtype(dtype)} TIFF, tiles {tile}"] = buffer.getvalue()
    return files


SEEDS = seeds()
mutations = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=12)


@settings(max_examples=250)
@given(st.sampled_from(sorted(SEEDS)), mutations, st.integers(0, 4000), st.booleans())
def test_mutated_files_raise_nothing_but_image_errors(
    seed: str, changes: list[tuple[int, int]], cut: int, cut_off: bool
) -> None:
    mutated = bytearray(SEEDS[seed])
    for place, value in changes:
        # Half of all changes fall on the headers.
        mutated[(place if place % 2 else place % 200) % len(mutated)] = value
    if cut_off:
        del mutated[max(1, cut % len(mutated)) :]
    try:
        picture = images.read(bytes(mutated), ImageLimits(max_pixels=1_000_000))
    except images.ImageError:
        return
    assert picture.pixels.shape == (*picture.size, 3)
    assert picture.pixels.dtype == np.uint8


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_image_errors(file: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\1\0\0WEBP", b"BM", b"II*\0", b"MM\0*", b"II+\0"):
        with pytest.raises(images.ImageError):
            images.read(start + file)
