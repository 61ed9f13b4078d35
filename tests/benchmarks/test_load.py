"""The load test and the soak, a few seconds long: they count what happens, and find an answer that is wrong."""

import itertools
import json
import mmap
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image

from benchmarks import load, soak
from benchmarks.load_clients import CLICK, MIX, PICTURE, SEARCH, Client, Heard, Load, Task, make_pictures, prepare

CLIENTS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[load.Target]:
    """A server as the load test starts it."""
    with load.target(None, {"SAM_INTRA_OP_THREADS": "1"}) as found:
        yield found


def test_load(server: load.Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "load.json"
    arguments = [f"--clients={CLIENTS}", "--seconds=4", f"--url={server.url}", f"--output={output}"]
    assert load.main(arguments) == 0, capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found["wrong"] == 0
    assert found["requests"] >= CLIENTS
    assert found["requests"] == sum(sum(row["statuses"].values()) for row in found["kinds"].values())
    assert set().union(*(row["statuses"] for row in found["kinds"].values())) <= {"200", "503"}
    printed = capsys.readouterr().out
    assert re.search(r"^click +\d+ x 200", printed, re.M)
    assert "p99" in printed


def test_wrong_answers_are_found(server: load.Target) -> None:
    prepared = prepare(server.url, 1)
    tasks = [replace(task, expected={**task.expected, "width": 1}) for task in prepared.tasks if task.kind == CLICK]
    client = Client(server.url, prepared.sessions)
    heard = [client.run(tasks[0]), client.run(replace(tasks[0], picture=next(iter(prepared.sessions)), expected=None))]
    assert [item.wrong for item in heard] == ["another answer than alone"] * 2
    right = client.run(prepared.tasks[0])
    assert (right.status, right.wrong) == (200, None)
    found = load.summary([*heard, right], 1.0)
    assert found["wrong"] == 2
    assert found["faults"] == {"click: another answer than alone": 2}


def test_an_evicted_session_and_a_dead_server_are_wrong(server: load.Target) -> None:
    prepared = prepare(server.url, 1)
    for session in prepared.sessions.values():
        requests.delete(f"{server.url}/sessions/{session}", timeout=60).raise_for_status()
    gone = Client(server.url, prepared.sessions).run(prepared.tasks[0])
    assert (gone.status, str(gone.wrong)[:3]) == (410, "410")
    dead = Client("http://127.0.0.1:9", prepared.sessions).run(prepared.tasks[0])
    assert (dead.status, dead.wrong) == (0, "ConnectionError")


def test_summary_of_known_answers() -> None:
    heard = [Heard(CLICK, 200, second / 1000) for second in range(1, 101)]
    heard += [Heard(CLICK, 503, 0.001), Heard(SEARCH, 503, 0.001, "503 without Retry-After")]
    found = load.summary(heard, 2.0)
    assert found["kinds"][CLICK] == {"statuses": {"200": 100, "503": 1}, "p50_ms": 50.5, "p95_ms": 95.0, "p99_ms": 99.0}
    assert found["kinds"][PICTURE] == {"statuses": {}}
    assert (found["requests"], found["per_second"], found["wrong"]) == (102, 51.0, 1)
    assert "100 x 200, 1 x 503" in load.show(found)


def test_pictures_are_all_different() -> None:
    assert len(set(make_pictures(80))) == 80


def test_every_kind_is_drawn() -> None:
    drawn = Load("", [Task(kind, b"", (1, 1)) for kind in MIX], {}).draw(random.Random(0), 0)
    assert {task.kind for task in itertools.islice(drawn, 300)} == set(MIX)


def test_memory_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SAMPLE_SECONDS", 0.0)
    memory = soak.Memory(load.Target("", psutil.Process()))
    kept = []
    for _ in range(40):
        memory.sample()
        # Straight from the system: memory that this process freed before would serve an array.
        kept.append(mmap.mmap(-1, 4 << 20))
        kept[-1].write(b"x" * len(kept[-1]))
    trend = memory.trend()
    assert trend["start"] < trend["end"] <= trend["most"]
    assert trend["mb_per_hour"] > 0
    memory.draw(tmp_path / "memory.png", "growing")
    with Image.open(tmp_path / "memory.png") as picture:
        assert picture.width > 500
