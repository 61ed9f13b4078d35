"""Rate limits of a key or an address, in this process and in Redis."""

import logging
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from sam_config import ConfigError, load_config
from sam_server.web.application import make_app
from sam_server.web.limits import RateLimits
from tests.debian import program
from tests.serving import free_port

LIMIT = "3/hour"


@pytest.fixture
def client(make_state):
    return make_app(make_state(api_keys=("ann", "bob"), rate_limit=LIMIT)).test_client()


def statuses(client, count: int, **options) -> list[int]:
    return [client.get("/backend_info", **options).status_code for _ in range(count)]


def test_a_key_has_a_limit_of_its_own(client):
    assert statuses(client, 4, headers={"X-API-Key": "ann"}) == [200, 200, 200, 429]
    assert statuses(client, 3, headers={"X-API-Key": "bob"}) == [200, 200, 200]


def test_the_answer_says_when_to_come_again(client):
    head = {"X-API-Key": "ann"}
    statuses(client, 3, headers=head)
    answer = client.get("/backend_info", headers=head)
    assert (answer.status_code, answer.json["code"]) == (429, "rate_limited")
    assert LIMIT in answer.json["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 3600
    assert answer.headers["X-Request-ID"]


def test_wrong_keys_are_counted_by_address(client):
    head = {"X-API-Key": "wrong"}
    assert statuses(client, 5, headers=head) == [401, 401, 401, 429, 429]
    assert statuses(client, 1, headers=head, environ_overrides={"REMOTE_ADDR": "10.0.0.9"}) == [401]
    assert statuses(client, 1, headers={"X-API-Key": "ann"}) == [200]


def test_without_keys_addresses_are_counted(make_state):
    client = make_app(make_state(rate_limit=LIMIT)).test_client()
    assert statuses(client, 4) == [200, 200, 200, 429]
    assert statuses(client, 1, environ_overrides={"REMOTE_ADDR": "10.0.0.9"}) == [200]


def test_probes_the_page_and_preflights_are_not_counted(client):
    for _ in range(4):
        for path in ("/health", "/ready", "/", "/page/choices.json"):
            with client.get(path) as answer:
                assert answer.status_code == 200
        assert client.get("/metrics", headers={"X-API-Key": "ann"}).status_code == 200
        assert client.options("/segment").status_code == 200
    assert statuses(client, 3, headers={"X-API-Key": "ann"}) == [200, 200, 200]


def test_every_limit_of_several_counts():
    limits = RateLimits("100/hour;2/minute")
    assert [limits.take("ann") is None for _ in range(3)] == [True, True, False]
    assert limits.take("ann") <= 60


def test_no_limit_lets_everything_pass():
    limits = RateLimits("")
    assert not limits
    assert all(limits.take("ann") is None for _ in range(1000))


@pytest.mark.parametrize("text", ["many", "3", "3/fortnight", "-1/second"])
def test_what_is_no_limit_stops_the_start(text):
    with pytest.raises(ConfigError, match=r"SAM_RATE_LIMIT=.* is not valid; options: limits such as"):
        load_config({"SAM_RATE_LIMIT": text}, None)


@pytest.fixture
def redis(tmp_path) -> Iterator[tuple[subprocess.Popen, str]]:
    """A redis-server of the test's own, and its address."""
    port = free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([program("redis-server", "redis-server"), *arguments], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    yield process, f"redis://127.0.0.1:{port}/0"
    process.kill()
    process.wait()


def test_servers_that_share_redis_count_together(make_state, redis):
    clients = [make_app(make_state(rate_limit=LIMIT, redis_url=redis[1])).test_client() for _ in range(2)]
    assert [statuses(clients[number % 2], 1) for number in range(5)] == [[200], [200], [200], [429], [429]]


def test_where_redis_is_away_each_server_counts_for_itself(make_state, redis, caplog):
    process, url = redis
    client = make_app(make_state(rate_limit=LIMIT, redis_url=url)).test_client()
    assert statuses(client, 1) == [200]
    process.kill()
    process.wait()
    with caplog.at_level(logging.WARNING):
        assert statuses(client, 4) == [200, 200, 200, 429]
    assert [record.levelname for record in caplog.records if record.name.endswith("limits")] == ["WARNING"]
