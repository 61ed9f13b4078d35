"""Arrays and files as one string of bytes with a header, for a store outside of this process. Nothing is executed.

A value is the mark and version, the header's length, the header as JSON, and the parts one after the other. The header
names the kind of value and, of each part, its dtype and shape, and whether it is compressed. What does not fit its
header or its checksum is refused, so that a damaged value is as good as none.
"""

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

Array = npt.NDArray[Any]
Part = Array | bytes

MARK = b"SAMv1\n"
# No value is larger, packed or not: Redis itself takes 512 MB.
MAX_BYTES = 256 << 20
# A part is compressed where this much of its start falls below that share of its size. Measured with level 1 on
# coins.png and model/tiny: the embedding in float16 comes to 0.87 of its size, 19 ms for 768 KiB; the logits of a click
# in float16 to 0.70, 7 ms for three masks; the text of a mask set to 0.38. The first two are not worth a click's time.
_SAMPLE_BYTES = 64 << 10
_WORTH = 0.6
# The fastest level: the ones above gain a few per cent for several times the time.
_LEVEL = 1
_DTYPES = frozenset({"float16", "float32", "float64", "int32", "int64", "uint32"})
_BYTES = "bytes"


class PackedError(ValueError):
    """Bytes that are no value of this kind and version, or damaged."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A value taken apart.

    Attributes:
        fields: JSON values.
        parts: arrays and files by name; the arrays are read-only.
    """

    fields: Mapping[str, Any]
    parts: Mapping[str, Part]

    def array(self, name: str, dtype: str, dimensions: int) -> Array:
        """A part that must be an array.

        Raises:
            PackedError: it is missing, or another kind of array.
        """
        part = self.parts.get(name)
        if not isinstance(part, np.ndarray) or part.dtype != dtype or part.ndim != dimensions:
            raise PackedError(f"{name} is no array of {dtype} with {dimensions} dimensions")
        return part

    def file(self, name: str) -> bytes:
        """A part that must be bytes.

        Raises:
            PackedError: it is missing, or an array.
        """
        part = self.parts.get(name)
        if not isinstance(part, bytes):
            raise PackedError(f"{name} is missing")
        return part


def pack(kind: str, fields: Mapping[str, Any], parts: Mapping[str, Part]) -> bytes:
    """Write a value.

    Args:
        kind: what it is, for `unpack` to compare.
        fields: JSON values.
        parts: arrays of the dtypes above, and bytes.

    Raises:
        PackedError: it is larger than MAX_BYTES.
    """
    entries, payload = [], []
    for name, part in parts.items():
        raw = part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes()
        stored = _compress(raw)
        entries.append(
            {
                "name": name,
                "dtype": _BYTES if isinstance(part, bytes) else part.dtype.name,
                "shape": [len(raw)] if isinstance(part, bytes) else list(part.shape),
                "stored": len(stored),
                "zlib": stored is not raw,
                "crc32": zlib.crc32(stored),
            }
        )
        payload.append(stored)
    header = orjson.dumps({"kind": kind, "fields": fields, "parts": entries})
    data = b"".join([MARK, struct.pack("<II", len(header), zlib.crc32(header)), header, *payload])
    if max(len(data), sum(_size(entry) for entry in entries)) > MAX_BYTES:
        raise PackedError(f"a {kind} of {len(data):,} bytes is too large to be shared")
    return data


def unpack(data: bytes, kind: str) -> Packed:
    """Read a value.

    Raises:
        PackedError: it is damaged, of another kind or another version.
    """
    try:
        return _unpack(data, kind)
    except (struct.error, zlib.error, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise PackedError(f"not a readable {kind}: {error}") from None


def _unpack(data: bytes, kind: str) -> Packed:
    if not data.startswith(MARK) or len(data) > MAX_BYTES:
        raise PackedError("another format or version")
    length, checksum = struct.unpack_from("<II", data, len(MARK))
    place = len(MARK) + 8
    head = data[place : place + length]
    if zlib.crc32(head) != checksum:
        raise PackedError("the header is damaged")
    header = orjson.loads(head)
    if header["kind"] != kind:
        raise PackedError(f"it is a {header['kind']}")
    place += length
    parts: dict[str, Part] = {}
    if sum(_size(entry) for entry in header["parts"]) > MAX_BYTES:
        raise PackedError("it unpacks to more than is allowed")
    for entry in header["parts"]:
        stored = data[place : place + entry["stored"]]
        place += entry["stored"]
        if zlib.crc32(stored) != entry["crc32"]:
            raise PackedError(f"{entry['name']} is damaged")
        size = _size(entry)
        raw = zlib.decompressobj().decompress(stored, max(size, 1)) if entry["zlib"] else stored
        if len(raw) != size:
            raise PackedError(f"{entry['name']} has {len(raw)} bytes in place of {size}")
        parts[entry["name"]] = (
            raw if entry["dtype"] == _BYTES else np.frombuffer(raw, entry["dtype"]).reshape(entry["shape"])
        )
    return Packed(header["fields"], parts)


def _size(entry: Mapping[str, Any]) -> int:
    """Bytes of a part when it is unpacked."""
    if entry["dtype"] == _BYTES:
        return int(entry["shape"][0])
    if entry["dtype"] not in _DTYPES or any(side < 0 for side in entry["shape"]):
        raise PackedError("an array of an unknown kind")
    size: int = math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
    return size


def _compress(raw: bytes) -> bytes:
    """The same bytes compressed, or the very same object where it does not pay."""
    sample = raw[:_SAMPLE_BYTES]
    if len(zlib.compress(sample, _LEVEL)) > _WORTH * len(sample):
        return raw
    packed = zlib.compress(raw, _LEVEL)
    return packed if len(packed) < len(raw) else raw
