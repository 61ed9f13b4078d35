"""Count and size drawn droplets with a model, and print how far it is off: `python -m training.droplet_count`.

With `--url` the pictures go to a server that runs, and what its groups say is measured.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import cv2
import requests
from tqdm import tqdm

from sam_server.arrays import ByteArray
from sam_server.automatic.generate import generate
from sam_server.automatic.parameters import AutomaticParameters
from sam_server.backend import SamBackend
from sam_server.grouping.group import group_masks
from sam_server.grouping.presets import preset
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set
from training.droplet_protocol import Counted, compare, shown_by_server, shown_in, total
from training.droplet_scene import Disc, magnify, paint_droplets, place_droplets
from training.model_arguments import add_model_arguments, load_model
from training.protocol_automatic import AUTOMATIC_IOU

# What is asked for beside the preset. The model is unsure of satellites.
SEARCH: dict[str, Any] = {"pred_iou_thresh": 0.35, "stability_score_thresh": 0.85}
# By magnification: small droplets are 16 pixels across, or 32. Half of their size and more would be lost if a larger
# part of the picture went through a small model at once. Points lie nearer to each other than a small droplet is wide,
# and tiles overlap by more than a large one.
TILES = {
    1: {"tile_size": 512, "tile_overlap": 96, "points_per_side": 48},
    2: {"tile_size": 640, "tile_overlap": 160, "points_per_side": 30},
}
# All droplets of the scene are round: what is long is a highlight, or the gap between two. Circularity cannot tell:
# a satellite on the rim takes a bite out of its droplet, which makes the outline longer, but the droplet no less round.
FILTERS: dict[str, Any] = {"max_eccentricity": 0.75}
SIZE = (1500, 2000)
# Seconds between looks at a server's job.
POLL = 1.0


def draw(seed: int, magnification: int) -> tuple[list[Disc], ByteArray]:
    """A scene with `magnification` times SIZE: its droplets, and (H, W, 3) uint8 RGB."""
    discs = magnify(place_droplets(seed, SIZE), magnification)
    return discs, paint_droplets(discs, seed, (SIZE[0] * magnification, SIZE[1] * magnification))


def find_droplets(backend: SamBackend, picture: ByteArray, magnification: int = 1) -> MaskSet:
    """Every mask of a picture, searched as closely as the droplets of that magnification ask for.

    Args:
        backend: searches.
        picture: (H, W, 3) uint8 RGB.
        magnification: a key of TILES, with which the picture was drawn.
    """
    values = {**preset("droplets").search, **SEARCH, **TILES[magnification]}
    return generate(backend, picture, AutomaticParameters.from_values(values, model_type=backend.spec.model_type))


def count_droplets(backend: SamBackend, discs: list[Disc], picture: ByteArray, magnification: int = 1) -> Counted:
    """Find droplets in a picture with the preset, and compare.

    Args:
        backend: searches.
        discs: the truth.
        picture: (H, W, 3) uint8 RGB.
        magnification: a key of TILES, with which the picture was drawn.
    """
    droplets = preset("droplets")
    masks = find_droplets(backend, picture, magnification)
    result = group_masks(measure_set(masks), droplets.methods, replace(droplets.filters, **FILTERS))
    return compare(discs, shown_in(masks, result))


def count_through_server(url: str, discs: list[Disc], picture: ByteArray, magnification: int = 1) -> Counted:
    """The same, asked of a server: a picture becomes a session, a search a job, and its mask set is grouped.

    Args:
        url: of the server, such as http://localhost:5000.
        discs, picture, magnification: see `count_droplets`.

    Raises:
        requests.RequestException: the server cannot be reached, or refuses.
        RuntimeError: it failed to search.
    """
    _, file = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    sent = requests.post(f"{url}/sessions", data=file.tobytes(), headers={"Content-Type": "image/png"}, timeout=120)
    session = _json(sent)["session_id"]
    asked: dict[str, Any] = {"preset": "droplets", "filters": FILTERS}
    fields = {**asked, "session_id": session, "generate": {**SEARCH, **TILES[magnification]}}
    later = {"Prefer": "respond-async"}
    job = _json(requests.post(f"{url}/group_masks", json=fields, headers=later, timeout=60))
    while job["state"] in ("queued", "running"):
        time.sleep(POLL)
        job = _json(requests.get(f"{url}/jobs/{job['job_id']}", timeout=60))
    if job["state"] != "done":
        raise RuntimeError(f"the server's search ended as {job['state']}: {job['error']}")
    fields = {**asked, "mask_set_id": job["result"]["mask_set_id"], "include_measures": True}
    groups = _json(requests.post(f"{url}/group_masks", json=fields, timeout=60))
    mask_set = _json(requests.get(f"{url}/mask_sets/{groups['mask_set_id']}", timeout=60))
    requests.delete(f"{url}/sessions/{session}", timeout=60)
    return compare(discs, shown_by_server(groups, mask_set))


def _json(response: requests.Response) -> dict[str, Any]:
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def print_row(name: str, counted: Counted) -> None:
    """One row of the table."""
    sizes = zip(counted.diameters, counted.true_diameters, strict=True)
    cells = [
        name,
        f"{counted.count} of {counted.true_count} ({counted.count / counted.true_count - 1:+.1%})",
        f"{counted.matched / counted.true_count:.1%}",
        f"{counted.matched / max(counted.count, 1):.1%}",
        *(f"{found:.1f} of {true:.1f} ({found / true - 1:+.1%})" for found, true in sizes),
        f"{counted.satellites:.1%}",
        f"{counted.outlined.recall:.3f}, {counted.outlined.precision:.3f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--url", help="of a server, which then counts with its model in place of the one above")
    parser.add_argument("--seeds", type=int, default=3, help="how many scenes")
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument(
        "--magnification", type=int, choices=sorted(TILES), default=1, help="2 draws the scenes twice as large"
    )
    arguments = parser.parse_args()
    backend = None if arguments.url else load_model(arguments)
    print(
        "| seed | count | recall | precision | mean diameter, px | of large ones | of small ones | satellites assigned "
        f"| recall, precision at IoU {AUTOMATIC_IOU} |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    every = []
    times = arguments.magnification
    for seed in tqdm(range(arguments.first, arguments.first + arguments.seeds), unit="scene", leave=False):
        discs, picture = draw(seed, times)
        if backend is None:
            every.append(count_through_server(arguments.url.rstrip("/"), discs, picture, times))
        else:
            every.append(count_droplets(backend, discs, picture, times))
        print_row(str(seed), every[-1])
    if len(every) > 1:
        print_row("all", total(every))


if __name__ == "__main__":
    main()
