"""Sessions in this process's memory: content-addressed, least recently used goes first, one encode a picture.

A session is a picture and everything kept about it: embedding, logits of earlier masks, mask sets. It is used as
a whole and forgotten as a whole. A picture that several sessions share is held once, and freed with the last one.
"""

import hashlib
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from sam_server.arrays import FloatArray
from sam_server.sessions.errors import ForgottenIdError, Kind, OverBudgetError, Reason, UnknownIdError
from sam_server.sessions.kept import CacheStats, HasBytes, KeptImage, Session, SessionContent, SharedStats

# What a session or a mask set costs beside its arrays, in bytes, rounded up: a million empty ones are not free.
SESSION_BYTES = 2_048
# A session's own logits may take this share of the budget; its oldest masks are forgotten beyond it. Where the budget
# is full, the logits of all sessions together may take no more.
LOGITS_SHARE = 0.25
# A mask's number in its session, and the mark of the process that counted it where no other could be asked.
_MASK_ID = re.compile(r"m([1-9][0-9]{0,17})(?:-([0-9a-f]{8}))?")
# How many ids are remembered after their session is gone, to tell "forgotten" from "never existed".
FORGOTTEN_IDS = 10_000


@dataclass(eq=False)
class _Entry:
    """A session as the store holds it; `made` has how many masks were made, by the mark in their ids."""

    id: str
    key: str
    expires: float
    owner: str
    masks: OrderedDict[str, FloatArray] = field(default_factory=OrderedDict)
    mask_bytes: int = 0
    made: dict[str, int] = field(default_factory=dict)
    mask_sets: dict[str, HasBytes] = field(default_factory=dict)
    set_bytes: int = 0

    @property
    def nbytes(self) -> int:
        return SESSION_BYTES + self.mask_bytes + self.set_bytes


@dataclass(eq=False)
class _Shared:
    """A picture and how many sessions use it."""

    image: KeptImage
    users: int = 0


class SessionStore:
    """Keeps sessions within a budget of bytes and a time to live. Safe to use from many threads."""

    def __init__(
        self,
        budget_bytes: int,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty store.

        Args:
            budget_bytes: memory that pictures, embeddings, logits and mask sets may take together.
            ttl_seconds: a session is forgotten when nobody used it for so long.
            clock: seconds that never run backwards.
        """
        self._budget = budget_bytes
        self._ttl = ttl_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used, so first to expire, first
        self._images: dict[str, _Shared] = {}
        self._flights: dict[str, Future[KeptImage]] = {}
        self._set_owners: dict[str, str] = {}
        self._forgotten: OrderedDict[str, Reason] = OrderedDict()
        self._bytes = 0
        self._hits = self._misses = self._evictions = self._expirations = 0

    def open(self, source: bytes, encode: Callable[[], KeptImage], owner: str = "") -> tuple[Session, bool]:
        """Open a session on a picture; equal bytes are encoded once, however many ask at the same time.

        Args:
            source: the upload, whose hash is the picture's name.
            encode: makes the kept picture; called at most once, and not under the store's lock.
            owner: who opens it, for those who want to know later.

        Returns:
            The new session, and whether it found an embedding (or waited for one in the making).

        Raises:
            OverBudgetError: the picture alone is larger than the budget.
            Exception: what `encode` raised, in every thread that waited for it; the next call tries again.
        """
        return self._enter(secrets.token_hex(16), hashlib.sha256(source).hexdigest(), encode, owner)

    def _enter(self, session_id: str, key: str, encode: Callable[[], KeptImage], owner: str) -> tuple[Session, bool]:
        """`open` under an id that is given; a session of this id that is held already is used."""
        with self._lock:
            self._forget_expired()
            if session_id in self._entries:
                self._hits += 1
                return self._look(self._use(session_id)), True
            shared = self._images.get(key)
            flight = self._flights.get(key)
            cached = shared is not None or flight is not None
            if cached:
                self._hits += 1
            else:
                self._misses += 1
                flight = self._flights[key] = Future()
            if shared is not None:
                return self._add(session_id, key, shared.image, owner), True
        assert flight is not None
        if cached:
            image = flight.result()
            with self._lock:
                return self._add(session_id, key, image, owner), True
        return self._fly(session_id, key, flight, encode, owner), False

    def get(self, session_id: str) -> Session:
        """Look at a session, which renews its time to live.

        Raises:
            UnknownIdError, ForgottenIdError: there is none of this id.
        """
        with self._lock:
            entry = self._use(session_id)
            self._hits += 1
            return self._look(entry)

    def delete(self, session_id: str) -> None:
        """Forget a session and what is kept about it.

        Raises:
            UnknownIdError, ForgottenIdError: there is none of this id.
        """
        with self._lock:
            self._forget(self._use(session_id), "deleted")

    def keep_masks(
        self, session_id: str, logits: Sequence[FloatArray], first: int | None = None, mark: str = ""
    ) -> list[str]:
        """Keep low-res logits for refinement.

        Args:
            session_id: of the session they belong to. If it was forgotten meanwhile, nothing is kept and the ids
                that come back are as forgotten as the session.
            logits: (L, L) float32 each. They are copied, so that a view does not keep its parent alive.
            first: number of the first one, where somebody else counts.
            mark: of the ids, where they are counted apart from the others of the session.

        Returns:
            A mask_id for each, counted up within the session.
        """
        kept = [np.array(array, np.float32) for array in logits]
        with self._lock:
            entry = self._entries.get(session_id)
            if entry is None:
                return _mask_ids(first or 1, len(kept), mark)
            first = entry.made.get(mark, 0) + 1 if first is None else first
            entry.made[mark] = max(entry.made.get(mark, 0), first + len(kept) - 1)
            ids = _mask_ids(first, len(kept), mark)
            known = sum(entry.masks.pop(name).nbytes for name in ids if name in entry.masks)
            entry.masks.update(zip(ids, kept, strict=True))
            self._grow(entry, mask_bytes=sum(array.nbytes for array in kept) - known)
            self._drop_masks(entry, int(self._budget * LOGITS_SHARE))
            self._make_room(entry)
            return ids

    def mask_logits(self, session_id: str, mask_id: str) -> FloatArray:
        """The (L, L) float32 logits of an earlier mask of a session.

        Raises:
            UnknownIdError, ForgottenIdError: there is no such session, or no such mask in it.
        """
        with self._lock:
            entry = self._use(session_id)
            logits = entry.masks.get(mask_id)
            if logits is None:
                raise missing_mask(mask_id, entry.made)
            entry.masks.move_to_end(mask_id)
            return logits

    def keep_mask_set(self, session_id: str, mask_set: HasBytes, set_id: str | None = None) -> str:
        """Keep a mask set with its session and return its id, 32 hexadecimal digits, unguessable unless it is given.

        Raises:
            UnknownIdError, ForgottenIdError: there is no such session.
            OverBudgetError: picture and mask sets are larger than the whole budget; the session stays as it was.
        """
        with self._lock:
            entry = self._use(session_id)
            if set_id in entry.mask_sets:
                return set_id
            cost = SESSION_BYTES + mask_set.nbytes
            needed = self._images[entry.key].image.nbytes + SESSION_BYTES + entry.set_bytes + cost
            if needed > self._budget:
                raise OverBudgetError(needed, self._budget)
            set_id = set_id or secrets.token_hex(16)
            entry.mask_sets[set_id] = mask_set
            self._set_owners[set_id] = session_id
            self._grow(entry, set_bytes=cost)
            self._make_room(entry)
            return set_id

    def mask_set(self, set_id: str) -> tuple[Session, HasBytes]:
        """A kept mask set and its session, which renews the session's time to live.

        Raises:
            UnknownIdError, ForgottenIdError: there is none of this id.
        """
        with self._lock:
            self._forget_expired()
            owner = self._set_owners.get(set_id)
            if owner is None:
                raise self._missing("mask_set", set_id)
            entry = self._use(owner)
            return self._look(entry), entry.mask_sets[set_id]

    def keep_grouping(self, set_id: str, mask_set: HasBytes) -> None:
        """Take note that a mask set was grouped: it remembers that itself, so nothing is to be done in one process."""

    def held(self) -> list[str]:
        """Ids of the sessions in this process's memory."""
        with self._lock:
            self._forget_expired()
            return list(self._entries)

    def content(self, session_id: str) -> SessionContent | None:
        """All that memory holds of a session, which does not count as use; None where it holds nothing."""
        with self._lock:
            self._forget_expired()
            entry = self._entries.get(session_id)
            if entry is None:
                return None
            return SessionContent(
                self._look(entry), entry.key, dict(entry.made), dict(entry.masks), dict(entry.mask_sets)
            )

    def discard(self, session_id: str, reason: Reason) -> None:
        """Forget a session if it is held."""
        with self._lock:
            entry = self._entries.get(session_id)
            if entry is not None:
                self._forget(entry, reason)

    def shared_stats(self) -> SharedStats | None:
        """How the store behind this one serves it; None where there is none."""
        return None

    def stats(self) -> CacheStats:
        """Counters and what is held now."""
        with self._lock:
            self._forget_expired()
            return CacheStats(
                bytes=self._bytes,
                budget_bytes=self._budget,
                sessions=len(self._entries),
                images=len(self._images),
                mask_sets=len(self._set_owners),
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
                expirations=self._expirations,
            )

    def _fly(
        self, session_id: str, key: str, flight: Future[KeptImage], encode: Callable[[], KeptImage], owner: str
    ) -> Session:
        """Encode for all who wait on the flight; whatever happens, the key is free again afterwards."""
        try:
            image = encode()
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            flight.set_exception(error)
            raise
        try:
            with self._lock:
                del self._flights[key]
                return self._add(session_id, key, image, owner)
        finally:
            flight.set_result(image)

    def _add(self, session_id: str, key: str, image: KeptImage, owner: str) -> Session:
        if session_id in self._entries:
            return self._look(self._use(session_id))
        shared = self._images.get(key)
        if shared is None:
            if image.nbytes + SESSION_BYTES > self._budget:
                raise OverBudgetError(image.nbytes + SESSION_BYTES, self._budget)
            shared = self._images[key] = _Shared(image)
            self._bytes += image.nbytes
        shared.users += 1
        entry = _Entry(session_id, key, self._clock() + self._ttl, owner)
        self._entries[entry.id] = entry
        self._bytes += entry.nbytes
        self._make_room(entry)
        return self._look(entry)

    def _look(self, entry: _Entry) -> Session:
        return Session(
            id=entry.id,
            image=self._images[entry.key].image,
            expires_in=entry.expires - self._clock(),
            masks=len(entry.masks),
            mask_sets=tuple(entry.mask_sets),
            owner=entry.owner,
        )

    def _use(self, session_id: str) -> _Entry:
        self._forget_expired()
        entry = self._entries.get(session_id)
        if entry is None:
            raise self._missing("session", session_id)
        entry.expires = self._clock() + self._ttl
        self._entries.move_to_end(session_id)
        return entry

    def _missing(self, kind: Kind, name: str) -> UnknownIdError | ForgottenIdError:
        reason = self._forgotten.get(name)
        return UnknownIdError(kind, name) if reason is None else ForgottenIdError(kind, name, reason)

    def _forget_expired(self) -> None:
        """All sessions live equally long, so the least recently used are the first to expire."""
        now = self._clock()
        while self._entries and (entry := next(iter(self._entries.values()))).expires <= now:
            self._forget(entry, "expired")
            self._expirations += 1

    def _grow(self, entry: _Entry, mask_bytes: int = 0, set_bytes: int = 0) -> None:
        entry.mask_bytes += mask_bytes
        entry.set_bytes += set_bytes
        self._bytes += mask_bytes + set_bytes

    def _make_room(self, newest: _Entry) -> None:
        """Bring the bytes under the budget.

        Masks beyond their share go first, the oldest of the session that has most: sessions in which many people click
        must not push out each other. Then other sessions go, and last the newest one's own masks.
        """
        masks = sum(entry.mask_bytes for entry in self._entries.values())
        while self._bytes > self._budget and masks > self._budget * LOGITS_SHARE:
            largest = max(self._entries.values(), key=lambda entry: entry.mask_bytes)
            masks -= self._drop_masks(largest, largest.mask_bytes - 1)
        while self._bytes > self._budget and len(self._entries) > 1:
            self._forget(next(entry for entry in self._entries.values() if entry is not newest), "evicted")
            self._evictions += 1
        if self._bytes > self._budget:
            self._drop_masks(newest, newest.mask_bytes - (self._bytes - self._budget))

    def _drop_masks(self, entry: _Entry, limit: int) -> int:
        """Forget a session's oldest masks until they take no more than `limit`; the bytes that came free."""
        before = entry.mask_bytes
        while entry.mask_bytes > max(limit, 0):
            self._grow(entry, mask_bytes=-entry.masks.popitem(last=False)[1].nbytes)
        return before - entry.mask_bytes

    def _forget(self, entry: _Entry, reason: Reason) -> None:
        del self._entries[entry.id]
        self._bytes -= entry.nbytes
        shared = self._images[entry.key]
        shared.users -= 1
        if shared.users == 0:
            del self._images[entry.key]
            self._bytes -= shared.image.nbytes
        for name in (entry.id, *entry.mask_sets):
            self._set_owners.pop(name, None)
            self._forgotten[name] = reason
        while len(self._forgotten) > FORGOTTEN_IDS:
            self._forgotten.popitem(last=False)


def missing_mask(mask_id: str, made: Mapping[str, int]) -> UnknownIdError | ForgottenIdError:
    """Why a mask is not there.

    Args:
        mask_id: as it came.
        made: masks made in the session so far, by the mark in their ids.
    """
    found = _MASK_ID.fullmatch(mask_id)
    if found is not None and int(found[1]) <= made.get(found[2] or "", 0):
        return ForgottenIdError("mask", mask_id, "evicted")
    return UnknownIdError("mask", mask_id)


def _mask_ids(first: int, count: int, mark: str) -> list[str]:
    end = f"-{mark}" if mark else ""
    return [f"m{number}{end}" for number in range(first, first + count)]
