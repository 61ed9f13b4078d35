"""The gate: never more at once than it has slots, each client in its turn, and an honest no."""

import contextvars
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from sam_server.jobs.asking import Asker, asking
from sam_server.jobs.gate import ClientGoneError, GateBusyError, InferenceGate


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("slots", [1, 3])
def test_no_more_run_at_once_than_there_are_slots(slots):
    gate = InferenceGate(slots, queue_length=100, timeout=10)
    running = 0
    most = 0
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with gate.enter():
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.003)
            with lock:
                running -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(48)))
    assert most == slots
    assert gate.waiting == 0


class Queue:
    """Threads that wait at a gate whose slot the test holds."""

    def __init__(self, gate: InferenceGate, pool: ThreadPoolExecutor) -> None:
        self.gate = gate
        self.done: list[str] = []
        self._pool = pool

    def add(self, name: str, client: str = "", session: str = "", *, patient: bool = False, **options) -> Future:
        """Let somebody wait, and come back once he stands in the line."""

        def work() -> None:
            with asking(Asker(client, session, **options)), self.gate.enter(patient):
                self.done.append(name)

        before = self.gate.waiting
        future = self._pool.submit(work)
        wait_until(lambda: self.gate.waiting == before + 1)
        return future


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def test_one_client_is_served_in_the_order_it_came(pool):
    queue = Queue(InferenceGate(1, queue_length=10, timeout=10), pool)
    with queue.gate.enter():
        futures = [queue.add(str(number)) for number in range(8)]
    wait(futures)
    assert queue.done == [str(number) for number in range(8)]


def test_a_busy_client_does_not_keep_others_waiting(pool):
    queue = Queue(InferenceGate(1, queue_length=20, timeout=10), pool)
    with queue.gate.enter():
        futures = [queue.add(f"busy{number}", "busy") for number in range(10)]
        futures.append(queue.add("click", "ann"))
    wait(futures)
    assert queue.done.index("click") == 1


def test_clicks_go_before_the_background_which_still_moves(pool):
    queue = Queue(InferenceGate(1, queue_length=20, timeout=10), pool)
    with queue.gate.enter():
        futures = [queue.add(f"b{number}", patient=True) for number in range(2)]
        futures += [queue.add(f"c{number}") for number in range(8)]
    wait(futures)
    assert queue.done == ["c0", "c1", "c2", "b0", "c3", "c4", "c5", "b1", "c6", "c7"]


def test_a_full_queue_refuses_all_but_the_patient(pool):
    queue = Queue(InferenceGate(1, queue_length=1, timeout=10), pool)
    with queue.gate.enter():
        futures = [queue.add("first")]
        with pytest.raises(GateBusyError, match="too many") as refused, queue.gate.enter():
            pass
        assert refused.value.retry_after > 0
        futures.append(queue.add("patient", patient=True))
        assert queue.done == []
    wait(futures)
    assert queue.done == ["first", "patient"]


def test_a_full_queue_makes_room_for_a_client_that_has_less_in_it(pool):
    queue = Queue(InferenceGate(1, queue_length=4, timeout=10), pool)
    with queue.gate.enter():
        busy = [queue.add(f"busy{number}", "busy") for number in range(4)]
        click = pool.submit(lambda: enter(queue, "ann"))
        with pytest.raises(GateBusyError, match="too many"):
            busy[3].result(10)
        wait_until(lambda: queue.gate.waiting == 4)
        with pytest.raises(GateBusyError, match="too many"):
            enter(queue, "busy")
    wait([click, *busy])
    assert queue.done == ["busy0", "ann", "busy1", "busy2"]


def enter(queue: Queue, client: str) -> None:
    with asking(Asker(client)), queue.gate.enter():
        queue.done.append(client)


def test_a_request_whose_deadline_is_over_is_refused_before_the_time_out(pool):
    gate = InferenceGate(1, queue_length=5, timeout=60)
    with asking(Asker(deadline=time.monotonic() + 0.02)):
        with gate.enter():
            late = pool.submit(contextvars.copy_context().run, lambda: gate.enter().__enter__())
            with pytest.raises(GateBusyError, match="deadline") as refused:
                late.result(10)
        # And once it is over, not even a free model is used.
        with pytest.raises(GateBusyError, match="deadline"), gate.enter():
            pass
    assert refused.value.retry_after > 0
    assert (gate.waiting, gate.running) == (0, 0)


def test_a_client_that_left_frees_its_place(pool):
    queue = Queue(InferenceGate(1, queue_length=10, timeout=60), pool)
    gone = threading.Event()
    with queue.gate.enter():
        left = queue.add("left", is_gone=gone.is_set)
        stays = queue.add("stays")
        gone.set()
        with pytest.raises(ClientGoneError):
            left.result(10)
        assert queue.gate.waiting == 1
    stays.result(10)
    assert queue.done == ["stays"]
    with asking(Asker(is_gone=gone.is_set)), pytest.raises(ClientGoneError), queue.gate.enter():
        pass
    assert queue.gate.running == 0


def test_the_gate_tells_what_happens(pool):
    told: list[tuple] = []

    class Told:
        def waited(self, background: bool, seconds: float) -> None:
            told.append(("waited", background, seconds >= 0))

        def refused(self, reason: str) -> None:
            told.append(("refused", reason))

        def encoded(self, pictures: int) -> None:
            told.append(("encoded", pictures))

    gate = InferenceGate(1, queue_length=1, timeout=0.01, observer=Told())
    queue = Queue(gate, pool)
    noted: list[float] = []
    with gate.enter():
        assert (gate.running, gate.longest >= 0) == (1, True)
        waiting = queue.add("waiting", patient=True, waited=noted.append)
        with pytest.raises(GateBusyError), gate.enter():
            pass
    waiting.result(10)
    gate.together(1, lambda items: items, 4)
    assert told == [
        ("waited", False, True),
        ("refused", "timeout"),
        ("waited", True, True),
        ("waited", False, True),
        ("encoded", 1),
    ]
    assert len(noted) == 1
    assert (gate.running, gate.longest) == (0, 0)


class Batches:
    """Doubles numbers, remembers which came together, and fails as it is told."""

    def __init__(self, most: int | None = None, bad: int | None = None) -> None:
        self.seen: list[list[int]] = []
        self._most = most
        self._bad = bad

    def __call__(self, items: list[int]) -> list[int]:
        self.seen.append(list(items))
        if self._most is not None and len(items) > self._most:
            raise MemoryError("too many at once")
        if self._bad in items:
            raise ValueError(f"{self._bad} is bad")
        return [2 * item for item in items]


def gather(pool: ThreadPoolExecutor, compute: Batches, items: list[int], most: int) -> list[Future]:
    """Let items wait together until the gate opens."""
    gate = InferenceGate(1, queue_length=50, timeout=10)
    with gate.enter():
        futures = []
        for number, item in enumerate(items):
            futures.append(pool.submit(gate.together, item, compute, most))
            wait_until(lambda number=number: gate.waiting == number + 1)
    wait(futures)
    assert (gate.waiting, gate.running) == (0, 0)
    return futures


def test_those_who_wait_together_are_computed_together(pool):
    compute = Batches()
    futures = gather(pool, compute, [1, 2, 3, 4, 5, 6], most=4)
    assert [future.result() for future in futures] == [2, 4, 6, 8, 10, 12]
    assert compute.seen == [[1, 2, 3, 4], [5, 6]]


def test_a_batch_that_fails_is_computed_one_by_one(pool):
    compute = Batches(most=1)
    futures = gather(pool, compute, [1, 2, 3], most=4)
    assert [future.result() for future in futures] == [2, 4, 6]
    assert sorted(map(len, compute.seen)) == [1, 1, 1, 3]


@pytest.mark.parametrize("bad", [1, 2])
def test_a_bad_item_of_a_batch_fails_alone(pool, bad):
    futures = gather(pool, Batches(bad=bad), [1, 2, 3], most=4)
    for item, future in zip([1, 2, 3], futures, strict=True):
        if item == bad:
            with pytest.raises(ValueError, match="is bad"):
                future.result()
        else:
            assert future.result() == 2 * item


def test_other_work_is_not_taken_into_a_batch(pool):
    gate = InferenceGate(1, queue_length=50, timeout=10)
    queue, compute = Queue(gate, pool), Batches()
    with gate.enter():
        first = pool.submit(gate.together, 1, compute, 4)
        wait_until(lambda: gate.waiting == 1)
        click = queue.add("click")
        second = pool.submit(gate.together, 2, compute, 4)
        wait_until(lambda: gate.waiting == 3)
    wait([first, click, second])
    assert compute.seen == [[1, 2]]
    assert queue.done == ["click"]


def test_a_wait_that_is_too_long_ends_and_takes_no_slot_with_it():
    gate = InferenceGate(1, queue_length=5, timeout=0.02)
    with gate.enter(), pytest.raises(GateBusyError, match=r"0\.02 seconds"), gate.enter():
        pass
    assert gate.waiting == 0
    with gate.enter():
        pass


def test_an_error_inside_gives_the_slot_back():
    gate = InferenceGate(1, queue_length=0, timeout=1)
    with pytest.raises(ZeroDivisionError), gate.enter():
        raise ZeroDivisionError
    with gate.enter():
        pass
