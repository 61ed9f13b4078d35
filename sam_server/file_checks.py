"""Files before they are opened or decoded: what they would take, from a look at their headers alone."""

import ctypes
import struct
import zlib
from typing import Any

import numpy as np

# Values of the tag Compression (TIFF 6.0, section 8; Adobe's technical notes).
UNCOMPRESSED = 1
DEFLATE = (8, 32946)

# Tiles of a small TIFF may be larger than the picture: 2048 x 2048 is past any that is in use.
MAX_TILE_PIXELS = 2048 * 2048
# Strips and tiles of one page: tiles of 16 x 16, the smallest that TIFF 6.0 has, of 64 million pixels.
MAX_SEGMENTS = 1 << 18
# Pages are counted up to here: a file of nothing but empty directories has millions.
MAX_PAGES = 100_000
_INFLATED_PIECE = 1 << 20  # bytes


def quieten_libtiff(library: str) -> bool:
    """Keep libtiff from writing of damaged files to the standard error output of this process.

    Args:
        library: path of a shared library that is linked with it, such as Pillow's.

    Returns:
        Whether it was possible; where libtiff is linked statically it goes on.

    Source: TIFFError(3tiff).
    """
    try:
        setters = [getattr(ctypes.CDLL(library), f"TIFFSet{kind}Handler") for kind in ("Error", "Warning")]
    except (AttributeError, OSError):
        return False
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
        setter(None)
    return True


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a WebP file, or None where it is another file or says nothing.

    Pillow takes memory for the whole canvas, twice, when it opens a file.

    Source: RFC 9649, sections 2.5 to 2.7; RFC 6386, section 9.1.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return (1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    width, height = struct.unpack_from("<HH", data, 26)
    return (width & 0x3FFF, height & 0x3FFF)


def count_pages(data: bytes) -> int:
    """Length of the chain of directories, as far as it is whole, at least 1; nothing of a page is read.

    Args:
        data: a TIFF or BigTIFF file.
    """
    order = "<" if data.startswith(b"II") else ">"
    # BigTIFF has 8 bytes where TIFF 6.0 has 4, and entries of 20 bytes in place of 12.
    big = data[2:4] in (b"+\0", b"\0+")
    offset, count, entry, start = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    seen: set[int] = set()
    try:
        place = struct.unpack_from(order + offset, data, start)[0]
        while place and place not in seen and len(seen) < MAX_PAGES:
            entries = struct.unpack_from(order + count, data, place)[0]
            end = place + struct.calcsize("<" + count) + entry * entries
            following = struct.unpack_from(order + offset, data, end)[0]
            seen.add(place)
            place = following
    except (struct.error, OverflowError):  # past the end of the file
        pass
    return max(1, len(seen))


def tile_fault(tile: int, picture: int) -> str | None:
    """What is wrong with tiles of so many pixels in a picture of so many; None if nothing is."""
    return "its tiles are larger than its picture" if tile > max(4 * picture, MAX_TILE_PIXELS) else None


def segments_fault(page: Any, data: bytes) -> str | None:
    """What makes the strips or tiles of a page cost more than its picture; None if nothing does.

    tifffile inflates a segment to its end, a thousand times its length, before it looks at the size.

    Args:
        page: a `tifffile.TiffPage`, uncompressed or with deflate.
        data: the file.
    """
    offsets, lengths = page.dataoffsets, page.databytecounts
    if len(offsets) > MAX_SEGMENTS:
        return f"it is cut into more than {MAX_SEGMENTS:,} parts"
    if sum(lengths) > len(data):
        return "its parts overlap or are missing"
    if page.compression == UNCOMPRESSED:
        return None
    pixels = page.tilewidth * page.tilelength if page.is_tiled else page.imagewidth * page.imagelength
    most = pixels * page.samplesperpixel * np.dtype(page.dtype).itemsize
    fits = all(_inflates_within(data[start : start + n], most) for start, n in zip(offsets, lengths, strict=False))
    return None if fits else "it unpacks to more than its picture"


def _inflates_within(packed: bytes, most: int) -> bool:
    """Whether a zlib stream has at most so many bytes; they are counted piece by piece and not kept."""
    stream = zlib.decompressobj()
    size = 0
    while packed and not stream.eof and size <= most:
        size += len(stream.decompress(packed, _INFLATED_PIECE))
        packed = stream.unconsumed_tail
    return size <= most
