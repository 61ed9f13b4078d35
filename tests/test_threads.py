"""Libraries compute with as many threads as they are told."""

import os
import subprocess
import sys

import pytest

# In a process of its own, where no environment variable speaks first: the limit holds for all that comes later.
CODE = """
import cv2, numpy, threadpoolctl
from sam_server.threads import limit_threads
limit_threads({count})
pools = {{pool["internal_api"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}}
assert cv2.getNumThreads() == {count}, cv2.getNumThreads()
assert pools["openblas"] == 1, pools
"""


@pytest.mark.parametrize("count", [1, 3])
def test_libraries_follow(count):
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", CODE.format(count=count)], check=True, env=environment, timeout=60)
