"""The process in which one side of one part runs: `python -m benchmarks.worker`, driven over its standard input.

The first line is the task; then every line "run" is answered with the seconds of one run, and "finish" with peak memory
and what the side computed. Answers are JSON, one a line.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.pictures import draw_picture
from benchmarks.settings import Settings, Side
from benchmarks.sides import Click, Runner, click_points, make_runner
from sam_server.arrays import ByteArray

# Clicks that are timed together, at a few points in turns: one takes milliseconds, and the first one finds caches full
# of another side's work.
CLICKED_POINTS = 4
CLICKS = 4 * CLICKED_POINTS
# A side whose first run took longer than this, in seconds, is not warmed up: nothing of its start would show.
WARM_UP_LIMIT = 4.0


@dataclass(frozen=True)
class Task:
    """What one process measures.

    Attributes:
        settings: of the whole run.
        side: which implementation.
        part: of settings.PARTS.
        batch: pictures in one call.
        outcome: file for what the side computed, for the comparison with the reference.
    """

    settings: Settings
    side: Side
    part: str
    outcome: Path
    batch: int = 1

    @property
    def painted(self) -> bool:
        """Whether the masks matter; else every weight of the encoder must have its say in the embedding."""
        return self.part not in ("encode", "batches")

    def to_json(self) -> str:
        """As one line."""
        fields = {"side": asdict(self.side), "part": self.part, "batch": self.batch, "outcome": str(self.outcome)}
        return json.dumps({"settings": self.settings.to_json(), **fields})

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        settings, side = Settings.from_json(fields["settings"]), Side(**fields["side"])
        return cls(settings, side, fields["part"], Path(fields["outcome"]), fields["batch"])


def peak_memory() -> int:
    """Most memory that this process ever held, in bytes."""
    try:
        # Of this program alone: ru_maxrss may still be that of the process it was forked from.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def encode_task(task: Task, runner: Runner, picture: ByteArray) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Encode the picture, or a batch of it."""
    pictures = [picture] * task.batch

    def save(encoded: Any) -> None:
        np.savez(task.outcome, embedding=runner.embedding_array(encoded)[:1])

    return lambda: runner.encode(pictures), save


def click_task(task: Task, runner: Runner, picture: ByteArray) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Click at a few points one by one."""
    encoded = runner.encode([picture])
    points = click_points(task.settings)[:: 64 // CLICKED_POINTS]

    def save(clicks: Any) -> None:
        np.savez(task.outcome, masks=np.packbits([click.masks for click in clicks], axis=-1))

    def run() -> list[Click]:
        for _ in range(CLICKS // CLICKED_POINTS):
            clicks = [runner.click(encoded, point) for point in points]
        return clicks

    return run, save


def points_task(task: Task, runner: Runner, picture: ByteArray) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Decode 64 points in one call."""
    encoded = runner.encode([picture])
    points = click_points(task.settings)

    def save(logits: Any) -> None:
        np.savez(task.outcome, masks=np.packbits(logits > 0, axis=-1))

    return lambda: runner.points(encoded, points), save


def automatic_task(task: Task, runner: Runner, picture: ByteArray) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Find every mask of the picture."""

    def save(records: Any) -> None:
        kept = [{"segmentation": r["segmentation"], "predicted_iou": float(r["predicted_iou"])} for r in records]
        task.outcome.with_suffix(".json").write_text(json.dumps(kept))

    return lambda: runner.automatic(picture), save


TASKS = {
    "encode": encode_task,
    "batches": encode_task,
    "click": click_task,
    "points64": points_task,
    "automatic": automatic_task,
}


def timed(run: Callable[[], Any], runner: Runner) -> tuple[float, Any]:
    """Seconds of one run on an idle device, and its result."""
    runner.synchronise()
    started = time.perf_counter()
    result = run()
    runner.synchronise()
    return time.perf_counter() - started, result


def serve(lines: TextIO, answer: Callable[[dict[str, Any]], None]) -> None:
    """Load, warm up, and do what the lines say."""
    task = Task.from_json(next(lines))
    # Before the model is there: what drawing takes is no side's memory, and none may keep it.
    picture = draw_picture(*task.settings.picture_size)
    started = time.perf_counter()
    runner = make_runner(task.settings, task.side, task.painted)
    load = time.perf_counter() - started
    run, save = TASKS[task.part](task, runner, picture)
    divisor = CLICKS if task.part == "click" else task.batch
    first, result = timed(run, runner)
    answer({"load": load, "engine": runner.engine, "first": first / divisor, "warm": first < WARM_UP_LIMIT})
    for line in lines:
        if line.strip() == "finish":
            break
        seconds, result = timed(run, runner)
        answer({"seconds": seconds / divisor})
    peak = peak_memory()  # before the result is packed for the comparison
    save(result)
    answer({"peak": peak, "device_peak": _device_peak()})


def _device_peak() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def main() -> None:
    """Keep standard output for the answers, whatever the libraries print."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def answer(fields: dict[str, Any]) -> None:
            print(json.dumps(fields), file=out, flush=True)

        serve(sys.stdin, answer)


if __name__ == "__main__":
    main()
