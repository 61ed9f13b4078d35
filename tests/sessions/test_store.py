"""Sessions: one encode a picture, a budget that holds, and ids that tell unknown from forgotten."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_server.backend import ImageEmbedding
from sam_server.sessions.errors import ForgottenIdError, OverBudgetError, SessionError, UnknownIdError
from sam_server.sessions.kept import KeptImage
from sam_server.sessions.store import FORGOTTEN_IDS, LOGITS_SHARE, SESSION_BYTES, SessionStore

EMBEDDING_BYTES = 40_000
LOGITS = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Encoder:
    """Makes an embedding of the picture's bytes and counts how often it was asked."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.nbytes = EMBEDDING_BYTES

    def of(self, source: bytes):
        def encode() -> KeptImage:
            self.calls.append(source)
            return KeptImage(source, ImageEmbedding(source[::-1], (4, 6), (2, 3), self.nbytes))

        return encode


@dataclass(frozen=True)
class Blob:
    nbytes: int


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def store(clock) -> SessionStore:
    return SessionStore(budget_bytes=1_000_000, ttl_seconds=60, clock=clock)


def code_of(error: pytest.ExceptionInfo[SessionError]) -> str:
    return error.value.code


def test_equal_pictures_are_encoded_once_and_get_sessions_of_their_own(store, encoder):
    first, was_cached = store.open(b"picture", encoder.of(b"picture"))
    second, is_cached = store.open(b"picture", encoder.of(b"picture"))
    assert (was_cached, is_cached) == (False, True)
    assert first.id != second.id
    assert first.image.embedding is second.image.embedding
    assert encoder.calls == [b"picture"]
    stats = store.stats()
    assert (stats.hits, stats.misses, stats.sessions, stats.images) == (1, 1, 2, 1)
    assert stats.bytes == EMBEDDING_BYTES + len(b"picture") + 2 * SESSION_BYTES


def test_a_shared_picture_is_freed_with_its_last_session(store, encoder):
    first, _ = store.open(b"picture", encoder.of(b"picture"))
    second, _ = store.open(b"picture", encoder.of(b"picture"))
    store.delete(first.id)
    assert store.get(second.id).image.embedding.data == b"erutcip"
    assert store.stats().images == 1
    store.delete(second.id)
    assert (store.stats().images, store.stats().sessions, store.stats().bytes) == (0, 0, 0)


def test_ids_are_long_and_never_repeat(store, encoder):
    ids = {store.open(b"picture", encoder.of(b"picture"))[0].id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)


def test_unknown_and_forgotten_ids_are_told_apart(store, encoder, clock):
    with pytest.raises(UnknownIdError) as unknown:
        store.get("0" * 32)
    assert code_of(unknown) == "unknown_session"

    expired, _ = store.open(b"a", encoder.of(b"a"))
    clock.now += 60
    with pytest.raises(ForgottenIdError) as gone:
        store.get(expired.id)
    assert code_of(gone) == "session_expired"

    deleted, _ = store.open(b"b", encoder.of(b"b"))
    store.delete(deleted.id)
    for act in (store.get, store.delete):
        with pytest.raises(ForgottenIdError) as gone:
            act(deleted.id)
        assert code_of(gone) == "session_deleted"


def test_use_renews_the_time_to_live(store, encoder, clock):
    used, _ = store.open(b"a", encoder.of(b"a"))
    idle, _ = store.open(b"b", encoder.of(b"b"))
    assert used.expires_in == 60
    clock.now += 40
    assert store.get(used.id).expires_in == 60
    clock.now += 40
    assert store.get(used.id).id == used.id
    with pytest.raises(ForgottenIdError):
        store.get(idle.id)
    assert store.stats().expirations == 1
    assert store.stats().evictions == 0


def test_the_least_recently_used_session_is_evicted(encoder, clock):
    store = SessionStore(budget_bytes=3 * (EMBEDDING_BYTES + SESSION_BYTES + 1), ttl_seconds=60, clock=clock)
    sessions = [store.open(name, encoder.of(name))[0] for name in (b"a", b"b", b"c")]
    store.get(sessions[0].id)
    store.open(b"d", encoder.of(b"d"))
    assert store.get(sessions[0].id)
    assert store.get(sessions[2].id)
    with pytest.raises(ForgottenIdError) as gone:
        store.get(sessions[1].id)
    assert code_of(gone) == "session_evicted"
    assert store.stats().evictions == 1
    assert store.stats().bytes <= store.stats().budget_bytes


def test_a_picture_larger_than_the_budget_is_refused_and_the_others_stay(encoder, clock):
    store = SessionStore(budget_bytes=100_000, ttl_seconds=60, clock=clock)
    small, _ = store.open(b"small", encoder.of(b"small"))
    encoder.nbytes = 100_000
    with pytest.raises(OverBudgetError, match="100,000"):
        store.open(b"large", encoder.of(b"large"))
    assert store.get(small.id)
    assert store.stats().images == 1


def test_threads_on_one_new_picture_share_one_encode(store, encoder):
    gate = threading.Barrier(32)
    release = threading.Event()

    def slow() -> KeptImage:
        assert release.wait(10)
        return encoder.of(b"picture")()

    def ask(_: int):
        gate.wait()
        return store.open(b"picture", slow)

    with ThreadPoolExecutor(32) as pool:
        answers = [pool.submit(ask, number) for number in range(32)]
        while store.stats().hits < 31:
            threading.Event().wait(0.005)
        release.set()
        opened = [answer.result() for answer in answers]
    assert len(encoder.calls) == 1
    assert len({session.id for session, _ in opened}) == 32
    assert len({id(session.image) for session, _ in opened}) == 1
    assert sorted(cached for _, cached in opened) == [False] + [True] * 31
    assert (store.stats().misses, store.stats().images) == (1, 1)


def test_a_failed_encode_fails_all_who_wait_and_the_next_one_tries_again(store, encoder):
    release = threading.Event()

    def fail() -> KeptImage:
        assert release.wait(10)
        raise ValueError("no such picture")

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(store.open, b"picture", fail) for _ in range(8)]
        while store.stats().hits < 7:
            threading.Event().wait(0.005)
        release.set()
        for answer in answers:
            with pytest.raises(ValueError, match="no such picture"):
                answer.result()
    assert store.stats().sessions == 0
    assert store.open(b"picture", encoder.of(b"picture"))[1] is False
    assert encoder.calls == [b"picture"]


def test_logits_come_back_exactly_and_belong_to_their_session(store, encoder):
    one, _ = store.open(b"a", encoder.of(b"a"))
    other, _ = store.open(b"a", encoder.of(b"a"))
    stack = np.stack([LOGITS / 3, LOGITS * 7])
    ids = store.keep_masks(one.id, list(stack))
    assert ids == ["m1", "m2"]
    np.testing.assert_array_equal(store.mask_logits(one.id, "m2"), stack[1])
    assert store.mask_logits(one.id, "m1").base is None
    assert store.get(one.id).masks == 2
    for name in ("m1", "m3", "m0", "m", "", "1", "m01", "m٣", "m" + "9" * 40):
        with pytest.raises(UnknownIdError) as unknown:
            store.mask_logits(other.id, name)
        assert code_of(unknown) == "unknown_mask"


def test_the_oldest_masks_of_a_session_go_first(encoder, clock):
    store = SessionStore(budget_bytes=400_000, ttl_seconds=60, clock=clock)
    session, _ = store.open(b"a", encoder.of(b"a"))
    room = int(400_000 * LOGITS_SHARE) // LOGITS.nbytes
    for _ in range(room):
        store.keep_masks(session.id, [LOGITS])
    store.mask_logits(session.id, "m1")
    store.keep_masks(session.id, [LOGITS])
    assert store.mask_logits(session.id, "m1") is not None
    with pytest.raises(ForgottenIdError) as gone:
        store.mask_logits(session.id, "m2")
    assert code_of(gone) == "mask_evicted"
    assert store.get(session.id).masks == room


def test_sessions_that_are_clicked_in_side_by_side_do_not_push_out_each_other(encoder, clock):
    sessions_bytes = 6 * (EMBEDDING_BYTES + SESSION_BYTES + 1)
    store = SessionStore(budget_bytes=2 * sessions_bytes, ttl_seconds=60, clock=clock)
    sessions = [store.open(name, encoder.of(name))[0] for name in (b"a", b"b", b"c", b"d", b"e", b"f")]
    rounds = 3 * store.stats().budget_bytes // (len(sessions) * LOGITS.nbytes)
    for _ in range(rounds):
        for session in sessions:
            (newest,) = store.keep_masks(session.id, [LOGITS])
            assert store.mask_logits(session.id, newest) is not None
            assert store.stats().bytes <= store.stats().budget_bytes
    assert store.stats().evictions == 0
    assert all(store.get(session.id).masks > 1 for session in sessions)
    store.open(b"g", encoder.of(b"g"))
    store.keep_mask_set(sessions[0].id, Blob(sessions_bytes))
    assert store.stats().evictions > 0, "where masks are within their share, sessions make room"


def test_masks_of_a_session_that_was_just_forgotten_are_not_kept(store, encoder):
    session, _ = store.open(b"a", encoder.of(b"a"))
    store.delete(session.id)
    assert store.keep_masks(session.id, [LOGITS]) == ["m1"]
    assert store.stats().bytes == 0


def test_mask_sets_live_and_die_with_their_session(store, encoder):
    session, _ = store.open(b"a", encoder.of(b"a"))
    blob = Blob(5_000)
    set_id = store.keep_mask_set(session.id, blob)
    owner, kept = store.mask_set(set_id)
    assert kept is blob
    assert (owner.id, owner.mask_sets) == (session.id, (set_id,))
    with pytest.raises(UnknownIdError) as unknown:
        store.mask_set("f" * 32)
    assert code_of(unknown) == "unknown_mask_set"
    with pytest.raises(OverBudgetError):
        store.keep_mask_set(session.id, Blob(1_000_000))
    assert store.mask_set(set_id)[1] is blob
    store.delete(session.id)
    with pytest.raises(ForgottenIdError) as gone:
        store.mask_set(set_id)
    assert code_of(gone) == "mask_set_deleted"
    assert store.stats().bytes == 0


def test_the_memory_of_forgotten_ids_is_bounded(encoder, clock):
    store = SessionStore(budget_bytes=10_000_000, ttl_seconds=60, clock=clock)
    first, _ = store.open(b"a", encoder.of(b"a"))
    store.delete(first.id)
    for _ in range(FORGOTTEN_IDS):
        store.delete(store.open(b"a", encoder.of(b"a"))[0].id)
    with pytest.raises(UnknownIdError):
        store.get(first.id)


STEPS = st.lists(
    st.tuples(st.sampled_from(["open", "get", "delete", "masks", "set", "wait"]), st.integers(0, 7)), max_size=60
)


@given(STEPS)
def test_whatever_happens_the_bytes_add_up_and_stay_in_the_budget(steps):
    clock, encoder = Clock(), Encoder()
    store = SessionStore(budget_bytes=200_000, ttl_seconds=60, clock=clock)
    ids: list[str] = []
    for step, number in steps:
        session = ids[number % len(ids)] if ids else "none"
        try:
            if step == "open":
                source = bytes([number])
                ids.append(store.open(source, encoder.of(source))[0].id)
            elif step == "get":
                store.get(session)
            elif step == "delete":
                store.delete(session)
            elif step == "masks":
                store.keep_masks(session, [LOGITS] * number)
            elif step == "set":
                store.keep_mask_set(session, Blob(20_000 * number))
            else:
                clock.now += 10 * number
        except SessionError:
            pass
        assert 0 <= store.stats().bytes <= 200_000
    clock.now += 60
    assert (store.stats().bytes, store.stats().sessions, store.stats().images) == (0, 0, 0)
