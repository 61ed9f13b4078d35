"""What a search of a 4000 x 3000 picture with hundreds of things takes: `python -m tests.automatic.large_picture`.

Prints a line of JSON: masks found, and the memory that this process held at most beyond what it held before the search,
with the model loaded and warm and the picture decoded.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import psutil

from benchmarks.worker import peak_memory
from pytorch_sam_wrapper import load_pytorch_sam
from sam_server.allocator import keep_freed_memory
from sam_server.arrays import ByteArray
from sam_server.automatic.generate import generate
from sam_server.automatic.parameters import AutomaticParameters
from sam_server.masks.measured_set import measure_set

TINY = Path(__file__).resolve().parents[2] / "model" / "tiny" / "sam_tiny.safetensors"
SIZE = (3000, 4000)
PITCH, RADIUS = 125, 45

# Nothing is asked of the masks but that they are not the same.
SEARCH = {
    "points_per_side": 20,
    "pred_iou_thresh": 0.3,
    "stability_score_thresh": 0.3,
    "box_nms_thresh": 0.9,
}


def discs() -> ByteArray:
    """(3000, 4000, 3) uint8 picture of 768 discs in rows."""
    rows, columns = (np.arange(length) % PITCH - PITCH // 2 for length in SIZE)
    on_disc = rows[:, None] ** 2 + columns[None] ** 2 <= RADIUS**2
    return np.where(on_disc[..., None], np.array([200, 180, 60], np.uint8), np.array([70, 80, 90], np.uint8))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tile-size", type=int, help="search tiles of this side, in pixels")
    arguments = parser.parse_args()
    keep_freed_memory()  # as app.py does
    backend = load_pytorch_sam(TINY, precision="fp32", threads=1)
    pixels = discs()
    tiles = {"tile_size": arguments.tile_size, "points_per_side": 6} if arguments.tile_size else {}
    parameters = AutomaticParameters.from_values({**SEARCH, **tiles})
    # What the first computations leave behind, such as packed weights and the arrays of as many points as are decoded
    # together, is no matter of the picture's size.
    generate(backend, pixels[:512, :512], AutomaticParameters.from_values({**SEARCH, "points_per_side": 8}))
    before = psutil.Process().memory_info().rss
    measured = measure_set(generate(backend, pixels, parameters))
    print(json.dumps({"masks": len(measured), "bytes": peak_memory() - before, "kept_bytes": measured.nbytes}))


if __name__ == "__main__":
    main()
