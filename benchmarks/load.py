"""Many clients at once, and every answer compared with the one that came alone: `python -m benchmarks.load --help`."""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests

from benchmarks.load_clients import MIX, Heard, prepare
from benchmarks.settings import ROOT

READY_SECONDS = 600.0
PERCENTILES = (50, 95, 99)
FAULTS_SHOWN = 5
MB = 1 << 20


@dataclass(frozen=True)
class Target:
    """A server to load.

    Attributes:
        url: its address.
        process: gunicorn, or None for a server that somebody else started.
    """

    url: str
    process: "psutil.Process | None"

    def rss(self) -> int | None:
        """Resident memory of the server's processes in bytes, if they run here."""
        if self.process is None:
            return None
        family = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in family)

    def cache(self) -> dict[str, int]:
        """What /backend_info says of the cache."""
        found: dict[str, int] = requests.get(f"{self.url}/backend_info", timeout=60).json()["cache"]
        return found


@contextlib.contextmanager
def target(url: str | None, environ: dict[str, str]) -> Iterator[Target]:
    """The server at `url`, or one of our own on the small model.

    Args:
        url: of a server that runs; None to start one.
        environ: settings of our own one, beside those of the environment.
    """
    if url is not None:
        yield Target(url.rstrip("/"), None)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fixed = {"SAM_PORT": str(port), "SAM_HOST": "127.0.0.1", "SAM_LOG_LEVEL": "warning", "SAM_OFFLINE": "true"}
    settings = {"SAM_MODEL_TYPE": "tiny", **os.environ, **environ, **fixed}
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "app:app"]
        process = subprocess.Popen(command, cwd=ROOT, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}", process)
            yield Target(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(60)
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/ready", timeout=5).status_code == requests.codes.ok:
                return
        time.sleep(0.05)
    sys.exit("the server did not become ready")


def summary(heard: list[Heard], seconds: float) -> dict[str, Any]:
    """Counts by status, and percentiles of the good answers in milliseconds, by kind."""
    kinds = {}
    for kind in MIX:
        of_kind = [item for item in heard if item.kind == kind]
        times = [item.seconds * 1000 for item in of_kind if 200 <= item.status < 300]
        spread = {f"p{p}_ms": round(float(np.percentile(times, p)), 1) for p in PERCENTILES} if times else {}
        statuses = Counter(item.status for item in of_kind)
        kinds[kind] = {"statuses": {str(status): number for status, number in sorted(statuses.items())}, **spread}
    faults = Counter(f"{item.kind}: {item.wrong}" for item in heard if item.wrong is not None)
    return {
        "requests": len(heard),
        "per_second": round(len(heard) / seconds, 1),
        "kinds": kinds,
        "wrong": sum(faults.values()),
        "faults": dict(faults.most_common(FAULTS_SHOWN)),
    }


def show(found: dict[str, Any]) -> str:
    """The summary as a table for people."""
    lines = [f"{'':12} {'answers':>24} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}"]
    for kind, row in found["kinds"].items():
        statuses = ", ".join(f"{number} x {status}" for status, number in row["statuses"].items())
        times = " ".join(f"{row.get(f'p{p}_ms', '-'):>8}" for p in PERCENTILES)
        lines.append(f"{kind:12} {statuses:>24} {times}")
    lines.append(f"{found['requests']} requests, {found['per_second']} per second; wrong: {found['wrong']}")
    lines += [f"  {number} x {fault}" for fault, number in found["faults"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--url", help="a server that runs; one of our own on the small model if left out")
    parser.add_argument("--output", type=Path, help="a file for the figures as JSON")
    options = parser.parse_args(arguments)
    with target(options.url, {}) as server:
        rss = [server.rss()]
        load = prepare(server.url, options.clients)
        rss.append(server.rss())
        started = time.monotonic()
        load.run(options.clients, options.seconds, None, lambda: rss.append(server.rss()))
        found = summary(load.heard, time.monotonic() - started)
        rss.append(server.rss())
        found |= {"clients": options.clients, "seconds": options.seconds, "cache": server.cache()}
    print(f"{options.clients} clients for {options.seconds:g} s: clicks, new pictures and automatic searches")
    print(show(found))
    if rss[0] is not None:
        known = [value / MB for value in rss if value is not None]
        found["rss_mb"] = {"ready": known[0], "prepared": known[1], "most": max(known), "end": known[-1]}
        found["rss_mb"] = {name: round(value) for name, value in found["rss_mb"].items()}
        print("memory of the server in MB: " + ", ".join(f"{name} {value}" for name, value in found["rss_mb"].items()))
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
