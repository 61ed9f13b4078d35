"""The real server, started as `script/server` starts it: clicks over HTTP, start-up and memory."""

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from PIL import Image
from pycocotools import mask as coco
from skimage.draw import disk

from benchmarks.conductor import SideError, last_lines
from benchmarks.pictures import draw_picture, grid_points
from benchmarks.results import Measurement
from benchmarks.settings import ONNX, PYTORCH, ROOT, Settings, Side
from sam_server.network.variants import VARIANTS

# What is measured on a server.
SERVER_PARTS = ("http", "startup", "memory", "regroup")
READY_SECONDS = 180.0
POLL_SECONDS = 0.02
REQUEST_SECONDS = 300.0
# Clicks of a run, one after the other on one connection.
CLICKS = 8
# Masks of the set that is grouped.
GROUPED_MASKS = 500
# A server that took longer to start, in seconds, is started once only.
STARTUP_LIMIT = 12.0


@dataclass
class RunningServer:
    """A server that answers.

    Attributes:
        url: its address.
        process: gunicorn, with the worker as its child.
        startup: seconds from process start to /ready.
        client: one connection that is kept.
        session_id: of the picture that is clicked on.
        mask_set_id: of the masks that are grouped.
    """

    url: str
    process: subprocess.Popen[bytes]
    startup: float
    client: requests.Session
    session_id: str = ""
    mask_set_id: str = ""

    def post_picture(self, png: bytes) -> None:
        """Open a session on a picture."""
        self.session_id = str(
            self._post("/sessions", data=png, headers={"Content-Type": "image/png"}).json()["session_id"]
        )

    def click(self, point: Sequence[float]) -> tuple[float, float]:
        """Seconds of a click, and what of them was spent outside the decoder."""
        body = {"session_id": self.session_id, "points": [list(point)]}
        started = time.perf_counter()
        answer = self._post("/segment", json=body)
        seconds = time.perf_counter() - started
        decoder = re.search(r"predict;dur=([\d.]+)", answer.headers["Server-Timing"])
        assert decoder is not None
        return seconds, seconds - float(decoder[1]) / 1000

    def keep_discs(self, width: int, height: int) -> None:
        """Store a set of GROUPED_MASKS discs of the session's picture."""
        body = {"session_id": self.session_id, "masks": [{"segmentation": rle} for rle in _discs(width, height)]}
        self.mask_set_id = str(self._post("/mask_sets", json=body).json()["mask_set_id"])

    def group(self, circularity: float) -> float:
        """Seconds of grouping the stored set anew, with another threshold."""
        filters = {"min_circularity": circularity}
        body = {"mask_set_id": self.mask_set_id, "preset": "droplets", "filters": filters}
        started = time.perf_counter()
        self._post("/group_masks", json=body)
        return time.perf_counter() - started

    def peak_memory(self) -> int:
        """Most memory that gunicorn and its workers held, in bytes."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        return sum(_peak(process.pid) for process in family)

    def stop(self) -> None:
        """End the server; its processes are gone then."""
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _post(self, path: str, **options: Any) -> requests.Response:
        answer = self.client.post(self.url + path, timeout=REQUEST_SECONDS, **options)
        answer.raise_for_status()
        return answer


def start_server(settings: Settings, side: Side, log: Path) -> RunningServer:
    """Start a server for a side and wait until it is ready.

    Raises:
        SideError: it ended, or was not ready in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = requests.Session()
    client.trust_env = False  # no proxy on the way to this machine
    started = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "app:app"],
            cwd=ROOT,
            env=server_environment(settings, side, port),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(f"http://127.0.0.1:{port}", process, 0.0, client)
    while time.perf_counter() - started < READY_SECONDS and process.poll() is None:
        try:
            if client.get(server.url + "/ready", timeout=5).status_code == 200:
                return replace(server, startup=time.perf_counter() - started)
        except requests.RequestException:
            pass
        time.sleep(POLL_SECONDS)
    server.stop()
    raise SideError(last_lines(log) or f"not ready after {READY_SECONDS:g} s")


def server_environment(settings: Settings, side: Side, port: int) -> dict[str, str]:
    """Environment in which exactly this side runs, or nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAM_")}
    weights = settings.weights(side.variant, painted=True)
    if side.backend == ONNX:
        chosen = {"SAM_MODEL_TYPE": side.variant, "SAM_ONNX_DIR": str(weights.parent / ONNX)}
    else:
        model_type = side.variant if side.variant in VARIANTS else "tiny"
        chosen = {"SAM_MODEL_TYPE": model_type, "SAM_CHECKPOINT": str(weights)}
    return {
        **kept,
        **chosen,
        "SAM_BACKEND": side.backend,
        "SAM_PRECISION": side.precision,
        "SAM_USE_GPU": str(settings.device == "cuda").lower(),
        "SAM_INTRA_OP_THREADS": str(settings.threads),
        "SAM_OFFLINE": "true",
        "SAM_STRICT": "true",
        "SAM_HOST": "127.0.0.1",
        "SAM_PORT": str(port),
        "SAM_LOG_LEVEL": "warning",
    }


def measure_servers(settings: Settings, variant: str, tell: Callable[[str], None] = print) -> list[Measurement]:
    """The parts http, startup, memory and regroup of every side of a variant, from the same servers.

    Args:
        settings: of the whole run.
        variant: key of BENCHMARK_VARIANTS.
        tell: gets a line when something has been done.
    """
    folder = settings.output / "outcomes"
    folder.mkdir(parents=True, exist_ok=True)
    png = _png(settings)
    servers: dict[Side, RunningServer] = {}
    startups: dict[Side, list[float]] = {}
    found: list[Measurement] = []
    try:
        for side in settings.sides(variant):
            if side.backend not in (PYTORCH, ONNX) or (side.backend == ONNX and variant not in VARIANTS):
                continue
            log = folder / f"server-{side.variant}-{side.backend}-{side.precision}.log"
            try:
                servers[side], startups[side] = _start(settings, side, log)
                servers[side].post_picture(png)
                servers[side].click(_points(settings)[0])
            except (SideError, requests.RequestException) as error:
                found += [Measurement(part, side, failure=str(error)) for part in SERVER_PARTS]
                tell(f"  {side.label}: failed: {error}")
        memory = {side: server.peak_memory() for side, server in servers.items()}
        clicks = _click_in_turn(settings, servers)
        groups = _group_in_turn(settings, servers) if "regroup" in settings.parts else {}
    finally:
        for server in servers.values():
            server.stop()
    for side, times in clicks.items():
        totals, outside = zip(*times, strict=True)
        found.append(Measurement("http", side, seconds=totals, outside=outside))
        found.append(Measurement("startup", side, seconds=tuple(startups[side])))
        found.append(Measurement("memory", side, peak=memory[side]))
        if side in groups:
            found.append(Measurement("regroup", side, seconds=tuple(groups[side])))
    return [measurement for measurement in found if measurement.part in settings.parts]


def _start(settings: Settings, side: Side, log: Path) -> tuple[RunningServer, list[float]]:
    """A running server, and the seconds of each start: quick ones are started several times."""
    server = start_server(settings, side, log)
    startups = [server.startup]
    while "startup" in settings.parts and len(startups) < settings.runs and max(startups) < STARTUP_LIMIT:
        server.stop()
        server = start_server(settings, side, log)
        startups.append(server.startup)
    return server, startups


def _click_in_turn(settings: Settings, servers: dict[Side, RunningServer]) -> dict[Side, list[tuple[float, float]]]:
    clicks: dict[Side, list[tuple[float, float]]] = {side: [] for side in servers}
    points = _points(settings)
    for _ in range(settings.runs):
        for side, server in servers.items():
            clicks[side] += [server.click(point) for point in points]
    return clicks


def _group_in_turn(settings: Settings, servers: dict[Side, RunningServer]) -> dict[Side, list[float]]:
    groups: dict[Side, list[float]] = {side: [] for side in servers}
    for side, server in servers.items():
        server.keep_discs(*settings.picture_size)
        server.group(0.0)
        groups[side] = [server.group(0.5 + 0.01 * run) for run in range(settings.runs)]
    return groups


def _discs(width: int, height: int) -> Iterator[dict[str, Any]]:
    """GROUPED_MASKS discs in two sizes as COCO run-length encodings, some of them touching."""
    rng = np.random.default_rng(0)
    for number in range(GROUPED_MASKS):
        mask = np.zeros((height, width), np.uint8, order="F")
        centre = (rng.integers(width), rng.integers(height))
        rows, columns = disk(centre[::-1], height / (80 if number % 3 else 30), shape=mask.shape)
        mask[rows, columns] = 1
        rle = coco.encode(mask)
        yield {"size": rle["size"], "counts": rle["counts"].decode()}


def _points(settings: Settings) -> list[list[float]]:
    points: list[list[float]] = grid_points(*settings.picture_size, 64)[:: 64 // CLICKS].tolist()
    return points


def _png(settings: Settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_picture(*settings.picture_size)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _peak(pid: int) -> int:
    """Most memory that a process held; what it holds now where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return int(psutil.Process(pid).memory_info().rss)
