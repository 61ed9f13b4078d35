"""Long work in this process: a bounded queue, progress, cancel, and results that are kept for a while."""

import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "cancelled"]
FINAL: frozenset[State] = frozenset({"done", "failed", "cancelled"})

# Ids remembered after their job is gone, to tell "forgotten" from "never existed".
FORGOTTEN_IDS = 10_000


class CancelledJobError(Exception):
    """Raised by work that notices that nobody wants it any more."""


class QueueFullError(Exception):
    """So many jobs wait already."""


class UnknownJobError(LookupError):
    """A job that is not here; `forgotten` tells whether it ever was."""

    def __init__(self, job_id: str, forgotten: bool) -> None:
        what = "was forgotten some time after it ended" if forgotten else "does not exist"
        super().__init__(f"the job {job_id[:64]!r} {what}")
        self.forgotten = forgotten


class FailedElsewhereError(Exception):
    """Why a job failed in another process; `document` is what that process says of it, as JSON values."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(str(document.get("detail", "")))
        self.document = document


@dataclass(frozen=True)
class Job:
    """A look at a job, as it was when it was asked for.

    Attributes:
        id: 32 hexadecimal digits, unguessable.
        kind: what it does, such as "generate_masks".
        state: "queued", "running", "done", "failed" or "cancelled"; the last three are final.
        version: counts the changes.
        progress: what the work reported last.
        result: what the work gave, once it is done.
        error: why it failed, or why nobody can finish it any more.
        created, ended: seconds of the queue's clock; `ended` is None until the state is final.
        owner: who started it; empty where that does not matter.
    """

    id: str
    kind: str
    state: State
    version: int
    progress: Mapping[str, Any]
    result: Any
    error: Exception | None
    created: float
    ended: float | None = None
    owner: str = ""


def new_job(kind: str, owner: str, now: float) -> Job:
    """A job that waits, under an id of its own."""
    return Job(secrets.token_hex(16), kind, "queued", 0, {}, None, None, now, owner=owner)


@dataclass(eq=False)
class _Entry:
    job: Job
    work: Callable[["JobContext"], Any] | None
    unwanted: threading.Event = field(default_factory=threading.Event)


class JobContext:
    """What work is given: a place to report to, and a question to ask now and then."""

    def __init__(self, report: Callable[[Mapping[str, Any]], None], unwanted: threading.Event) -> None:
        self._report = report
        self._unwanted = unwanted

    def report(self, progress: Mapping[str, Any]) -> None:
        """Tell how far the work is, as JSON values."""
        self._report(progress)

    def cancelled(self) -> bool:
        """Whether the work shall stop; it does so by raising CancelledJobError."""
        return self._unwanted.is_set()


class JobQueue:
    """Runs jobs in threads of its own, in the order they came. Safe to use from many threads."""

    def __init__(
        self,
        workers: int,
        queue_length: int,
        keep_jobs: int,
        keep_seconds: float,
        expected: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty queue; its threads start with the first job.

        Args:
            workers: jobs that run at once.
            queue_length: jobs that may wait; the next one is refused.
            keep_jobs: ended jobs that are kept, the newest ones.
            keep_seconds: how long they are kept.
            expected: failures that are the caller's affair; any other is logged with its traceback.
            clock: seconds that never run backwards.
        """
        self._workers = workers
        self._queue_length = queue_length
        self._keep_jobs = keep_jobs
        self._keep_seconds = keep_seconds
        self._expected = expected
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._waiting: deque[str] = deque()
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._close_reason: Exception | None = None

    def submit(
        self,
        kind: str,
        work: Callable[[JobContext], Any],
        owner: str = "",
        arguments: Mapping[str, Any] | None = None,  # noqa: ARG002, for queues that reach further
    ) -> Job:
        """Queue work.

        Args:
            kind: what it does.
            work: gives the result; raises CancelledJobError once its context says so.
            owner: who starts it, for those who want to know later.
            arguments: JSON values from which another process can make the same work, with `kind`.

        Raises:
            QueueFullError: so many jobs wait already.
        """
        with self._changed:
            if self._closed:
                raise QueueFullError("no more jobs are taken: the server stops")
            self._forget_old()
            if len(self._waiting) >= self._queue_length and self._idle == 0 and len(self._threads) >= self._workers:
                raise QueueFullError(f"{len(self._waiting)} jobs wait already: try again later")
            job = new_job(kind, owner, self._clock())
            self._entries[job.id] = _Entry(job, work)
            self._waiting.append(job.id)
            if self._idle < len(self._waiting) and len(self._threads) < self._workers:
                thread = threading.Thread(target=self._serve, name=f"job-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()
            return job

    def get(self, job_id: str) -> Job:
        """Look at a job.

        Raises:
            UnknownJobError: there is none of this id.
        """
        with self._changed:
            return self._find(job_id).job

    def cancel(self, job_id: str) -> Job:
        """Stop a job: at once if it waits, soon if it runs; an ended one stays as it is.

        Raises:
            UnknownJobError: there is none of this id.
        """
        with self._changed:
            entry = self._find(job_id)
            entry.unwanted.set()
            if entry.job.state == "queued":
                self._waiting.remove(job_id)
                self._end(entry, "cancelled")
            return entry.job

    def wait(self, job_id: str, version: int, timeout: float) -> Job:
        """Wait until a job is past a version, or the time is over, and look at it.

        Raises:
            UnknownJobError: there is none of this id.
        """
        with self._changed:
            entry = self._find(job_id)
            self._changed.wait_for(lambda: entry.job.version > version or entry.job.state in FINAL, timeout)
            return entry.job

    def follow(self, job_id: str, heartbeat: float) -> Iterator[Job]:
        """Every change of a job up to its end; the same look again after `heartbeat` seconds without one.

        Raises:
            UnknownJobError: there is none of this id.
        """
        job = self.get(job_id)
        yield job
        while job.state not in FINAL:
            job = self.wait(job_id, job.version, heartbeat)
            yield job

    def close(self, timeout: float = 0.0, reason: Exception | None = None) -> None:
        """Cancel every job and end the threads; nothing is taken afterwards.

        Args:
            timeout: how long to wait for running jobs to notice, in seconds.
            reason: the `error` of the jobs that this cancels.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            if not self._closed:
                self._close_reason = reason
            self._closed = True
            for entry in list(self._entries.values()):
                entry.unwanted.set()
                if entry.job.state == "queued":
                    self._end(entry, "cancelled", error=self._close_reason)
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self._changed:
            self._forget_old()
            found: dict[str, int] = {}
            for entry in self._entries.values():
                found[entry.job.state] = found.get(entry.job.state, 0) + 1
            return found

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                self._idle -= 1
                if self._closed:
                    return
                entry = self._entries[self._waiting.popleft()]
                self._change(entry, state="running")
            self._run(entry)

    def _run(self, entry: _Entry) -> None:
        assert entry.work is not None
        context = JobContext(lambda progress: self._report(entry, progress), entry.unwanted)
        try:
            result = entry.work(context)
        except CancelledJobError:
            self._finish(entry, "cancelled", error=self._close_reason)
        except Exception as error:
            if not isinstance(error, self._expected):
                log.error("job %s (%s) failed", entry.job.id, entry.job.kind, exc_info=error)
            self._finish(entry, "failed", error=error)
        else:
            self._finish(entry, "done", result=result)

    def _report(self, entry: _Entry, progress: Mapping[str, Any]) -> None:
        with self._changed:
            self._change(entry, progress=dict(progress))

    def _finish(self, entry: _Entry, state: State, **changes: Any) -> None:
        with self._changed:
            self._end(entry, state, **changes)

    def _end(self, entry: _Entry, state: State, **changes: Any) -> None:
        entry.work = None  # what it holds, a picture say, is free now
        now = self._clock()
        self._change(entry, state=state, ended=now, **changes)
        self._ended[entry.job.id] = now
        self._forget_old()

    def _change(self, entry: _Entry, **changes: Any) -> None:
        entry.job = replace(entry.job, version=entry.job.version + 1, **changes)
        self._changed.notify_all()

    def _find(self, job_id: str) -> _Entry:
        self._forget_old()
        entry = self._entries.get(job_id)
        if entry is None:
            raise UnknownJobError(job_id, job_id in self._forgotten)
        return entry

    def _forget_old(self) -> None:
        now = self._clock()
        while self._ended and (
            len(self._ended) > self._keep_jobs or next(iter(self._ended.values())) + self._keep_seconds <= now
        ):
            job_id, _ = self._ended.popitem(last=False)
            del self._entries[job_id]
            self._forgotten[job_id] = None
        while len(self._forgotten) > FORGOTTEN_IDS:
            self._forgotten.popitem(last=False)
