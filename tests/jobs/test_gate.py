"""The gate: never more at once than it has slots, in the order they came, and an honest no."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sam_server.jobs.gate import GateBusyError, InferenceGate


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


def test_turns_come_in_order_for_patient_and_impatient_alike():
    gate = InferenceGate(1, queue_length=10, timeout=10)
    order: list[int] = []

    def work(number: int) -> None:
        with gate.enter(patient=number % 2 == 0):
            order.append(number)

    with ThreadPoolExecutor(8) as pool, gate.enter():
        for number in range(8):
            pool.submit(work, number)
            wait_until(lambda count=number + 1: gate.waiting == count)
    assert order == list(range(8))


def test_a_full_queue_refuses_at_once_except_the_patient():
    gate = InferenceGate(1, queue_length=1, timeout=10)
    done: list[str] = []

    def work(name: str, patient: bool) -> None:
        with gate.enter(patient):
            done.append(name)

    with ThreadPoolExecutor(2) as pool, gate.enter():
        pool.submit(work, "first", False)
        wait_until(lambda: gate.waiting == 1)
        with pytest.raises(GateBusyError, match="too many") as refused, gate.enter():
            pass
        assert refused.value.retry_after > 0
        pool.submit(work, "patient", True)
        wait_until(lambda: gate.waiting == 2)
        assert done == []
    assert done == ["first", "patient"]


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
