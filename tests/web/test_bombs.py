"""Small files that would become large: harmless over HTTP, in little memory; tests/test_images.py has more of them."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

INFLATED = 256 << 20


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(kind: bytes, head: bytes) -> bytes:
    """A good PNG of 16 x 16 with a chunk before its pixels that inflates to INFLATED bytes."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "PNG")
    after_header = 8 + 25
    bomb = png_chunk(kind, head + zlib.compress(bytes(INFLATED), 9))
    return file.getvalue()[:after_header] + bomb + file.getvalue()[after_header:]


def gif() -> bytes:
    """A canvas of 65,535 x 65,535 in a few bytes."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(file, "GIF")
    data = bytearray(file.getvalue())
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def avif() -> bytes:
    """AVIF that says 60,000 x 60,000 in its box of the size (`ispe`)."""
    size = struct.pack(">I4sIII", 20, b"ispe", 0, 60_000, 60_000)
    kind = struct.pack(">I4s4sI4s", 20, b"ftyp", b"avif", 0, b"avif")
    return kind + struct.pack(">I4sI", 12 + len(size), b"meta", 0) + size


BOMBS = {
    "zTXt": lambda: png_with(b"zTXt", b"Comment\0\0"),
    "iTXt": lambda: png_with(b"iTXt", b"Comment\0\1\0\0\0"),
    "iCCP": lambda: png_with(b"iCCP", b"profile\0\0"),
    "GIF": gif,
    "AVIF": avif,
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_bomb_is_harmless(client, kind):
    file = BOMBS[kind]()
    assert len(file) < 1 << 20
    client.get("/health")
    tracemalloc.start()
    try:
        answer = client.post("/sessions", data=file, content_type="application/octet-stream")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What stands beside the pixels may also be passed over: then the picture is a good one.
    assert answer.status_code in ((415,) if kind in ("GIF", "AVIF") else (201, 400, 413, 415)), answer.json
    assert peak < INFLATED / 8
