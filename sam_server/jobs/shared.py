"""Jobs that several processes share: those of this process, told to all others, and those of workers elsewhere."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sam_server.jobs.job_store import JobStore
from sam_server.jobs.queue import FINAL, Job, JobContext, JobQueue, QueueFullError, UnknownJobError, _Entry, new_job
from sam_server.sessions.errors import StoreAwayError

log = logging.getLogger(__name__)

Work = Callable[[JobContext], Any]
Where = Literal["auto", "process", "celery"]

# Seconds between two looks at a job of another process, and between two tellings of one of this process.
LOOK_SECONDS = 0.2
TELL_SECONDS = 0.5
# Least time between two tellings, in seconds: steps in between are left out.
REST_SECONDS = 0.05
# How long a worker waits for Redis to take the outcome of a job before it takes the next one, in seconds.
OUTCOME_SECONDS = 300.0


@dataclass(eq=False)
class _Told:
    """A job of this process, and what the others know of it."""

    entry: _Entry
    version: int = -1
    at: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)


class SharedJobs(JobQueue):
    """A queue whose jobs every process can watch and cancel. Safe to use from many threads and processes.

    Methods may raise StoreAwayError where the job is not one of this process.
    """

    def __init__(
        self,
        workers: int,
        queue_length: int,
        keep_jobs: int,
        keep_seconds: float,
        expected: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
        *,
        store: JobStore,
        where: Where,
        send: Callable[[str], None],
        describe: Callable[[Exception], Mapping[str, Any]],
        settle: Callable[[], None],
    ) -> None:
        """Make an empty queue.

        Args:
            workers, queue_length, keep_jobs, keep_seconds, expected, clock: see `JobQueue`.
            store: where all processes know them.
            where: "process" for here, "celery" for workers, "auto" for workers while one is alive.
            send: tells the workers the id of a job; raises StoreAwayError.
            describe: an error as JSON values.
            settle: writes what a job made to where others find it; raises StoreAwayError.
        """
        super().__init__(workers, queue_length, keep_jobs, keep_seconds, expected, clock)
        self._store = store
        self._where = where
        self._send = send
        self._describe = describe
        self._settle = settle
        self._told: dict[str, _Told] = {}
        self._news = threading.Event()
        self._silent = threading.Event()
        self._teller: threading.Thread | None = None
        self._is_worker = False
        self._handed_over: set[str] = set()

    def submit(self, kind: str, work: Work, owner: str = "", arguments: Mapping[str, Any] | None = None) -> Job:
        """See `JobQueue.submit`; what is taken is known to all processes, where Redis is there."""
        if arguments is not None and self._goes_away():
            return self._send_away(kind, owner, arguments)
        job = super().submit(kind, work, owner)
        with self._changed:
            self._watch(self._entries[job.id])
        try:
            self._store.create(job, arguments or {}, here=True)
        except StoreAwayError:
            log.debug("job %s is known to this process alone for now", job.id)
        return job

    def get(self, job_id: str) -> Job:
        """See `JobQueue.get`."""
        try:
            return super().get(job_id)
        except UnknownJobError:
            shared = self._store.load(job_id)
            if shared is not None:
                return shared.job
            if self._store.was_there(job_id):
                raise UnknownJobError(job_id, forgotten=True) from None
            raise

    def cancel(self, job_id: str) -> Job:
        """See `JobQueue.cancel`."""
        try:
            return super().cancel(job_id)
        except UnknownJobError:
            self.get(job_id)
            self._store.cancel(job_id)
            return self.get(job_id)

    def wait(self, job_id: str, version: int, timeout: float) -> Job:
        """See `JobQueue.wait`."""
        deadline = self._clock() + timeout
        while True:
            if job_id in self._entries:
                return super().wait(job_id, version, max(0.0, deadline - self._clock()))
            job = self.get(job_id)
            left = deadline - self._clock()
            if job.version > version or job.state in FINAL or left <= 0:
                return job
            time.sleep(min(LOOK_SECONDS, left))

    def counts(self) -> dict[str, int]:
        """See `JobQueue.counts`: the jobs of this process, and those that wait for workers or are with them."""
        found = super().counts()
        try:
            elsewhere = self._store.counts()
        except StoreAwayError:
            return found
        return {state: found.get(state, 0) + elsewhere.get(state, 0) for state in {**found, **elsewhere}}

    def close(self, timeout: float = 0.0, reason: Exception | None = None) -> None:
        """See `JobQueue.close`; the others are told how the jobs ended, where Redis takes it at once."""
        super().close(timeout, reason)
        self._silent.set()
        self._news.set()
        if self._teller is not None:
            self._teller.join()
        for told in list(self._told.values()):
            self._tell(told)

    def work_on(self, job_id: str, make_work: Callable[[str, Mapping[str, Any]], Work]) -> None:
        """Work on a job that was sent here, in this thread, until its outcome is known to all.

        Args:
            job_id: of the job; one that has ended, or that somebody works on, is left alone.
            make_work: its work, from its kind and arguments.
        """
        claimed = self._store.claim(job_id)
        if claimed is None:
            return
        job, arguments = claimed.job, claimed.arguments
        entry = _Entry(job, lambda context: make_work(job.kind, arguments)(context))
        with self._changed:
            self._entries[job_id] = entry
        told = self._watch(entry)
        self._run(entry)
        told.over.wait(OUTCOME_SECONDS)

    def be_worker(self) -> None:
        """Show from now on that there is a worker."""
        self._is_worker = True
        log.info("runner %s takes jobs", self._store.runner)

    def hand_over(self) -> None:
        """Stop to work, and give the jobs in hand to other workers."""
        self._is_worker = False
        for job_id, told in list(self._told.items()):
            self._handed_over.add(job_id)
            try:
                self._store.hand_over(job_id)
            except StoreAwayError:
                log.warning("job %s is given to another worker once this one is taken for dead", job_id)
            told.entry.unwanted.set()
            told.over.set()

    def look_after(self) -> None:
        """End the jobs of dead processes or give them to others; to be called every few seconds."""
        if self._is_worker:
            self._store.show_worker()
        for job_id in self._store.look_after():
            log.warning("job %s goes to a worker again", job_id)
            self._send(job_id)

    def _goes_away(self) -> bool:
        if self._where != "auto":
            return self._where == "celery"
        try:
            return self._store.has_worker()
        except StoreAwayError:
            return False

    def _send_away(self, kind: str, owner: str, arguments: Mapping[str, Any]) -> Job:
        if self._closed:
            raise QueueFullError("no more jobs are taken: the server stops")
        job = new_job(kind, owner, self._clock())
        if not self._store.create(job, arguments, here=False, limit=self._queue_length):
            raise QueueFullError(f"{self._queue_length} jobs wait for a worker already: try again later")
        try:
            self._send(job.id)
        except StoreAwayError:
            self._store.cancel(job.id)
            raise
        return job

    def _change(self, entry: _Entry, **changes: Any) -> None:
        super()._change(entry, **changes)
        self._watch(entry)
        self._news.set()

    def _watch(self, entry: _Entry) -> _Told:
        """Tell the others of a job from now on."""
        told = self._told.get(entry.job.id)
        if told is None:
            told = self._told[entry.job.id] = _Told(entry)
        if self._teller is None:
            self._teller = threading.Thread(target=self._tell_all, name="tell-jobs", daemon=True)
            self._teller.start()
        return told

    def _tell_all(self) -> None:
        while not self._silent.is_set():
            self._news.wait(TELL_SECONDS if self._told else None)
            self._news.clear()
            for told in list(self._told.values()):
                self._tell(told)
            self._silent.wait(REST_SECONDS)

    def _tell(self, told: _Told) -> None:
        """Tell the others how a job is, where that is new to them or a while ago."""
        job, now = told.entry.job, time.monotonic()
        if job.id in self._handed_over:
            return
        if job.version == told.version and now - told.at < TELL_SECONDS:
            return
        try:
            if job.state in FINAL:
                self._settle()
            stop = self._store.push(job, {} if job.error is None else self._describe(job.error))
        except StoreAwayError:
            told.at = now
            return
        except Exception:
            log.exception("job %s cannot be told to other processes", job.id)
            stop = None
        told.version, told.at = job.version, now
        if stop is None or job.state in FINAL:
            del self._told[job.id]
            told.over.set()
        if stop is not False:
            told.entry.unwanted.set()
            self._end_waiting(job.id)

    def _end_waiting(self, job_id: str) -> None:
        try:
            super().cancel(job_id)
        except UnknownJobError:
            log.debug("job %s was forgotten before it could be stopped", job_id)
