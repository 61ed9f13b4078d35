"""The queue in front of the model: so many computations at once, so many waiting, each client in its turn."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sam_server.arrays import FloatArray
from sam_server.backend import (
    BackendInfo,
    Candidates,
    ImageEmbedding,
    LowResMasks,
    ModelSpec,
    PreparedImage,
    SamBackend,
)
from sam_server.jobs.asking import Asker, asker
from sam_server.jobs.line import FairLine, Place
from sam_server.prompts import PromptBatch

T = TypeVar("T")
R = TypeVar("R")

# Weight of the newest computation in the running mean that Retry-After is estimated from.
_SMOOTHING = 0.2
# Seconds between two looks whether the one who waits is still there.
LOOK_EVERY = 0.25


class GateBusyError(Exception):
    """The queue is full, or the wait in it was too long; `retry_after` says when to come again, in seconds."""

    def __init__(self, message: str, retry_after: float, who: Asker | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.who = who


class ClientGoneError(Exception):
    """Nobody waits for the answer any more; `who` asked for it."""

    def __init__(self, who: Asker) -> None:
        super().__init__("the client closed the connection")
        self.who = who


class Observer(Protocol):
    """Is told what happens at the gate."""

    def waited(self, background: bool, seconds: float) -> None:
        """Somebody's turn came."""

    def refused(self, reason: str) -> None:
        """Somebody left without a turn: the reason is "full", "timeout", "deadline" or "gone"."""

    def encoded(self, pictures: int) -> None:
        """So many pictures were encoded in one computation."""


class _NoObserver:
    def waited(self, background: bool, seconds: float) -> None:
        pass

    def refused(self, reason: str) -> None:
        pass

    def encoded(self, pictures: int) -> None:
        pass


@dataclass(eq=False)
class _Turn:
    """Somebody who waits.

    Attributes:
        who: asks.
        place: in the line.
        item: what is to be computed, where that may be done together with others; else None.
        over: set once the wait is over: the slot is this turn's, or another computed its `result`, or it was sent away
            to make room.
        is_served: whether another computed it, or does so now.
        result, error: what came of that.
        refused: why it was sent away.
    """

    who: Asker
    place: Place
    item: Any = None
    over: threading.Event = field(default_factory=threading.Event)
    is_served: bool = False
    result: Any = None
    error: BaseException | None = None
    refused: GateBusyError | None = None


class InferenceGate:
    """Lets so many computations run at once and holds the others, each client in its turn (line.py)."""

    def __init__(
        self,
        slots: int,
        queue_length: int,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
    ) -> None:
        """Make a gate.

        Args:
            slots: computations at once; one per device keeps threads from fighting over it.
            queue_length: how many may wait, those in the background aside; beyond that somebody is refused at once.
            timeout: how long one may wait, in seconds.
            clock: seconds that never run backwards.
            observer: is told what happens.
        """
        self._free = slots
        self._slots = slots
        self._queue_length = queue_length
        self._timeout = timeout
        self._clock = clock
        self._observer: Observer = observer or _NoObserver()
        self._lock = threading.Lock()
        self._line: FairLine[_Turn] = FairLine()
        self._started: dict[int, float] = {}
        self._mean_seconds = 0.1

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._line)

    def waiting_in(self, background: bool) -> int:
        """How many wait now in the background, or before it."""
        return self._line.length(background)

    @property
    def running(self) -> int:
        """How many computations run now."""
        return self._slots - self._free

    @property
    def longest(self) -> float:
        """Seconds that the oldest computation runs by now; 0 where none does."""
        with self._lock:
            return self._clock() - min(self._started.values()) if self._started else 0.0

    @contextmanager
    def enter(self, patient: bool = False) -> Iterator[None]:
        """Wait for a turn on behalf of the current asker (asking.py), and hold it within the `with` block.

        Args:
            patient: for work in the background, which is never refused and waits as long as it takes. Most turns of
                those who do not wait so go before it.

        Raises:
            GateBusyError: the queue is full, or the turn did not come in time.
            ClientGoneError: the asker left.
        """
        turn = self._wait_for_turn(patient, None)
        with self._slot(turn):
            yield

    def together(self, item: T, compute: Callable[[Sequence[T]], Sequence[R]], most: int, patient: bool = False) -> R:
        """Compute something in one turn with up to `most` others who wait for the same kind of thing.

        Args:
            item: what is to be computed.
            compute: gives a result for each of several items, the same that each alone would have.
            most: items in one computation.
            patient: as for `enter`.

        Raises:
            GateBusyError, ClientGoneError: as for `enter`.
            Exception: what `compute` raised for this item.
        """
        turn = self._wait_for_turn(patient, item)
        if turn.is_served:
            if turn.error is not None:
                raise turn.error
            served: R = turn.result
            return served
        with self._slot(turn):
            with self._lock:
                others = self._line.take(lambda other: other.item is not None, most - 1)
                for other in others:
                    other.is_served = True
            try:
                return self._compute(item, others, compute)
            finally:
                for other in others:
                    if other.result is None and other.error is None:  # this thread was ended in the middle
                        other.error = RuntimeError("the computation was broken off")
                    other.over.set()

    def _compute(self, item: T, others: list[_Turn], compute: Callable[[Sequence[T]], Sequence[R]]) -> R:
        self._observer.encoded(1 + len(others))
        if others:
            try:
                mine, *rest = compute([item, *(other.item for other in others)])
            except Exception:
                pass  # perhaps together they are too much for the memory, or one of them is bad: each alone, then
            else:
                for other, result in zip(others, rest, strict=True):
                    other.result = result
                return mine
        for other in others:
            try:
                [other.result] = compute([other.item])
            except Exception as error:
                other.error = error
        [alone] = compute([item])
        return alone

    @contextmanager
    def _slot(self, turn: _Turn) -> Iterator[None]:
        started = self._clock()
        with self._lock:
            self._started[id(turn)] = started
        try:
            yield
        finally:
            with self._lock:
                del self._started[id(turn)]
                self._mean_seconds += _SMOOTHING * (self._clock() - started - self._mean_seconds)
                following = self._line.pop()
                if following is None:
                    self._free += 1
                else:
                    following.over.set()  # the slot goes from hand to hand

    def _wait_for_turn(self, patient: bool, item: Any) -> _Turn:
        who = asker.get()
        turn = _Turn(who, Place(who.client, who.session, patient), item)
        started = self._clock()
        end = None if patient else started + self._timeout
        if who.deadline is not None:
            # By this gate's clock, whatever that is.
            deadline = started + who.deadline - time.monotonic()
            end = deadline if end is None else min(end, deadline)
        with self._lock:
            self._check(turn, started, started, end)
            if self._free and not self.waiting:
                self._free -= 1
                self._observer.waited(patient, 0.0)
                return turn
            if not patient:
                self._make_room(turn)
            self._line.push(turn.place, turn)
        self._wait(turn, started, end)
        waited = self._clock() - started
        who.waited(waited)
        self._observer.waited(patient, waited)
        return turn

    def _wait(self, turn: _Turn, started: float, end: float | None) -> None:
        while not turn.over.wait(self._look_after(turn, end)):
            with self._lock:
                if turn.over.is_set():  # the turn came between the look and the lock
                    break
                if not turn.is_served:  # what another computes comes soon, and cannot be called off
                    self._check(turn, started, self._clock(), end)
        if turn.refused is not None:
            raise turn.refused

    def _look_after(self, turn: _Turn, end: float | None) -> float:
        """Seconds until the next look whether waiting has a use."""
        if end is None or turn.is_served:
            return LOOK_EVERY
        return min(LOOK_EVERY, max(0.0, end - self._clock()))

    def _check(self, turn: _Turn, started: float, now: float, end: float | None) -> None:
        """Leave the line where waiting has no use any more."""
        if turn.who.is_gone():
            self._line.remove(turn)
            self._observer.refused("gone")
            raise ClientGoneError(turn.who)
        if end is not None and now >= end:
            self._line.remove(turn)
            timeout = now - started >= self._timeout
            self._observer.refused("timeout" if timeout else "deadline")
            within = f"within {self._timeout:g} seconds" if timeout else "before the request's deadline"
            message = f"the server is busy: the model had no time for this request {within}"
            raise GateBusyError(message, self._estimate(), turn.who)

    def _make_room(self, newcomer: _Turn) -> None:
        """Refuse somebody if the queue is full: whoever has the most in it, or the newcomer."""
        if self._line.length(background=False) < self._queue_length:
            return
        self._observer.refused("full")
        message = "the server is busy: too many requests wait for the model"
        leaving = self._line.who_makes_room(newcomer.place)
        if leaving is None:
            raise GateBusyError(message, self._estimate(), newcomer.who)
        self._line.remove(leaving)
        leaving.refused = GateBusyError(message, self._estimate(), leaving.who)
        leaving.over.set()

    def _estimate(self) -> float:
        """Seconds until those who wait now are served."""
        return self._mean_seconds * (len(self._line) + 1) / self._slots


class GatedBackend:
    """A backend whose every computation waits for its turn, so that long work and clicks take turns by the chunk."""

    def __init__(self, backend: SamBackend, gate: InferenceGate, patient: bool = False, encode_batch: int = 1) -> None:
        """Put a backend behind a gate.

        Args:
            backend: any.
            gate: of the device that the backend runs on, and of no other backend.
            patient: as for `InferenceGate.enter`.
            encode_batch: pictures of those who wait at the same time that are encoded together.
        """
        self._backend = backend
        self._gate = gate
        self._patient = patient
        self._encode_batch = encode_batch

    @property
    def spec(self) -> ModelSpec:
        """What the loaded model expects and gives."""
        return self._backend.spec

    @property
    def info(self) -> BackendInfo:
        """What runs, and where."""
        return self._backend.info

    def encode(self, images: Sequence[PreparedImage]) -> list[ImageEmbedding]:
        """`SamBackend.encode` when its turn comes, a single picture perhaps together with those of others."""
        if len(images) == 1 and self._encode_batch > 1:
            return [self._gate.together(images[0], self._backend.encode, self._encode_batch, self._patient)]
        with self._gate.enter(self._patient):
            return self._backend.encode(images)

    def decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask_output: bool) -> LowResMasks:
        """`SamBackend.decode` when its turn comes."""
        with self._gate.enter(self._patient):
            return self._backend.decode(embedding, prompts, multimask_output)

    def decode_above(self, embedding: ImageEmbedding, prompts: PromptBatch, min_iou: float) -> Candidates:
        """`SamBackend.decode_above` when its turn comes."""
        with self._gate.enter(self._patient):
            return self._backend.decode_above(embedding, prompts, min_iou)

    def embedding_array(self, embedding: ImageEmbedding) -> FloatArray:
        """`SamBackend.embedding_array`, at once: it computes nothing."""
        return self._backend.embedding_array(embedding)
