"""The sessions of several processes in a real Redis, with a model that is nothing but arithmetic."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sam_server.backend import ImageEmbedding
from sam_server.sessions import redis_store
from sam_server.sessions.errors import ForgottenIdError, StoreAwayError, UnknownIdError
from sam_server.sessions.kept import KeptImage
from sam_server.sessions.redis_link import RedisLink
from sam_server.sessions.redis_store import RedisStore
from sam_server.sessions.shared import SharedSessions
from tests.serving import free_port
from tests.shared.nodes import RedisServer

TTL = 600.0
PICTURE = b"a picture"
LOGITS = np.linspace(-8, 8, 64, dtype=np.float32).reshape(8, 8)


class Model:
    """Encodes a picture as noise that its bytes decide on, and counts."""

    def __init__(self, identity: str = "model") -> None:
        self.identity = identity
        self.encoded = 0

    def encode(self, source: bytes) -> KeptImage:
        self.encoded += 1
        seed = int.from_bytes(hashlib.sha256(source + self.identity.encode()).digest()[:4], "big")
        array = np.random.default_rng(seed).standard_normal((2, 4, 4)).astype(np.float32)
        return KeptImage(source, self.from_array(array, (8, 8), (4, 4)), {"scaling": None})

    def to_array(self, embedding):
        return embedding.data

    def from_array(self, array, original_size, input_size):
        return ImageEmbedding(array, original_size, input_size, array.nbytes)


class Process:
    """What one process has: a model, and sessions on a link of its own."""

    def __init__(self, url: str, model: Model | None = None, budget: int = 1 << 20) -> None:
        self.model = model or Model()
        self.link = RedisLink(url, "test:")
        self.sessions = SharedSessions(budget, TTL, RedisStore(self.link, TTL), lambda: self.model)

    def open(self, source: bytes = PICTURE, owner: str = ""):
        return self.sessions.open(source, lambda: self.model.encode(source), owner)


@pytest.fixture
def process(shared_redis: RedisServer) -> Iterator[Callable[..., Process]]:
    shared_redis.client.flushall()
    made = []

    def make(**options) -> Process:
        made.append(Process(shared_redis.url, **options))
        return made[-1]

    yield make
    for process in made:
        process.link.close()


def test_a_picture_is_encoded_by_one_process_and_used_by_all(process):
    a, b = process(), process()
    session, cached = a.open(owner="somebody")
    seen = b.sessions.get(session.id)
    assert (cached, a.model.encoded, b.model.encoded) == (False, 1, 0)
    assert (seen.owner, seen.image.source, seen.image.details) == ("somebody", PICTURE, {"scaling": None})
    np.testing.assert_array_equal(seen.image.embedding.data, session.image.embedding.data)
    again, cached = b.open()
    assert (cached, b.model.encoded) == (True, 0)
    assert again.id != session.id


def test_a_process_with_another_model_encodes_again(process):
    a, b = process(), process(model=Model("another"))
    session, _ = a.open()
    other = b.sessions.get(session.id).image.embedding.data
    assert b.model.encoded == 1
    assert np.abs(other - session.image.embedding.data).max() > 0.1
    np.testing.assert_array_equal(a.sessions.get(session.id).image.embedding.data, session.image.embedding.data)


def test_two_that_encode_at_once_go_on_with_one_embedding(process):
    a, b = process(), process()
    b.model.encode = lambda source: KeptImage(
        source, b.model.from_array(np.full((2, 4, 4), 7, np.float32), (8, 8), (4, 4))
    )
    first = {}

    def encode_late() -> KeptImage:
        first["session"], _ = a.open()  # another process is faster
        return b.model.encode(PICTURE)

    late, _ = b.sessions.open(PICTURE, encode_late)
    np.testing.assert_array_equal(late.image.embedding.data, first["session"].image.embedding.data)


def test_masks_are_counted_together_and_continued_everywhere(process):
    a, b = process(), process()
    session, _ = a.open()
    assert a.sessions.keep_masks(session.id, [LOGITS, -LOGITS]) == ["m1", "m2"]
    assert b.sessions.keep_masks(session.id, [LOGITS * 2]) == ["m3"]
    for mask_id in ("m1", "m2", "m3"):
        np.testing.assert_array_equal(
            a.sessions.mask_logits(session.id, mask_id), b.sessions.mask_logits(session.id, mask_id)
        )
    for wrong in ("m4", "m0", "m01", "3", "m3-00000000", "m" + "9" * 30):
        with pytest.raises(UnknownIdError):
            b.sessions.mask_logits(session.id, wrong)


def test_redis_keeps_the_newest_masks(process, monkeypatch):
    monkeypatch.setattr(redis_store, "MAX_MASKS", 4)
    a, b = process(), process()
    session, _ = a.open()
    for _ in range(3):
        a.sessions.keep_masks(session.id, [LOGITS, LOGITS])
    with pytest.raises(ForgottenIdError):
        b.sessions.mask_logits(session.id, "m2")
    b.sessions.mask_logits(session.id, "m3")
    assert b.sessions.get(session.id).masks == 4


def test_what_memory_had_to_give_up_is_read_again(process):
    a = process(budget=8_000)
    session, _ = a.open()
    for number in range(5):
        a.open(b"picture %d" % number + bytes(1_000))
    assert a.sessions.content(session.id) is None
    assert a.sessions.get(session.id).image.source == PICTURE
    assert a.model.encoded == 6


def test_what_is_deleted_is_deleted_everywhere(process):
    a, b = process(), process()
    session, _ = a.open()
    b.sessions.delete(session.id)
    for one in (a, b):
        with pytest.raises(ForgottenIdError) as error:
            one.sessions.get(session.id)
        assert error.value.reason == "deleted"
    a.sessions.catch_up(everything=True)
    with pytest.raises(ForgottenIdError):
        b.sessions.get(session.id)


def test_what_was_made_without_redis_is_written_when_it_is_back(process, shared_redis):
    a, b = process(), process()
    known, _ = a.open()
    shared_redis.stop()
    try:
        local, _ = a.open(b"another picture")
        marked = a.sessions.keep_masks(local.id, [LOGITS])
        also_marked = a.sessions.keep_masks(known.id, [LOGITS])
        assert a.sessions.get(local.id).id == local.id
        assert a.sessions.shared_stats().behind
        for refuse in (a.sessions.delete, b.sessions.get):
            with pytest.raises(StoreAwayError):
                refuse(known.id)
        with pytest.raises(StoreAwayError):
            a.sessions.catch_up()
    finally:
        shared_redis.start()
    a.link._resting_until = b.link._resting_until = 0.0  # a second has passed
    a.sessions.catch_up()
    assert not a.sessions.shared_stats().behind
    assert b.sessions.get(local.id).image.source == b"another picture"
    np.testing.assert_array_equal(b.sessions.mask_logits(local.id, *marked), a.sessions.mask_logits(local.id, *marked))
    b.sessions.mask_logits(known.id, *also_marked)
    # An id that this process could have given, and did not.
    with pytest.raises(UnknownIdError):
        b.sessions.mask_logits(local.id, marked[0].replace("m1", "m2"))
    assert b.sessions.keep_masks(local.id, [LOGITS]) == ["m1"]


def test_a_redis_that_was_never_there_is_no_obstacle():
    alone = Process(f"redis://127.0.0.1:{free_port()}/0")
    session, _ = alone.open()
    assert alone.sessions.get(session.id).id == session.id
    assert alone.sessions.shared_stats().away
    with pytest.raises(StoreAwayError):
        alone.sessions.get("0" * 32)
    alone.link.close()


def test_installations_do_not_see_each_other(process, shared_redis):
    a = process()
    session, _ = a.open()
    other = RedisLink(shared_redis.url, "other:")
    with pytest.raises(UnknownIdError):
        RedisStore(other, TTL).use(session.id, "model")
    other.close()
    assert all(name.startswith("test:") for name in shared_redis.keys("*"))
    assert all(shared_redis.client.ttl(name) > 0 for name in shared_redis.keys("*"))  # nothing stays for ever
