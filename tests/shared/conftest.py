"""A real Redis, real servers and real workers, each a process of its own on a free port."""

from collections.abc import Callable, Iterator

import pytest

from tests.debian import program
from tests.serving import free_port
from tests.shared.nodes import BIN, Node, RedisServer, wait_until


@pytest.fixture(scope="session")
def redis_program() -> str:
    """Path of redis-server; Debian's package is installed where it is missing, by one test process for all."""
    return program("redis-server", "redis-server")


@pytest.fixture(scope="module")
def shared_redis(redis_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests of a file."""
    server = RedisServer(redis_program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def start_nodes(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., list[Node]]]:
    """Starts servers and workers on the Redis side by side, and waits until all are ready."""
    started: list[Node] = []

    def start(servers: int = 0, workers: int = 0, **settings: str) -> list[Node]:
        logs = tmp_path_factory.mktemp("logs")
        common = {"SAM_REDIS_URL": shared_redis.url, **settings}
        nodes = []
        for number in range(servers):
            command = [str(BIN / "gunicorn"), "--config", "gunicorn.conf.py", "app:app"]
            nodes.append(Node(command, logs / f"server-{number}", {**common, "SAM_PORT": str(free_port())}))
        for number in range(workers):
            name = f"worker-{len(started) + number}@test"
            command = [str(BIN / "celery"), "-A", "worker", "worker", "--hostname", name, "--loglevel", "info"]
            nodes.append(Node(command, logs / f"worker-{number}", common))
        started.extend(nodes)
        for node in nodes[:servers]:
            wait_until(node.is_ready)
        for node in nodes[servers:]:
            wait_until(lambda node=node: node.says(" ready."))
        return nodes

    yield start
    for node in started:
        node.kill()
