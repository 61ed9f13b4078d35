"""Two servers on one Redis: what is made on one is used on the other, and what one loses the other still has."""

import io
import signal
import threading
import time

import numpy as np
import pytest
import requests
from PIL import Image

from sam_server.sessions import mask_sets
from sam_server.sessions.packing import pack
from tests.shared.nodes import PATIENCE, Node, RedisServer, wait_until

PREFIX = "sam:1:"
# Two processes load the model first.
pytestmark = pytest.mark.timeout(600)
SEARCH = {"points_per_side": 4, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.1}

ENDLESS = {"points_per_side": 128}


@pytest.fixture(scope="module")
def pair(start_nodes) -> tuple[Node, Node]:
    """Two servers that know each other through Redis alone."""
    first, second = start_nodes(servers=2)
    return first, second


@pytest.fixture
def a(pair) -> Node:
    return pair[0]


@pytest.fixture
def b(pair) -> Node:
    return pair[1]


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Pictures that no other test of the file has sent."""
    files = []
    for seed in range(4):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files


def result_of(mask: dict) -> dict:
    return {name: value for name, value in mask.items() if name != "mask_id"}


def test_a_session_of_one_gives_equal_masks_on_the_other(a, b):
    session = a.open()
    here, there = a.segment(session), b.segment(session)
    assert result_of(here) == result_of(there)
    assert here["area"] > 100
    assert (here["mask_id"], there["mask_id"]) == ("m1", "m4")  # three masks a click, counted together
    assert b.get("/backend_info").json()["shared"]["loads"] >= 1


def test_a_mask_of_one_is_continued_on_the_other(a, b):
    session = a.open()
    first = a.segment(session)
    click = {"points": [[154, 198], [170, 198]], "mask_id": first["mask_id"], "multimask_output": False}
    answers = [
        node.post("/segment", json={"session_id": session, **click}).json()["results"][0]["masks"][0] for node in (a, b)
    ]
    assert result_of(answers[0]) == result_of(answers[1])
    unknown = b.post("/segment", json={"session_id": session, **click, "mask_id": "m99"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_mask")


def test_a_mask_set_of_one_is_grouped_and_exported_on_the_other(a, b):
    session = a.open()
    made = a.post("/generate_masks", json={"session_id": session, **SEARCH}).json()
    assert made["count"] > 0
    path = f"/mask_sets/{made['mask_set_id']}"
    plain = [node.get(path).json() for node in (a, b)]
    assert plain[0]["masks"] == plain[1]["masks"] == made["masks"]
    assert b.get(f"/sessions/{session}").json()["mask_sets"] == [made["mask_set_id"]]
    asked = {"mask_set_id": made["mask_set_id"], "preset": "droplets", "pixel_size": 0.5, "unit": "mm"}
    grouped = b.post("/group_masks", json=asked).json()
    assert grouped == {**a.post("/group_masks", json=asked).json(), "expires_at": grouped["expires_at"]}
    b.post("/group_masks", json={"mask_set_id": made["mask_set_id"], "methods": [{"method": "size", "classes": 1}]})
    tables = [node.get(f"{path}?format=csv").text for node in (a, b)]
    assert tables[0] == tables[1]
    assert a.get(path).json()["grouping"]["groupings"][0]["method"] == "size"


def test_a_job_of_one_is_watched_and_cancelled_on_the_other(a, b):
    session = a.open()
    job = a.start_job(session, **ENDLESS)
    wait_until(lambda: b.job(job)["progress"].get("points_done"))
    with b.get(f"/jobs/{job}/events", stream=True) as events:
        assert next(events.iter_lines()) == b"event: running"
    answer = b.request("DELETE", f"/jobs/{job}")
    assert answer.status_code == 200
    assert [node.ended(job)["state"] for node in (a, b)] == ["cancelled", "cancelled"]


def test_the_outcome_of_a_job_is_told_to_the_other(a, b):
    done = a.start_job(a.open(), **SEARCH)
    ended = b.ended(done)
    assert ended == a.ended(done)
    assert b.get(f"/mask_sets/{ended['result']['mask_set_id']}").json()["count"] == ended["result"]["count"]
    failing = a.open()
    job = a.start_job(failing, **{**SEARCH, "points_per_side": 12})
    b.request("DELETE", f"/sessions/{failing}")
    ended = b.ended(job)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "session_deleted")
    assert b.get("/jobs/nothing").json()["code"] == "unknown_job"


def test_what_was_deleted_or_never_was_is_told_apart_everywhere(a, b, shared_redis: RedisServer):
    session = a.open()
    made = a.post("/generate_masks", json={"session_id": session, **SEARCH}).json()["mask_set_id"]
    assert b.request("DELETE", f"/sessions/{session}").status_code == 204
    for node in (a, b):
        answer = node.get(f"/sessions/{session}")
        assert (answer.status_code, answer.json()["code"]) == (410, "session_deleted")
        answer = node.get(f"/mask_sets/{made}")
        assert (answer.status_code, answer.json()["code"]) == (410, "mask_set_deleted")
        assert node.get(f"/sessions/{'0' * 32}").status_code == 404
        assert node.get(f"/mask_sets/{'0' * 32}").status_code == 404
    assert shared_redis.keys(f"*{session}*") == [f"{PREFIX}seen:{session}"]


def test_what_expired_is_told_from_what_redis_gave_up(a, b, shared_redis: RedisServer):
    expired, evicted = a.open(), a.open()
    client = shared_redis.client
    left = client.pttl(f"{PREFIX}seen:{expired}") - client.pttl(f"{PREFIX}session:{expired}")
    assert left == pytest.approx(86_400_000, abs=1000)
    for name in shared_redis.keys(f"{PREFIX}*{expired}"):  # as if nobody had used it for an hour
        client.pexpire(name, left) if ":seen:" in name else client.delete(name)
    client.delete(f"{PREFIX}session:{evicted}")
    assert b.get(f"/sessions/{expired}").json()["code"] == "session_expired"
    assert b.get(f"/sessions/{evicted}").json()["code"] == "session_evicted"
    # The one that has it in its own memory writes it again.
    assert a.get(f"/sessions/{evicted}").status_code == 200
    assert b.get(f"/sessions/{evicted}").status_code == 200


def test_use_on_one_keeps_it_alive_on_the_other(a, b, shared_redis: RedisServer):
    session = a.open()
    a.segment(session)
    names = [name for name in shared_redis.keys(f"{PREFIX}*{session}") if ":seen:" not in name]
    assert names == [f"{PREFIX}masks:{session}", f"{PREFIX}session:{session}"]
    for name in names:
        shared_redis.client.expire(name, 5)
    b.get(f"/sessions/{session}")
    assert all(shared_redis.client.ttl(name) > 3000 for name in names)


def test_damaged_and_foreign_values_are_not_used(a, b, shared_redis: RedisServer, pictures):
    client = shared_redis.client
    for picture in pictures:
        before = set(shared_redis.keys(f"{PREFIX}embedding:*"))
        session = a.open(picture)
        (embedding,) = set(shared_redis.keys(f"{PREFIX}embedding:*")) - before
        data = client.get(embedding)
        assert data is not None
        foreign = pack("embedding", {"model": "another"}, {"array": np.zeros((4, 4, 4), np.float16)})
        broken = {
            0: data[:-1] + bytes([data[-1] ^ 1]),  # a bit has flipped
            1: foreign,
            2: data[: len(data) // 2],
            3: b"\x80\x04\x95",  # a pickle begins so
        }
        client.set(embedding, broken[pictures.index(picture)])
        assert result_of(b.segment(session, (30, 20))) == result_of(a.segment(session, (30, 20)))
    session = a.open()
    made = a.post("/generate_masks", json={"session_id": session, **SEARCH}).json()
    mask = a.segment(session)["mask_id"]
    kept = client.get(f"{PREFIX}set:{made['mask_set_id']}")
    assert len(mask_sets.read(kept).measured) == made["count"]
    client.set(f"{PREFIX}set:{made['mask_set_id']}", kept[:100])
    client.hset(f"{PREFIX}masks:{session}", mask, b"nothing")
    answer = b.get(f"/mask_sets/{made['mask_set_id']}")
    assert (answer.status_code, answer.json()["code"]) == (410, "mask_set_evicted")
    answer = b.post("/segment", json={"session_id": session, "points": [[5, 5]], "mask_id": mask})
    assert (answer.status_code, answer.json()["code"]) == (410, "mask_evicted")
    assert b.get("/backend_info").json()["shared"]["refused"] >= 6


def test_redis_stops_and_comes_back(a, b, shared_redis: RedisServer):
    known, other = a.open(), b.open()
    mask = result_of(a.segment(known))
    statuses: list[tuple[int, float]] = []
    running = threading.Event()

    def click() -> None:
        while not running.is_set():
            started = time.monotonic()
            answer = a.post("/segment", json={"session_id": known, "points": [[154, 198]]})
            statuses.append((answer.status_code, time.monotonic() - started))
            if answer.ok:
                assert result_of(answer.json()["results"][0]["masks"][0]) == mask

    clicks = threading.Thread(target=click)
    clicks.start()
    wait_until(lambda: len(statuses) > 3)
    shared_redis.stop()
    wait_until(lambda: is_refused(a, other))
    refused = a.get(f"/sessions/{other}")
    assert refused.json()["code"] == "shared_store_away"
    assert int(refused.headers["Retry-After"]) >= 1
    assert a.request("DELETE", f"/sessions/{known}").status_code == 503
    local = a.open()
    local_mask = a.segment(local)
    assert result_of(local_mask) == mask
    assert local_mask["mask_id"].startswith("m1-")
    local_set = a.post("/generate_masks", json={"session_id": local, **SEARCH}).json()["mask_set_id"]
    job = a.start_job(local, **SEARCH)
    assert a.ended(job)["state"] == "done"
    assert a.get("/backend_info").json()["shared"]["away"] is True
    assert a.get("/health").status_code == 200
    assert b.get(f"/sessions/{local}").status_code == 503
    shared_redis.start()
    wait_until(lambda: b.get(f"/sessions/{local}").ok)
    running.set()
    clicks.join()
    assert {status for status, _ in statuses} == {200}
    assert a.get(f"/sessions/{other}").ok
    # All that was made meanwhile is known to the other.
    click_on = {"session_id": local, "points": [[154, 198]], "mask_id": local_mask["mask_id"]}
    wait_until(lambda: b.post("/segment", json=click_on).ok)
    assert wait_until(lambda: b.get(f"/mask_sets/{local_set}")).ok
    assert wait_until(lambda: b.get(f"/jobs/{job}").ok and b.job(job)["state"] == "done")
    wait_until(lambda: a.get("/backend_info").json()["shared"] | {"loads": 0, "refused": 0, "failures": 0}
               == {"away": False, "behind": False, "loads": 0, "refused": 0, "failures": 0})  # fmt: skip


def is_refused(node: Node, session: str) -> bool:
    return node.get(f"/sessions/{session}").status_code == 503


def test_a_redis_that_forgot_everything_learns_it_again(a, b, shared_redis: RedisServer):
    session = a.open()
    mask = a.segment(session)
    shared_redis.client.flushall()
    click = {"session_id": session, "points": [[154, 198]], "mask_id": mask["mask_id"]}
    answer = a.post("/segment", json=click)
    assert result_of(b.post("/segment", json=click).json()["results"][0]["masks"][0]) == result_of(
        answer.json()["results"][0]["masks"][0]
    )


def test_a_redis_that_hangs_costs_little(a, b, shared_redis: RedisServer):
    session, other = a.open(), b.open()
    shared_redis.pause(signal.SIGSTOP)
    try:
        assert [is_refused(a, other) for _ in range(3)] == [True, True, True]
        assert a.post("/segment", json={"session_id": session, "points": [[154, 198]]}).ok
    finally:
        shared_redis.pause(signal.SIGCONT)
    wait_until(lambda: a.get(f"/sessions/{other}").ok)


def test_a_server_that_is_killed_loses_nothing(a, b):
    """The last one of the file: nobody starts the server again."""
    acknowledged: list[tuple[str, dict]] = []

    def work() -> None:
        while True:
            try:
                session = a.open()
                acknowledged.append((session, a.segment(session)))
            except requests.RequestException:
                return

    job = a.start_job(a.open(), **ENDLESS)
    clients = [threading.Thread(target=work) for _ in range(3)]
    for client in clients:
        client.start()
    wait_until(lambda: len(acknowledged) >= 6)
    a.kill()
    for client in clients:
        client.join(PATIENCE)
    masks = {str(result_of(mask)) for _, mask in acknowledged}
    assert len(masks) == 1
    for session, mask in acknowledged:
        assert str(result_of(b.segment(session))) in masks
        click = {"session_id": session, "points": [[154, 198]], "mask_id": mask["mask_id"]}
        assert b.post("/segment", json=click).status_code == 200
    ended = b.ended(job)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "worker_lost")
