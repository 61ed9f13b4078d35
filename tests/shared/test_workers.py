"""Jobs on Celery workers: the same API, and no job lost with the process that worked on it."""

import pytest

from sam_server.jobs.celery_app import make_celery
from tests.shared.nodes import Node, RedisServer, wait_until

PREFIX = "sam:1:"
# Three processes load the model first, and a killed one is waited for.
pytestmark = pytest.mark.timeout(600)
SHORT = {"points_per_side": 4, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.1}
# Long enough to be met in the middle, and still short enough to be done twice.
LONG = {**SHORT, "points_per_side": 12, "points_per_batch": 4}
ENDLESS = {**SHORT, "points_per_side": 128}


@pytest.fixture(scope="module")
def nodes(start_nodes) -> list[Node]:
    """A server and two workers."""
    nodes: list[Node] = start_nodes(servers=1, workers=2)
    return nodes


@pytest.fixture
def server(nodes) -> Node:
    return nodes[0]


@pytest.fixture
def workers(nodes) -> list[Node]:
    return nodes[1:]


def test_a_worker_does_the_job(server, workers, shared_redis: RedisServer):
    session = server.open()
    job = server.start_job(session, **SHORT)
    assert shared_redis.client.hget(f"{PREFIX}job:{job}", "where") == b"worker"
    ended = server.ended(job)
    assert ended["state"] == "done", ended
    kept = server.get(f"/mask_sets/{ended['result']['mask_set_id']}").json()
    assert kept["count"] == ended["result"]["count"] > 0
    assert sum(worker.says(job) for worker in workers) == 0  # an id opens the job, so that no log has it


def test_the_answer_is_that_of_the_server_itself(server, shared_redis: RedisServer):
    """A client that waits does not see where the work is done."""
    session = server.open()
    away = server.post("/generate_masks", json={"session_id": session, **SHORT}).json()
    runners = shared_redis.client.get(f"{PREFIX}runners")
    assert runners is not None
    grouped = server.post("/group_masks", json={"session_id": session, "generate": {**SHORT, "points_per_side": 3}})
    assert grouped.status_code == 200
    assert grouped.json()["mask_set_id"] != away["mask_set_id"]
    path = f"/mask_sets/{grouped.json()['mask_set_id']}"
    assert server.get(path).json()["grouping"]["groupings"] == grouped.json()["groupings"]


def test_a_worker_is_told_to_stop(server):
    job = server.start_job(server.open(), **ENDLESS)
    wait_until(lambda: server.job(job)["progress"].get("points_done"))
    server.request("DELETE", f"/jobs/{job}")
    assert server.ended(job)["state"] == "cancelled"


def test_an_error_of_a_worker_comes_back(server):
    session = server.open()
    job = server.start_job(session, **LONG)
    wait_until(lambda: server.job(job)["state"] == "running")
    server.request("DELETE", f"/sessions/{session}")
    ended = server.ended(job)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "session_deleted")


@pytest.mark.usefixtures("server")
def test_messages_are_json_and_nothing_else(shared_redis: RedisServer):
    app = make_celery(shared_redis.url, "sam:")
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    for name in shared_redis.keys("*"):
        assert name.startswith("sam:"), name


def test_redis_stops_in_the_middle_of_a_job_and_comes_back(server, shared_redis: RedisServer):
    job = server.start_job(server.open(), **LONG)
    wait_until(lambda: server.job(job)["progress"].get("points_done"))
    shared_redis.stop()
    wait_until(lambda: server.get(f"/jobs/{job}").status_code == 503)
    shared_redis.start()
    wait_until(lambda: server.get(f"/jobs/{job}").ok)
    ended = server.ended(job)
    assert ended["state"] == "done", ended
    assert server.get(f"/mask_sets/{ended['result']['mask_set_id']}").json()["count"] == ended["result"]["count"]
    # The workers have found their way back.
    assert server.ended(server.start_job(server.open(), **SHORT))["state"] == "done"


def test_another_worker_finishes_what_a_killed_one_began(server, workers, shared_redis: RedisServer):
    job = server.start_job(server.open(), **LONG)
    wait_until(lambda: server.job(job)["progress"].get("points_done"))
    runner = shared_redis.client.hget(f"{PREFIX}job:{job}", "runner")
    leases = {shared_redis.client.get(name) for name in shared_redis.keys(f"{PREFIX}lease:*")}
    assert leases == {runner}
    killed = next(worker for worker in workers if worker.says(f"runner {runner.decode()}"))
    killed.kill()
    ended = server.ended(job)
    assert ended["state"] == "done", ended
    assert shared_redis.client.hget(f"{PREFIX}job:{job}", "runner") != runner
    assert server.get(f"/mask_sets/{ended['result']['mask_set_id']}").json()["count"] == ended["result"]["count"]


def test_a_job_whose_workers_all_die_ends_with_an_error(server, workers, shared_redis: RedisServer):
    """The last one of the file: no worker is left."""
    job = server.start_job(server.open(), **ENDLESS)
    wait_until(lambda: server.job(job)["progress"].get("points_done"))
    # As if it had taken two workers with it already.
    shared_redis.client.hset(f"{PREFIX}job:{job}", "attempts", 3)
    for worker in workers:
        worker.kill()
    ended = server.ended(job)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "worker_lost")
    waiting = wait_for_jobs_here(server, shared_redis)
    assert server.ended(waiting)["state"] == "done"


def wait_for_jobs_here(server: Node, shared_redis: RedisServer) -> str:
    """A job that the server works on itself, once it has seen that there is no worker any more."""
    shared_redis.client.delete(f"{PREFIX}runners")
    job = server.start_job(server.open(), **SHORT)
    assert shared_redis.client.hget(f"{PREFIX}job:{job}", "where") == b"process"
    return job
