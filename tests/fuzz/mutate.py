"""Damage to files, repeatable from a random generator: bytes anywhere, and the places where each format counts."""

import random
import struct
import zlib
from collections.abc import Callable

# Where parsers count: nothing, one, all ones, signs, and sizes that multiply to more than 32 bits.
_BOUNDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_SIZES = (*_BOUNDS, 24, 31, 255, 256, 1_000, 1_001, 4_096, 30_000)
_HEADER_BYTES = 160
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Entries of a TIFF directory: tag, type, count, value (TIFF 6.0, section 2).
_ENTRY = 12
# Most files are damaged in one place: more rarely reaches past the first check.
_OPERATIONS = (1, 1, 1, 1, 2, 2, 3, 6)

Operation = Callable[[random.Random, bytearray], None]


def mutate(rng: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    """A damaged copy of a file.

    Args:
        rng: the only source of chance.
        whole: the file.
        others: files that parts may be taken from.
    """
    data = bytearray(whole)
    for _ in range(rng.choice(_OPERATIONS)):
        if rng.random() < 0.04:
            _splice(rng, data, rng.choice(others))
        else:
            rng.choice(_operations(data))(rng, data)
        if not data:
            break
    # A wrong checksum would end most damage of a PNG before anything reads it.
    if data.startswith(_PNG_SIGNATURE) and rng.random() < 0.8:
        _mend_checksums(data)
    return bytes(data)


def _operations(data: bytearray) -> tuple[Operation, ...]:
    plain: tuple[Operation, ...] = (_flip, _put_byte, _put_number, _put_number, _cut_off, _delete, _repeat, _insert)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return (*plain, *[_change_entry] * 6)
    if data.startswith(b"\xff\xd8"):
        return (*plain, *[_change_segment] * 3)
    return plain


def _place(rng: random.Random, data: bytearray) -> int:
    """Half of all damage falls on the header."""
    return rng.randrange(min(len(data), _HEADER_BYTES) if rng.random() < 0.5 else len(data))


def _flip(rng: random.Random, data: bytearray) -> None:
    data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _put_byte(rng: random.Random, data: bytearray) -> None:
    data[_place(rng, data)] = rng.randrange(256)


def _put_number(rng: random.Random, data: bytearray) -> None:
    code = rng.choice(("<H", ">H", "<I", ">I"))
    at, size = _place(rng, data), struct.calcsize(code)
    number = rng.choice(_SIZES) & ((1 << 8 * size) - 1)
    data[at : at + size] = struct.pack(code, number)[: len(data) - at]


def _cut_off(rng: random.Random, data: bytearray) -> None:
    if rng.random() < 0.3:
        del data[_place(rng, data) :]


def _delete(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    del data[at : at + rng.randint(1, 32)]


def _repeat(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    piece = data[at : at + rng.randint(1, 64)]
    data[at:at] = piece * rng.choice((1, 1, 2, 50))


def _insert(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    data[at:at] = rng.randbytes(rng.randint(1, 16))


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[_place(rng, data) :] = other[rng.randrange(len(other)) :]


def _change_entry(rng: random.Random, data: bytearray) -> None:
    """Another tag, type, count or value in a directory of a TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8:
        return
    directory = struct.unpack_from(order + "I", data, 4)[0]
    if directory + 2 > len(data):
        return
    count = struct.unpack_from(order + "H", data, directory)[0]
    at = directory + 2 + _ENTRY * rng.randrange(max(1, min(count, 40)))
    if at + _ENTRY > len(data):
        return
    field, code = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H"), (8, "I"), (8, "H")))
    if field == 0:
        number = rng.choice((254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 330, 338, 339))
    elif field == 2:
        number = rng.randrange(20)
    else:
        number = rng.choice((*_SIZES, rng.randrange(64), len(data), len(data) - 1, directory))
    struct.pack_into(order + code, data, at + field, number & (0xFFFF if code == "H" else 0xFFFFFFFF))


def _change_segment(rng: random.Random, data: bytearray) -> None:
    """Another length or content in a segment of a JPEG."""
    starts = [at for at in range(2, len(data) - 4) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    if not starts:
        return
    at = rng.choice(starts) + rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 11))
    if at < len(data):
        data[at] = rng.choice((0, 1, 2, 3, 4, 8, 0x11, 0x22, 0x7F, 0xFF, rng.randrange(256)))


def _mend_checksums(data: bytearray) -> None:
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
