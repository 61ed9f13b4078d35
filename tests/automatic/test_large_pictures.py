"""Hundreds of masks of a picture of 4000 x 3000 pixels stay within a bound of memory, in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.automatic.large_picture import SIZE

ROOT = Path(__file__).resolve().parents[2]

# Most that a search may take beyond the picture and the loaded model, in bytes a pixel of the picture: the reference
# takes 768 for one batch of points. Between 8 and 15 were taken in a dozen runs: where the allocator finds room for the
# logits of a batch, 79 MB, is chance.
BYTES_PER_PIXEL = 20
# And what is kept of it, in bytes a mask: run lengths, thumbnails and features, no arrays of the picture's size.
KEPT_BYTES_PER_MASK = 16 << 10


@pytest.mark.parametrize("options", [[], ["--tile-size", "1024"]], ids=["whole", "tiles"])
def test_memory_of_hundreds_of_masks_is_bounded(options: list[str]) -> None:
    command = [sys.executable, "-m", "tests.automatic.large_picture", *options]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)
    bound = BYTES_PER_PIXEL * SIZE[0] * SIZE[1]
    print(f"{found['masks']} masks took {found['bytes'] >> 20} MiB at most, of {bound >> 20} MiB that they may")
    assert found["masks"] >= 300
    assert found["bytes"] < bound
    assert found["kept_bytes"] < KEPT_BYTES_PER_MASK * found["masks"]
