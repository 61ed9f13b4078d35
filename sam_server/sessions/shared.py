"""Sessions that several processes share: this process's memory first, then the store behind it.

What is acknowledged while the store is there has been written to it. While it is away, memory serves what it holds and
new sessions live in it alone; all of it is written once the store is back.
"""

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import orjson

from sam_server.arrays import FloatArray
from sam_server.grouping.errors import GroupingError
from sam_server.grouping.plan import Plan
from sam_server.sessions import mask_sets
from sam_server.sessions.errors import ForgottenIdError, SessionError, StoreAwayError, UnknownIdError
from sam_server.sessions.kept import HasBytes, KeptImage, Session, SessionContent, SharedStats
from sam_server.sessions.mask_sets import KeptMaskSet
from sam_server.sessions.packing import PackedError
from sam_server.sessions.pictures import (
    ImageCoder,
    SharedEmbedding,
    read_logits,
    read_picture,
    rounded_logits,
    write_logits,
    write_picture,
)
from sam_server.sessions.shared_store import SharedSession, SharedStore
from sam_server.sessions.store import SessionStore, missing_mask

log = logging.getLogger(__name__)


class SharedSessions(SessionStore):
    """Sessions in memory and in a shared store. Safe to use from many threads and processes.

    Every method may raise StoreAwayError where memory alone cannot answer.
    """

    def __init__(
        self,
        budget_bytes: int,
        ttl_seconds: float,
        store: SharedStore,
        coder: Callable[[], ImageCoder],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty first level.

        Args:
            budget_bytes, ttl_seconds, clock: of the memory, see `SessionStore`.
            store: the second level.
            coder: gives the loaded model; what it raises while there is none goes to the caller.
        """
        super().__init__(budget_bytes, ttl_seconds, clock)
        self._store = store
        self._coder = coder
        # Where the store cannot count masks, their ids carry the mark of this process, so that no other gives them.
        self._mark = secrets.token_hex(4)
        self._behind = False
        self._catching_up = threading.Lock()
        self._loads = self._refused = 0

    def open(self, source: bytes, encode: Callable[[], KeptImage], owner: str = "") -> tuple[Session, bool]:
        """See `SessionStore.open`: the embedding may be one that another process made."""
        coder = self._coder()
        picture = hashlib.sha256(source).hexdigest()
        loaded = False

        def load_or_encode() -> KeptImage:
            nonlocal loaded
            image = self._load(picture, source, coder)
            loaded = image is not None
            return image or self._settle(encode(), picture, coder)

        session, cached = super().open(source, load_or_encode, owner)
        self._write(session.id)
        return session, cached or loaded

    def get(self, session_id: str) -> Session:
        """See `SessionStore.get`: the session may have been opened by another process."""
        try:
            shared = self._find(session_id)
        except StoreAwayError:
            if self.content(session_id) is None:
                raise
            return super().get(session_id)
        session, _ = self._enter(session_id, shared.picture, lambda: self._load_again(shared), shared.owner)
        sets = dict.fromkeys([*shared.mask_sets, *session.mask_sets])
        return replace(session, masks=max(shared.masks, session.masks), mask_sets=tuple(sets))

    def delete(self, session_id: str) -> None:
        """See `SessionStore.delete`: for every process."""
        self._find(session_id)
        self._store.forget_session(session_id)
        self.discard(session_id, "deleted")

    def keep_masks(
        self,
        session_id: str,
        logits: Sequence[FloatArray],
        first: int | None = None,
        mark: str = "",
    ) -> list[str]:
        """See `SessionStore.keep_masks`: the logits are rounded to what every process continues from."""
        kept = [rounded_logits(array) for array in logits]
        first = self._count_masks(session_id, len(kept))
        if first is None:
            return super().keep_masks(session_id, kept, mark=mark or self._mark)
        ids = super().keep_masks(session_id, kept, first)
        try:
            values = {name: write_logits(array) for name, array in zip(ids, kept, strict=True)}
            self._store.keep_masks(session_id, values)
        except StoreAwayError as error:
            self._stay_behind(error)
        return ids

    def mask_logits(self, session_id: str, mask_id: str) -> FloatArray:
        """See `SessionStore.mask_logits`: the mask may have been made by another process."""
        content = self.content(session_id)
        if content is not None and mask_id in content.masks:
            return super().mask_logits(session_id, mask_id)
        shared = self._find(session_id)
        problem = missing_mask(mask_id, shared.made)
        if isinstance(problem, UnknownIdError):
            raise problem
        data = self._store.mask(session_id, mask_id)
        try:
            if data is not None:
                return read_logits(data)
        except PackedError as error:
            self._refuse(f"mask {mask_id}", error)
        raise problem

    def keep_mask_set(self, session_id: str, mask_set: HasBytes, set_id: str | None = None) -> str:
        """See `SessionStore.keep_mask_set`: for every process."""
        self.get(session_id)
        made = super().keep_mask_set(session_id, mask_set, set_id)
        try:
            self._write_set(session_id, made, mask_set)
        except StoreAwayError as error:
            self._stay_behind(error)
        return made

    def mask_set(self, set_id: str) -> tuple[Session, HasBytes]:
        """See `SessionStore.mask_set`: it may have been made, and grouped, by another process."""
        try:
            owner, plan = self._store.find_mask_set(set_id)
        except StoreAwayError:
            try:
                return super().mask_set(set_id)
            except SessionError:
                raise StoreAwayError("the mask set is not in this process") from None
        if owner is None:  # made while the store was away, or never
            return super().mask_set(set_id)
        try:
            session = self.get(owner)
        except ForgottenIdError as error:
            raise ForgottenIdError("mask_set", set_id, error.reason) from None
        content = self.content(owner)
        kept = None if content is None else content.mask_sets.get(set_id)
        if kept is None:
            kept = self._load_set(set_id)
            with suppress(SessionError):  # there is no room for it here
                super().keep_mask_set(owner, kept, set_id)
        if isinstance(kept, KeptMaskSet):
            self._group_again(kept, plan)
        return session, kept

    def keep_grouping(self, set_id: str, mask_set: HasBytes) -> None:
        """See `SessionStore.keep_grouping`: other processes export the groups that were asked for last."""
        plan = _plan_of(mask_set) if isinstance(mask_set, KeptMaskSet) else None
        if plan is not None:
            try:
                self._store.keep_plan(set_id, plan)
            except StoreAwayError as error:
                self._stay_behind(error)

    def shared_stats(self) -> SharedStats:
        """Counters, and whether the store is there."""
        return SharedStats(self._store.is_away, self._behind, self._store.failures, self._loads, self._refused)

    def catch_up(self, everything: bool = False) -> None:
        """Write what memory holds and the store has not got.

        Args:
            everything: even where nothing is known to be missing, for a store that may have forgotten it.

        Raises:
            StoreAwayError: the store is away.
        """
        with self._catching_up:
            if not (self._behind or everything):
                return
            self._behind = False
            for session_id in self.held():
                if not self._write(session_id) and self._behind:
                    raise StoreAwayError("it does not take what it is given")

    def _find(self, session_id: str) -> SharedSession:
        """What the store knows of a session; one that it lost, and memory did not, is written again."""
        try:
            return self._store.use(session_id, self._model())
        except SessionError as error:
            if isinstance(error, ForgottenIdError) and error.reason == "deleted":
                self.discard(session_id, "deleted")
                raise
            if self.content(session_id) is None:
                if isinstance(error, UnknownIdError):
                    super().get(session_id)  # memory may remember what the store lost
                raise
        if not self._write(session_id):
            raise StoreAwayError("the session is in this process alone")
        return self._store.use(session_id, self._model())

    def _model(self) -> str:
        return self._coder().identity

    def _load(self, picture: str, source: bytes | None, coder: ImageCoder) -> KeptImage | None:
        """The picture and its embedding from the store, or None where one of them is not to be had."""
        try:
            data = self._store.embedding(picture, coder.identity)
            if data is None:
                return None
            embedding = SharedEmbedding.read(data, coder.identity)
            packed = self._store.picture(picture)
            if packed is None:
                return None
            read = read_picture(packed, picture)
            image = KeptImage(source or read.file("source"), embedding.load(coder), dict(read.fields["details"]))
        except StoreAwayError:
            return None
        except (PackedError, KeyError, TypeError) as error:
            self._refuse(f"picture {picture}", error)
            return None
        self._loads += 1
        return image

    def _load_again(self, shared: SharedSession) -> KeptImage:
        """The picture of a session of another process; without an embedding of this model it is encoded again."""
        coder = self._coder()
        image = self._load(shared.picture, None, coder)
        if image is not None:
            return image
        data = self._store.picture(shared.picture)
        try:
            source = None if data is None else read_picture(data, shared.picture).file("source")
        except PackedError as error:
            self._refuse(f"picture {shared.picture}", error)
            source = None
        if source is None:
            raise ForgottenIdError("session", shared.id, "evicted")
        return self._settle(coder.encode(source), shared.picture, coder)

    def _settle(self, image: KeptImage, picture: str, coder: ImageCoder) -> KeptImage:
        """The same picture with the embedding that every process computes with."""
        ours = SharedEmbedding.of(image.embedding, coder)
        try:
            data = ours.write(coder.identity)
            if not self._store.keep_embedding(picture, coder.identity, data):
                theirs = self._store.embedding(picture, coder.identity)
                try:
                    ours = ours if theirs is None else SharedEmbedding.read(theirs, coder.identity)
                except PackedError as error:
                    self._refuse(f"embedding of {picture}", error)
                    self._store.keep_embedding(picture, coder.identity, data, replace=True)
        except StoreAwayError as error:
            self._stay_behind(error)
        return replace(image, embedding=ours.load(coder))

    def _load_set(self, set_id: str) -> KeptMaskSet:
        data = self._store.mask_set(set_id)
        try:
            if data is not None:
                return mask_sets.read(data)
        except PackedError as error:
            self._refuse(f"mask set {set_id}", error)
        raise ForgottenIdError("mask_set", set_id, "evicted")

    def _group_again(self, kept: KeptMaskSet, plan: bytes | None) -> None:
        """Group as another process did last."""
        if plan is None or plan == _plan_of(kept):
            return
        try:
            kept.group(Plan.from_dict(orjson.loads(plan)))
        except (GroupingError, KeyError, TypeError, ValueError) as error:
            self._refuse("plan", error)

    def _write(self, session_id: str) -> bool:
        """Write what the store has not got of a session; false where that did not work or was not wanted."""
        content = self.content(session_id)
        if content is None:
            return False
        try:
            return self._write_content(content)
        except StoreAwayError as error:
            self._stay_behind(error)
        except PackedError as error:
            log.warning("a session stays in this process alone: %s", error)
        return False

    def _write_content(self, content: SessionContent) -> bool:
        session, coder = content.session, self._coder()
        known = self._store.known(session.id, content.picture, coder.identity)
        if not known.picture:
            self._store.keep_picture(content.picture, write_picture(session.image))
        if not known.embedding:
            embedding = SharedEmbedding.of(session.image.embedding, coder)
            self._store.keep_embedding(content.picture, coder.identity, embedding.write(coder.identity))
        masks = {name: write_logits(logits) for name, logits in content.masks.items() if name not in known.masks}
        if masks:
            self._store.keep_masks(session.id, masks)
        for set_id, kept in content.mask_sets.items():
            if set_id not in known.mask_sets:
                self._write_set(session.id, set_id, kept)
        # Last, for whoever finds the session looks for the rest.
        shared = SharedSession(session.id, content.picture, session.owner, content.made)
        if self._store.keep_session(shared, coder.identity):
            return True
        self.discard(session.id, "deleted")
        return False

    def _write_set(self, session_id: str, set_id: str, kept: HasBytes) -> None:
        if not isinstance(kept, KeptMaskSet):
            return
        try:
            self._store.keep_mask_set(session_id, set_id, mask_sets.write(kept), _plan_of(kept))
        except PackedError as error:
            log.warning("a mask set stays in this process alone: %s", error)

    def _count_masks(self, session_id: str, count: int) -> int | None:
        """Number of the first of new masks; None where only this process can count them."""
        try:
            first = self._store.count_masks(session_id, count)
            if first is None and self._write(session_id):
                first = self._store.count_masks(session_id, count)
        except StoreAwayError as error:
            self._stay_behind(error)
            return None
        # Nothing holds a session that was deleted meanwhile, so that it does not matter how its masks are called.
        return 1 if first is None and self.content(session_id) is None else first

    def _stay_behind(self, error: Exception) -> None:
        self._behind = True
        log.debug("the shared store did not take something: %s", error)

    def _refuse(self, what: str, error: Exception) -> None:
        self._refused += 1
        log.warning("the shared store's %s is not used: %s", what, error)


def _plan_of(kept: KeptMaskSet) -> bytes | None:
    return None if kept.plan is None else orjson.dumps(kept.plan.to_dict())
