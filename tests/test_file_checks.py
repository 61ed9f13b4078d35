"""Files that are small and ask for much: refused before the memory or the time is spent."""

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from sam_server import images
from sam_server.file_checks import MAX_PAGES, MAX_SEGMENTS, count_pages, webp_canvas

MB = 1 << 20


def write(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def peak_of_refusal(file: bytes, words: str) -> int:
    """Bytes that Python's allocators gave at most while the file was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(images.CorruptImageError, match=words):
            images.read(file)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def change(file: bytes, tag: int, kind: int, count: int, value: int) -> bytes:
    """The file with another entry in its only directory; the tag must be there."""
    directory = struct.unpack_from("<I", file, 4)[0]
    entries = struct.unpack_from("<H", file, directory)[0]
    places = range(directory + 2, directory + 2 + 12 * entries, 12)
    at = next(place for place in places if struct.unpack_from("<H", file, place)[0] == tag)
    return file[:at] + struct.pack("<HHII", tag, kind, count, value) + file[at + 12 :]


def test_deflated_strip_that_is_a_bomb() -> None:
    packer = zlib.compressobj(9)
    stream = b"".join(packer.compress(bytes(MB)) for _ in range(256)) + packer.flush()
    whole = write(np.ones((16, 16, 3), np.float64), photometric="rgb", compression="zlib", rowsperstrip=16)
    file = change(change(whole, 273, 4, 1, len(whole)), 279, 4, 1, len(stream)) + stream
    assert peak_of_refusal(file, "unpacks to more than its picture") < 8 * MB


def test_strips_that_are_all_the_same_bytes() -> None:
    height = 60_000
    whole = write(np.ones((height, 3, 3), np.uint16), photometric="rgb", compression="zlib", rowsperstrip=1)
    with tifffile.TiffFile(io.BytesIO(whole)) as opened:
        tag = opened.pages.first.tags[279]
    size = {3: "H", 4: "I"}[tag.dtype]
    lengths = struct.pack(f"<{height}{size}", *[30_000] * height)
    file = whole[: tag.valueoffset] + lengths + whole[tag.valueoffset + len(lengths) :]
    assert peak_of_refusal(file, "overlap") < 8 * len(file)


def test_more_parts_than_any_program_writes() -> None:
    height = MAX_SEGMENTS + 1
    file = write(np.ones((height, 1), np.float64), rowsperstrip=1)
    with pytest.raises(images.CorruptImageError, match="more than 262,144 parts"):
        images.read(file)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiles_that_are_larger_than_the_picture(dtype: type) -> None:
    whole = write(np.ones((32, 32, 3), dtype), photometric="rgb", tile=(32, 32), compression="zlib")
    file = change(change(whole, 322, 4, 1, 16_384), 323, 4, 1, 16_384)
    assert peak_of_refusal(file, "tiles are larger than its picture") < MB


def directories(number: int, last: int = 0) -> bytes:
    """A TIFF of so many empty directories, the last of which points to `last`."""
    pointers = [8 + 6 * following for following in range(1, number)] + [last]
    return struct.pack("<2sHI", b"II", 42, 8) + b"".join(struct.pack("<HI", 0, pointer) for pointer in pointers)


def test_pages_are_counted_without_reading_them() -> None:
    assert count_pages(directories(1)) == 1
    assert count_pages(directories(7)) == 7
    assert count_pages(directories(7, last=8 + 6 * 3)) == 7, "a chain that comes back to itself ends there"
    assert count_pages(directories(7, last=1 << 31)) == 7
    assert count_pages(directories(MAX_PAGES + 50_000)) == MAX_PAGES
    assert count_pages(b"II*\0") == 1


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_pages_of_real_files(bigtiff: bool, byteorder: str) -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for value in range(5):
            writer.write(np.full((8, 8), value, np.uint16), metadata=None)
    assert images.read(file.getvalue()).pages == 5


def encode(pixels: np.ndarray, compression: int) -> bytes:
    return cv2.imencode(".tiff", pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])[1].tobytes()


@pytest.mark.parametrize("compression", [cv2.IMWRITE_TIFF_COMPRESSION_PACKBITS, cv2.IMWRITE_TIFF_COMPRESSION_LZW])
def test_compressions_that_opencv_reads(compression: int) -> None:
    rgb = np.arange(20 * 30 * 3, dtype=np.uint16).reshape(20, 30, 3) * 7
    expected = images.read(write(rgb, photometric="rgb")).pixels
    np.testing.assert_array_equal(images.read(encode(rgb, compression)).pixels, expected)


def test_other_compressions_are_named() -> None:
    file = encode(np.ones((8, 8, 3), np.float32), cv2.IMWRITE_TIFF_COMPRESSION_LZW)
    with pytest.raises(images.UnsupportedImageError, match="deflate"):
        images.read(file)


def test_memory_of_a_deep_picture_is_a_few_times_its_own() -> None:
    pixels = np.random.default_rng(0).random((1400, 1400, 4))
    file = write(pixels, photometric="rgb", extrasamples=["unassalpha"])
    tracemalloc.start()
    try:
        picture = images.read(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert picture.size == (1400, 1400)
    assert peak < 3 * pixels.nbytes


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    deep = write(rng.random((37, 29, 4)).astype(np.float32), photometric="rgb", extrasamples=["unassalpha"])
    flat = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (37, 29, 4), np.uint8)).save(flat, "PNG")
    for file in (deep, flat.getvalue()):
        whole = images.read(file).pixels
        with monkeypatch.context() as patch:
            patch.setattr(images, "_BLOCK_PIXELS", 100)
            np.testing.assert_array_equal(images.read(file).pixels, whole)


@pytest.mark.parametrize("size", [(1, 1), (255, 256), (257, 1000)])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True}, {"exif": b"Exif\0\0MM\0*"}])
def test_canvas_of_webp(size: tuple[int, int], options: dict[str, object]) -> None:
    file = io.BytesIO()
    second = {"append_images": [Image.new("RGBA", size, "red")]} if "save_all" in options else {}
    Image.new("RGBA" if second else "RGB", size).save(file, "WEBP", **options, **second)
    assert webp_canvas(file.getvalue()) == size


@pytest.mark.parametrize("file", [b"", b"RIFF", b"RIFF\0\0\0\0WEBP", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_no_canvas(file: bytes) -> None:
    assert webp_canvas(file) is None
