"""Pictures, embeddings and logits as other processes read them, and which model an embedding is of."""

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sam_server.arrays import FloatArray
from sam_server.backend import ImageEmbedding, SamBackend
from sam_server.sessions.kept import KeptImage
from sam_server.sessions.packing import Array, Packed, PackedError, pack, unpack

PICTURE, EMBEDDING, LOGITS = "picture", "embedding", "logits"
_HALF_MAX = float(np.finfo(np.float16).max)


class ImageCoder(Protocol):
    """The loaded model, as far as kept pictures need it."""

    @property
    def identity(self) -> str:
        """Name of the model; equal names stand for embeddings that one may take for another's."""
        ...

    def encode(self, source: bytes) -> KeptImage:
        """Read a picture's file and encode it."""
        ...

    def to_array(self, embedding: ImageEmbedding) -> FloatArray:
        """The embedding as (C, E, E) float32."""
        ...

    def from_array(
        self, array: FloatArray, original_size: tuple[int, int], input_size: tuple[int, int]
    ) -> ImageEmbedding:
        """The embedding of such an array, where the model keeps its own."""
        ...


def model_identity(backend: SamBackend) -> str:
    """Name a model by its weights, type and precision: 32 hexadecimal digits.

    Where the hash of the checkpoint is not known, that of the loaded files stands for it; where there are none, the
    name is one that no other process has.
    """
    info, spec = backend.info, backend.spec
    weights = info.sha256 or _hash_of_files(info.model_files)
    values = [weights, spec.model_type, info.precision, spec.image_size, spec.embedding_size, spec.embedding_channels]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def _hash_of_files(names: tuple[str, ...]) -> str:
    if not names or not all(Path(name).is_file() for name in names):
        return secrets.token_hex(16)
    digests = []
    for name in names:
        with Path(name).open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(digests)


def write_picture(image: KeptImage) -> bytes:
    """The upload as it came, compressed where it is not already, and what the reader found out about it."""
    return pack(PICTURE, {"details": image.details}, {"source": image.source})


def read_picture(data: bytes, sha256: str) -> Packed:
    """The fields and the part `source` of a picture.

    Args:
        data: what `write_picture` wrote.
        sha256: of the upload.

    Raises:
        PackedError: it is damaged, or another picture.
    """
    packed = unpack(data, PICTURE)
    if hashlib.sha256(packed.file("source")).hexdigest() != sha256:
        raise PackedError("it is another picture")
    return packed


@dataclass(frozen=True, eq=False)
class SharedEmbedding:
    """An embedding as it is shared.

    Attributes:
        array: (C, E, E) float16; float32 where a value is out of its range.
        original_size: (H, W) of the picture.
        input_size: (h, w) that the picture fills of the model input.
    """

    array: Array
    original_size: tuple[int, int]
    input_size: tuple[int, int]

    @classmethod
    def of(cls, embedding: ImageEmbedding, coder: ImageCoder) -> "SharedEmbedding":
        """Round an embedding: every process computes with these numbers, the one that made them too."""
        return cls(_rounded(coder.to_array(embedding)), embedding.original_size, embedding.input_size)

    def load(self, coder: ImageCoder) -> ImageEmbedding:
        """The embedding where the model wants it."""
        return coder.from_array(self.array.astype(np.float32), self.original_size, self.input_size)

    def write(self, identity: str) -> bytes:
        """As bytes, under the name of its model."""
        fields = {"model": identity, "original_size": self.original_size, "input_size": self.input_size}
        return pack(EMBEDDING, fields, {"array": self.array})

    @classmethod
    def read(cls, data: bytes, identity: str) -> "SharedEmbedding":
        """What `write` wrote.

        Raises:
            PackedError: it is damaged, or of another model.
        """
        packed = unpack(data, EMBEDDING)
        if packed.fields.get("model") != identity:
            raise PackedError("it is of another model")
        array = packed.parts.get("array")
        if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind != "f":
            raise PackedError("it is no embedding")
        try:
            sizes = [
                (int(side[0]), int(side[1])) for side in (packed.fields[n] for n in ("original_size", "input_size"))
            ]
        except (KeyError, TypeError, IndexError, ValueError):
            raise PackedError("it has no size") from None
        return cls(array, sizes[0], sizes[1])


def rounded_logits(logits: FloatArray) -> FloatArray:
    """The (L, L) float32 logits that every process continues from: those of float16."""
    return np.clip(logits, -_HALF_MAX, _HALF_MAX).astype(np.float16).astype(np.float32)


def write_logits(logits: FloatArray) -> bytes:
    """Logits of `rounded_logits` as bytes."""
    return pack(LOGITS, {}, {"logits": logits.astype(np.float16)})


def read_logits(data: bytes) -> FloatArray:
    """(L, L) float32 logits.

    Raises:
        PackedError: they are damaged.
    """
    return unpack(data, LOGITS).array("logits", "float16", 2).astype(np.float32)


def _rounded(array: FloatArray) -> Array:
    fits = bool(np.isfinite(array).all()) and float(np.abs(array).max(initial=0.0)) <= _HALF_MAX
    return array.astype(np.float16) if fits else array.astype(np.float32)
