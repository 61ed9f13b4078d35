"""Freed memory is used again without the system's help; a mapped file that was read lets its memory go."""

import mmap
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sam_server.allocator import release_mapped

PAGES = 64 * 2**20 // 4096  # of one array

# Page faults of ten arrays of 64 MB, one after the other, of which each was freed before the next.
CODE = """
import resource
import numpy as np
from sam_server.allocator import keep_freed_memory
print({call})
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(call: str) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(call=call)], check=True, capture_output=True, text=True, timeout=60
    )
    answer, faults = done.stdout.split()
    return answer, int(faults)


def test_no_new_pages():
    answer, faults = run("keep_freed_memory()")
    assert answer == str(platform.libc_ver()[0] == "glibc")
    if answer == "True":
        assert faults < PAGES / 4
        assert run("None")[1] > faults


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights with a space.data"
    path.write_bytes(bytes(range(256)) * (1 << 16))  # 16 MiB
    return path


def in_memory(file: Path) -> int:
    """Bytes of a mapped file that this process holds."""
    return sum(entry.rss for entry in psutil.Process().memory_maps() if entry.path == str(file))


def test_pages_of_a_mapped_file_go_and_come_back(file: Path) -> None:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        whole = bytes(content)
        if sys.platform != "linux":
            assert release_mapped(file) == 0
            return
        assert in_memory(file) == len(whole)
        assert release_mapped(file) == len(whole)
        assert in_memory(file) == 0
        assert bytes(content) == whole


def test_what_was_written_to_a_mapping_stays(file: Path) -> None:
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as content:
        content[:5] = b"other"
        assert release_mapped(file) == 0
        assert content[:5] == b"other"


def test_a_file_that_is_not_mapped_or_not_there(file: Path) -> None:
    assert release_mapped(file) == 0
    assert release_mapped(file.with_name("none")) == 0
