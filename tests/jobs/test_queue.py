"""Jobs: in order, bounded, with progress, stopped when nobody wants them, forgotten in the end."""

import threading
import time
from collections.abc import Iterator

import pytest

from sam_server.jobs.queue import CancelledJobError, JobContext, JobQueue, QueueFullError, UnknownJobError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock) -> Iterator[JobQueue]:
    queue = JobQueue(workers=1, queue_length=2, keep_jobs=3, keep_seconds=60, clock=clock)
    yield queue
    queue.close()


class Work:
    """Runs until it is let go or cancelled."""

    def __init__(self, result: object = "result") -> None:
        self.result = result
        self.started = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, context: JobContext) -> object:
        self.started.set()
        while not self.go_on.wait(0.001):
            if context.cancelled():
                raise CancelledJobError
        return self.result


def end_of(queue: JobQueue, job_id: str):
    deadline = time.monotonic() + 10
    job = queue.get(job_id)
    while job.ended is None:
        assert time.monotonic() < deadline
        job = queue.wait(job_id, job.version, 1)
    return job


def test_a_job_runs_and_gives_its_result(queue):
    work = Work({"masks": 3})
    job = queue.submit("count", work)
    assert (job.kind, job.state, job.result) == ("count", "queued", None)
    assert work.started.wait(10)
    assert queue.get(job.id).state == "running"
    work.go_on.set()
    done = end_of(queue, job.id)
    assert (done.state, done.result, done.error) == ("done", {"masks": 3}, None)


def test_every_step_of_progress_can_be_followed(queue):
    steps = threading.Semaphore(0)

    def work(context: JobContext) -> str:
        for points in range(3):
            assert steps.acquire(timeout=10)
            context.report({"points": points})
        assert steps.acquire(timeout=10)
        return "end"

    job = queue.submit("count", work)
    seen = []
    for look in queue.follow(job.id, heartbeat=10):
        seen.append((look.state, dict(look.progress)))
        if look.state == "running":
            steps.release()
    assert seen[-4:] == [
        ("running", {"points": 0}),
        ("running", {"points": 1}),
        ("running", {"points": 2}),
        ("done", {"points": 2}),
    ]


def test_a_quiet_job_is_told_of_again_and_again(queue):
    work = Work()
    job = queue.submit("count", work)
    assert work.started.wait(10)
    looks = queue.follow(job.id, heartbeat=0.01)
    versions = [next(looks).version for _ in range(3)]
    assert versions[0] == versions[1] == versions[2]
    work.go_on.set()
    assert list(looks)[-1].state == "done"


def test_jobs_run_in_order_and_the_queue_is_bounded(queue):
    works = [Work(number) for number in range(3)]
    jobs = []
    for work in works:
        jobs.append(queue.submit("count", work))
        assert works[0].started.wait(10)
    with pytest.raises(QueueFullError, match="2 jobs wait"):
        queue.submit("count", Work())
    assert queue.counts() == {"running": 1, "queued": 2}
    for job, work in zip(jobs, works, strict=True):
        assert [queue.get(other.id).state for other in jobs].count("running") <= 1
        work.go_on.set()
        assert end_of(queue, job.id).result == work.result
    assert [end_of(queue, job.id).ended for job in jobs] == [0.0, 0.0, 0.0]


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(queue):
    first, second = Work(), Work()
    running = queue.submit("count", first)
    assert first.started.wait(10)
    waiting = queue.submit("count", second)
    assert queue.cancel(waiting.id).state == "cancelled"
    first.go_on.set()
    assert end_of(queue, running.id).state == "done"
    third = Work()
    third.go_on.set()
    end_of(queue, queue.submit("count", third).id)
    assert not second.started.is_set()


def test_a_running_job_stops_when_it_is_cancelled(queue):
    work = Work()
    job = queue.submit("count", work)
    assert work.started.wait(10)
    queue.cancel(job.id)
    assert end_of(queue, job.id).state == "cancelled"
    assert queue.cancel(job.id).state == "cancelled"


def test_a_failure_is_kept_and_the_worker_lives_on(caplog):
    queue = JobQueue(workers=1, queue_length=2, keep_jobs=3, keep_seconds=60, expected=(LookupError,))

    def fail(_: JobContext) -> None:
        raise ZeroDivisionError("by zero")

    def refuse(_: JobContext) -> None:
        raise LookupError("the session is gone")

    failed = end_of(queue, queue.submit("count", fail).id)
    assert (failed.state, str(failed.error)) == ("failed", "by zero")
    assert "by zero" in caplog.text
    refused = end_of(queue, queue.submit("count", refuse).id)
    assert isinstance(refused.error, LookupError)
    assert "the session is gone" not in caplog.text
    work = Work()
    work.go_on.set()
    assert end_of(queue, queue.submit("count", work).id).state == "done"


def test_ended_jobs_are_forgotten_by_age_and_by_number(queue, clock):
    jobs = []
    for _ in range(4):
        work = Work()
        work.go_on.set()
        jobs.append(end_of(queue, queue.submit("count", work).id))
    with pytest.raises(UnknownJobError) as gone:
        queue.get(jobs[0].id)
    assert gone.value.forgotten
    assert queue.get(jobs[3].id).state == "done"
    clock.now += 60
    for job in jobs:
        with pytest.raises(UnknownJobError):
            queue.get(job.id)
    with pytest.raises(UnknownJobError) as unknown:
        queue.cancel("0" * 32)
    assert not unknown.value.forgotten


def test_two_workers_run_two_jobs_at_once():
    queue = JobQueue(workers=2, queue_length=1, keep_jobs=10, keep_seconds=60)
    works = [Work(), Work(), Work()]
    jobs = [queue.submit("count", work) for work in works[:2]]
    assert all(work.started.wait(10) for work in works[:2])
    jobs.append(queue.submit("count", works[2]))
    assert not works[2].started.wait(0.05)
    for work in works:
        work.go_on.set()
    assert {end_of(queue, job.id).state for job in jobs} == {"done"}


def test_closing_stops_every_job_and_every_thread():
    queue = JobQueue(workers=1, queue_length=2, keep_jobs=10, keep_seconds=60)
    works = [Work(), Work()]
    jobs = [queue.submit("count", work) for work in works]
    assert works[0].started.wait(10)
    threads = list(queue._threads)
    assert len(threads) == 1
    queue.close()
    assert [end_of(queue, job.id).state for job in jobs] == ["cancelled", "cancelled"]
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert not works[1].started.is_set()


def test_jobs_that_a_closing_queue_ends_say_why(queue):
    running, waiting = Work(), Work()
    first = queue.submit("count", running, owner="ann")
    assert running.started.wait(10)
    second = queue.submit("count", waiting)
    reason = OSError("the server stops")
    queue.close(10, reason)
    for job in (queue.get(first.id), queue.get(second.id)):
        assert (job.state, job.error) == ("cancelled", reason)
    with pytest.raises(QueueFullError, match="stops"):
        queue.submit("count", Work())


def test_a_job_knows_who_started_it(queue):
    assert queue.submit("count", lambda _: None, owner="ann").owner == "ann"
    assert queue.submit("count", lambda _: None).owner == ""
