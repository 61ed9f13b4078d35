"""Light load for a long time, and the server's memory beside it: `python -m benchmarks.soak --help`."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.load import MB, Target, show, summary, target
from benchmarks.load_clients import prepare

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Small enough to be full before the end of the warm-up: what grows afterwards is no cache.
CACHE_BYTES = "64M"
WARM_UP_SHARE = 0.2
SAMPLE_SECONDS = 2.0


class Memory:
    """Samples of a server's memory.

    Attributes:
        seconds: since the first sample.
        rss: in bytes.
    """

    def __init__(self, server: Target) -> None:
        self._server = server
        self._started = time.monotonic()
        self.seconds: list[float] = []
        self.rss: list[int] = []

    def sample(self) -> None:
        """Take one, if the last one is old enough."""
        now = time.monotonic() - self._started
        if not self.seconds or now - self.seconds[-1] >= SAMPLE_SECONDS:
            rss = self._server.rss()
            assert rss is not None
            self.seconds.append(now)
            self.rss.append(rss)

    def trend(self) -> dict[str, float]:
        """How the memory went after the warm-up, in MB and MB per hour (least squares)."""
        times, rss = np.array(self.seconds), np.array(self.rss) / MB
        late = times >= WARM_UP_SHARE * times[-1]
        slope = float(np.polyfit(times[late], rss[late], 1)[0]) * 3600 if late.sum() > 1 else 0.0
        figures = {"start": rss[0], "warm": rss[late][0], "least": rss[late].min(), "most": rss[late].max()}
        figures |= {"end": rss[-1], "mb_per_hour": slope}
        return {name: round(float(value), 1) for name, value in figures.items()}

    def draw(self, path: Path, title: str) -> None:
        """Draw memory over time as PNG."""
        figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
        axes.plot(np.array(self.seconds) / 60, np.array(self.rss) / MB, linewidth=1.2)
        axes.axvspan(0, WARM_UP_SHARE * self.seconds[-1] / 60, color="0.92", label="warm-up")
        axes.set(xlabel="minutes", ylabel="resident memory, MB", title=title, ylim=(0, None))
        axes.legend(loc="lower right")
        figure.savefig(path, dpi=120)
        plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=float, default=4.0, help="requests per second of all clients together")
    parser.add_argument("--output", type=Path, default=Path("build/soak"), help="directory for memory.png, soak.json")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    with target(None, {"SAM_CACHE_BYTES": CACHE_BYTES}) as server:
        memory = Memory(server)
        load = prepare(server.url, options.clients)
        started = time.monotonic()
        load.run(options.clients, options.minutes * 60, options.rate, memory.sample)
        found: dict[str, Any] = summary(load.heard, time.monotonic() - started)
        found["cache"] = server.cache()
    found["memory_mb"] = memory.trend()
    title = f"{options.clients} clients, {found['per_second']} requests per second, cache of {CACHE_BYTES}B"
    memory.draw(options.output / "memory.png", title)
    (options.output / "soak.json").write_text(json.dumps(found, indent=2) + "\n")
    print(title)
    print(show(found))
    figures = ", ".join(f"{name} {value}" for name, value in found["memory_mb"].items() if name != "mb_per_hour")
    print(f"memory in MB after the warm-up: {figures}; trend {found['memory_mb']['mb_per_hour']:+} MB per hour")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
