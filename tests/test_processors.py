"""The processors that a control group leaves."""

import os
from pathlib import Path

import pytest

from sam_server.processors import cpu_quota


@pytest.fixture
def many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.usefixtures("many_processors")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "3200000 100000\n"}, 16),
        ({"cpu.max": "max 100000\n", "a/cpu.max": "500000 100000\n", "a/b/cpu.max": "max 100000\n"}, 5),
        ({"a/cpu.max": "600000 100000\n", "a/b/cpu.max": "300000 100000\n", "other/cpu.max": "100000 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    own = tmp_path / "own"
    own.write_text("12:cpu:/elsewhere\n0::/a/b\n")
    root = tmp_path / "cgroup"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    assert cpu_quota(root, own) == expected


def test_this_process() -> None:
    assert 1 <= cpu_quota() <= (os.cpu_count() or 1)
