"""The queue in front of the model: so many computations at once, so many waiting, first come first served."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
from sam_server.prompts import PromptBatch

# Weight of the newest computation in the running mean that Retry-After is estimated from.
_SMOOTHING = 0.2


class GateBusyError(Exception):
    """The queue is full, or the wait in it was too long; `retry_after` says when to come again, in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InferenceGate:
    """Lets so many computations run at once and holds the others in the order they came."""

    def __init__(
        self,
        slots: int,
        queue_length: int,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a gate.

        Args:
            slots: computations at once; one per device keeps threads from fighting over it.
            queue_length: how many may wait; the next one is refused at once.
            timeout: how long one may wait, in seconds.
            clock: seconds that never run backwards.
        """
        self._free = slots
        self._slots = slots
        self._queue_length = queue_length
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._mean_seconds = 0.1

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    @contextmanager
    def enter(self, patient: bool = False) -> Iterator[None]:
        """Wait for a turn and hold it within the `with` block.

        Args:
            patient: for work in the background, which is never refused and waits as long as it takes. It stands in
                the same line as everyone else.

        Raises:
            GateBusyError: the queue is full, or the turn did not come in time.
        """
        self._wait_for_turn(patient)
        started = self._clock()
        try:
            yield
        finally:
            self._leave(self._clock() - started)

    def _wait_for_turn(self, patient: bool) -> None:
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return
            if not patient and len(self._waiting) >= self._queue_length:
                raise GateBusyError("the server is busy: too many requests wait for the model", self._estimate())
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(None if patient else self._timeout):
            return
        with self._lock:
            if turn.is_set():  # the turn came between the time-out and the lock
                return
            self._waiting.remove(turn)
            message = f"the server is busy: the model had no time for this request within {self._timeout:g} seconds"
            raise GateBusyError(message, self._estimate())

    def _leave(self, seconds: float) -> None:
        with self._lock:
            self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)
            if self._waiting:
                self._waiting.popleft().set()  # the slot goes from hand to hand
            else:
                self._free += 1

    def _estimate(self) -> float:
        """Seconds until those who wait now are served."""
        return self._mean_seconds * (len(self._waiting) + 1) / self._slots


class GatedBackend:
    """A backend whose every computation waits for its turn, so that long work and clicks take turns by the chunk."""

    def __init__(self, backend: SamBackend, gate: InferenceGate, patient: bool = False) -> None:
        self._backend = backend
        self._gate = gate
        self._patient = patient

    @property
    def spec(self) -> ModelSpec:
        """What the loaded model expects and gives."""
        return self._backend.spec

    @property
    def info(self) -> BackendInfo:
        """What runs, and where."""
        return self._backend.info

    def encode(self, images: Sequence[PreparedImage]) -> list[ImageEmbedding]:
        """`SamBackend.encode` when its turn comes."""
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
