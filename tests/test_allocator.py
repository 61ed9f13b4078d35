"""Freed memory is used again without the system's help."""

import platform
import subprocess
import sys

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
