"""The things that sessions hold, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sam_server.arrays import FloatArray
from sam_server.backend import ImageEmbedding


class HasBytes(Protocol):
    """Anything that knows how much memory it holds."""

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        ...


@dataclass(frozen=True, eq=False)
class KeptImage:
    """A picture and its embedding, shared by all sessions that were opened with the same bytes.

    Attributes:
        source: the upload as it came. It is decoded again where pixels are wanted, since a compressed picture is
            ten to thirty times smaller than its pixels.
        embedding: what the backend made of it.
        details: what the reader found out about the picture, as JSON values (such as the scaling of 16-bit levels).
    """

    source: bytes
    embedding: ImageEmbedding
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return len(self.source) + self.embedding.nbytes


@dataclass(frozen=True, eq=False)
class Session:
    """A look at one session, as it was when it was asked for.

    Attributes:
        id: 32 hexadecimal digits, unguessable.
        image: the picture and its embedding.
        expires_in: seconds until it is forgotten, if nobody uses it before.
        masks: how many masks can be continued by their mask_id.
        mask_sets: ids of the kept mask sets.
        owner: who opened it, in the words of those above; empty where that does not matter.
    """

    id: str
    image: KeptImage
    expires_in: float
    masks: int
    mask_sets: tuple[str, ...]
    owner: str = ""


@dataclass(frozen=True, eq=False)
class SessionContent:
    """A session with everything that is kept of it.

    Attributes:
        session: the look at it.
        picture: sha256 of the upload, hexadecimal.
        made: masks made so far, by the mark in their ids.
        masks: (L, L) float32 logits by mask_id.
        mask_sets: by id.
    """

    session: Session
    picture: str
    made: Mapping[str, int]
    masks: Mapping[str, FloatArray]
    mask_sets: Mapping[str, HasBytes]


@dataclass(frozen=True)
class SharedStats:
    """How the shared store serves this process.

    Attributes:
        away: whether the last question to it failed.
        behind: whether memory holds something that the store has not got.
        failures: questions that failed since the start.
        loads: pictures whose embedding came from the store.
        refused: values of the store that were damaged or of another model.
    """

    away: bool
    behind: bool
    failures: int
    loads: int
    refused: int


@dataclass(frozen=True)
class CacheStats:
    """Counters since the start, and what is held now.

    Attributes:
        bytes: memory held now.
        budget_bytes: memory that may be held.
        sessions: sessions held now.
        images: different pictures held now.
        mask_sets: mask sets held now.
        hits: requests that found their embedding, or waited for one that another request was making.
        misses: pictures that had to be encoded.
        evictions: sessions forgotten for want of memory.
        expirations: sessions forgotten after their time to live.
    """

    bytes: int
    budget_bytes: int
    sessions: int
    images: int
    mask_sets: int
    hits: int
    misses: int
    evictions: int
    expirations: int
