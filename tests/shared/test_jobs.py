"""Jobs in a real Redis, without servers: who may work on one, and what becomes of it when he dies."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from sam_server.jobs import job_store
from sam_server.jobs.job_store import JobStore
from sam_server.jobs.queue import CancelledJobError, FailedElsewhereError, QueueFullError, UnknownJobError, new_job
from sam_server.jobs.shared import SharedJobs
from sam_server.sessions.errors import StoreAwayError
from sam_server.sessions.redis_link import REST_SECONDS, RedisLink
from tests.serving import free_port
from tests.shared.nodes import RedisServer, wait_until

KEEP = 600.0


class Clock:
    """A clock that moves when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def link(shared_redis: RedisServer) -> Iterator[RedisLink]:
    shared_redis.client.flushall()
    link = RedisLink(shared_redis.url, "test:")
    yield link
    link.close()


@pytest.fixture
def process(link) -> Iterator[Callable[..., SharedJobs]]:
    """Makes the queue of one process; those of a test know each other through Redis alone."""
    made = []

    def make(name: str, where: str = "process", send: Callable[[str], None] = lambda _: None, link=link) -> SharedJobs:
        jobs = SharedJobs(
            1, 1, 10, KEEP, (ValueError,),
            store=JobStore(link, KEEP, name), where=where, send=send,
            describe=lambda error: {"code": "wrong", "detail": str(error)}, settle=lambda: None,
        )  # fmt: skip
        made.append(jobs)
        return jobs

    yield make
    for jobs in made:
        jobs.close(5.0)


def key(job_id: str, kind: str = "job") -> str:
    return f"test:{job_store.LAYOUT}:{kind}:{job_id}"


def silence(shared_redis: RedisServer, job_id: str) -> None:
    """As if its runner had been silent for too long."""
    assert shared_redis.client.delete(key(job_id, "lease")) == 1


def waiting_job(store: JobStore, **fields) -> str:
    job = new_job("search", "somebody", 0.0)
    assert store.create(job, {"a": 1}, here=False, **fields)
    return job.id


def test_every_process_sees_a_job_to_its_end(process):
    a, b = process("a"), process("b")
    go = threading.Event()

    def work(context):
        context.report({"done": 1})
        go.wait(60)
        return {"count": 3}

    job = a.submit("search", work, "somebody")
    wait_until(lambda: b.get(job.id).progress == {"done": 1})
    seen = b.get(job.id)
    assert (seen.kind, seen.state, seen.owner) == ("search", "running", "somebody")
    go.set()
    states = [look.state for look in b.follow(job.id, 60)]
    assert states[-1] == "done"
    assert b.get(job.id).result == {"count": 3}


def test_an_error_is_told_to_every_process(process):
    a, b = process("a"), process("b")

    def work(_):
        raise ValueError("no such thing")

    job = a.submit("search", work)
    wait_until(lambda: b.get(job.id).state == "failed")
    error = b.get(job.id).error
    assert isinstance(error, FailedElsewhereError)
    assert error.document == {"code": "wrong", "detail": "no such thing"}


def test_a_waiting_and_a_running_job_are_cancelled_from_elsewhere(process):
    a, b = process("a"), process("b")
    stopped = threading.Event()

    def work(context):
        wait_until(context.cancelled)
        stopped.set()
        raise CancelledJobError  # as all work does; the one that waits may have begun before it hears of its end

    running, waiting = a.submit("search", work), a.submit("search", work)
    for job in (waiting, running):
        b.cancel(job.id)
    assert stopped.wait(60)
    for job in (running, waiting):
        wait_until(lambda job=job: b.get(job.id).state == "cancelled")


def test_a_job_of_a_dead_process_ends_with_an_error(link, process, shared_redis):
    dead = JobStore(link, KEEP, "dead")
    job = new_job("search", "", 0.0)
    dead.create(job, {}, here=True)
    b = process("b")
    b.look_after()
    assert b.get(job.id).state == "queued"  # he lives
    silence(shared_redis, job.id)
    b.look_after()
    ended = b.get(job.id)
    assert (ended.state, ended.error.document["code"]) == ("failed", "worker_lost")
    assert shared_redis.keys(key("*", "lease")) == []
    assert shared_redis.client.smembers(key("x")[: -len("job:x")] + "jobs") == set()
    assert shared_redis.client.pttl(key(job.id)) <= KEEP * 1000  # and is forgotten in its time


def test_a_job_that_ended_before_it_was_made_known_is_known_whole(link, shared_redis):
    store = JobStore(link, KEEP, "here")
    job = new_job("search", "somebody", 0.0)
    store.push(replace(job, state="done", result={"count": 3}), {})
    store.create(job, {"a": 1}, here=True)
    shared = store.load(job.id)
    assert (shared.job.state, shared.job.result, shared.arguments) == ("done", {"count": 3}, {"a": 1})
    assert shared_redis.client.hget(key(job.id), "where") == b"process"
    assert 0 < shared_redis.client.pttl(key(job.id)) <= KEEP * 1000
    assert shared_redis.keys(key("*", "lease")) == []


def test_a_job_of_a_dead_worker_goes_to_another_three_times(link, process, shared_redis):
    sent: list[str] = []
    server = process("server", send=sent.append)
    job = waiting_job(JobStore(link, KEEP, "server"))
    workers = [JobStore(link, KEEP, f"worker-{number}") for number in range(4)]
    for number, worker in enumerate(workers[:3]):
        claimed = worker.claim(job)
        assert claimed is not None
        assert (claimed.arguments, claimed.job.state, claimed.job.owner) == ({"a": 1}, "running", "somebody")
        assert workers[3].claim(job) is None  # a message that came twice
        server.look_after()
        assert len(sent) == number
        silence(shared_redis, job)
        server.look_after()
        assert server.get(job).state == ("failed" if number == 2 else "queued")
    assert sent == [job, job]
    assert workers[3].claim(job) is None
    # The first one was not dead but asleep: nobody wants to hear from it any more.
    assert workers[0].push(claimed.job, {}) is None
    assert server.get(job).error.document["code"] == "worker_lost"


def test_a_worker_that_stops_gives_its_job_to_another(link, process):
    started = threading.Event()
    worker = process("worker")
    job = waiting_job(JobStore(link, KEEP, "server"))

    def make_work(_, __):
        def work(context):
            started.set()
            wait_until(context.cancelled)
            return {}

        return work

    thread = threading.Thread(target=worker.work_on, args=(job, make_work))
    thread.start()
    assert started.wait(60)
    worker.hand_over()
    thread.join(60)
    assert not thread.is_alive()
    other = JobStore(link, KEEP, "other")
    assert other.look_after() == [job]  # at once
    assert other.claim(job) is not None
    assert other.load(job).job.state == "running"


def test_work_is_told_before_the_worker_takes_more(link, process):
    job = waiting_job(JobStore(link, KEEP, "server"))
    worker, server = process("worker"), process("server")
    worker.work_on(job, lambda kind, arguments: lambda _: {"kind": kind, **arguments})
    assert server.get(job).result == {"kind": "search", "a": 1}
    worker.work_on(job, lambda *_: pytest.fail("it has ended"))


def test_a_message_that_was_lost_is_sent_again(link, shared_redis):
    store = JobStore(link, KEEP, "server")
    store.show_worker()
    job = waiting_job(store)
    assert store.look_after() == []
    shared_redis.client.hset(key(job), "sent", 0)
    assert store.look_after() == [job]
    assert store.look_after() == []


def test_a_job_that_no_worker_takes_ends_with_an_error(link, shared_redis):
    store = JobStore(link, KEEP, "server")
    job = waiting_job(store)
    assert store.look_after() == []
    shared_redis.client.hset(key(job), "created", 0)
    store.show_worker()
    store.look_after()
    assert store.load(job).job.state == "queued"
    shared_redis.client.delete(key("x")[: -len("job:x")] + "runners")
    store.look_after()
    assert store.load(job).job.error.document["code"] == "no_worker"


def test_auto_sends_jobs_away_while_a_worker_lives(link, process):
    sent: list[str] = []
    server = process("server", "auto", sent.append)
    here = server.submit("search", lambda _: 1, arguments={})
    wait_until(lambda: server.get(here.id).state == "done")
    JobStore(link, KEEP, "worker").show_worker()
    away = server.submit("search", lambda _: 2, arguments={})
    assert sent == [away.id]
    assert server.counts() == {"done": 1, "queued": 1, "running": 0}
    with pytest.raises(QueueFullError):
        server.submit("search", lambda _: 3, arguments={})
    server.cancel(away.id)
    assert server.get(away.id).state == "cancelled"
    assert server.counts()["queued"] == 0


def test_a_job_that_could_not_be_sent_is_not_taken(process, shared_redis):
    def send(_: str) -> None:
        raise StoreAwayError("gone")

    server = process("server", "celery", send)
    with pytest.raises(StoreAwayError):
        server.submit("search", lambda _: 2, arguments={})
    (name,) = shared_redis.keys(key("*"))
    assert shared_redis.client.hget(name, "state") == b"cancelled"


def test_a_forgotten_job_is_told_from_one_that_never_was(process, shared_redis):
    a, b = process("a"), process("b")
    job = a.submit("search", lambda _: 1)
    wait_until(lambda: b.get(job.id).state == "done")
    shared_redis.client.delete(key(job.id))
    with pytest.raises(UnknownJobError) as forgotten:
        b.get(job.id)
    with pytest.raises(UnknownJobError) as unknown:
        b.get("0" * 32)
    assert (forgotten.value.forgotten, unknown.value.forgotten) == (True, False)


def test_without_redis_a_process_does_its_own_jobs(process):
    gone = RedisLink(f"redis://127.0.0.1:{free_port()}/0", "test:")
    alone = process("alone", "auto", link=gone)
    job = alone.submit("search", lambda _: {"count": 1}, arguments={})
    wait_until(lambda: alone.get(job.id).state == "done")
    assert alone.counts() == {"done": 1}
    with pytest.raises(StoreAwayError):
        alone.get("0" * 32)
    gone.close()


def test_a_redis_that_failed_is_left_alone_for_a_moment():
    clock = Clock()
    link = RedisLink(f"redis://127.0.0.1:{free_port()}/0", "test:", clock)
    for _ in range(5):
        with pytest.raises(StoreAwayError):
            link.ask(lambda client: client.ping())
    assert link.failures == 1
    assert link.is_away
    clock.now += REST_SECONDS
    with pytest.raises(StoreAwayError) as error:
        link.ask(lambda client: client.ping())
    assert link.failures == 2
    assert error.value.retry_after > 0
    link.close()


def test_a_full_redis_refuses_but_still_answers(link, shared_redis):
    shared_redis.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreAwayError, match="maxmemory"):
            link.ask(lambda client: client.set("test:x", b"x"))
        assert link.ask(lambda client: client.get("test:x")) is None
    finally:
        shared_redis.client.config_set("maxmemory", 0)
    link.ask(lambda client: client.set("test:x", b"x"))
    assert (link.is_away, link.failures) == (False, 1)
