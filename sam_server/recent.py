"""What a backend derives from an image embedding, kept for the pictures that were asked about last."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from sam_server.backend import ImageEmbedding

Derived = TypeVar("Derived")

# Pictures whose derivatives are kept: for ViT-B in float32 each takes 10 MB, and saves a third of a click.
KEPT_PICTURES = 8


class RecentPictures(Generic[Derived]):
    """A small cache by identity of the embedding, which it does not keep alive. Threads may share it.

    Args:
        limit: pictures that are kept at most; the one that was not asked about for longest goes first.
    """

    def __init__(self, limit: int = KEPT_PICTURES) -> None:
        self._limit = limit
        self._kept: OrderedDict[int, tuple[weakref.ref[ImageEmbedding], Derived]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, embedding: ImageEmbedding, derive: Callable[[], Derived]) -> Derived:
        """What was derived from an embedding, derived now if it is not kept.

        Two threads that ask at once may both derive it: that costs time and no more.
        """
        key = id(embedding)
        with self._lock:
            entry = self._kept.get(key)
            if entry is not None and entry[0]() is embedding:
                self._kept.move_to_end(key)
                return entry[1]
        derived = derive()
        # The callback runs wherever the embedding is let go, in the middle of `get` perhaps: it may not take the lock.
        reference = weakref.ref(embedding, lambda _: self._kept.pop(key, None))
        with self._lock:
            self._kept[key] = (reference, derived)
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return derived
