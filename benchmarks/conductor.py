"""Runs the sides of a part against each other: a process each, a run each in turn."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.quality import compare
from benchmarks.results import Measurement
from benchmarks.settings import REFERENCE, ROOT, Settings, Side
from benchmarks.worker import Task

# A side gets no further run once its runs have taken this long together, in seconds.
SIDE_SECONDS = 40.0
# Lines of a failed process that are shown.
SHOWN_LINES = 3


def last_lines(log: Path) -> str:
    """The end of what a process said: its errors, without the way to them."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and not line[0].isspace()]  # code in a traceback is indented
    return " | ".join(line.strip() for line in (errors or lines)[-SHOWN_LINES:])


class SideError(Exception):
    """A side that did not run; the message is the end of what its process said."""


class WorkerProcess:
    """A process of benchmarks.worker."""

    def __init__(self, task: Task, log: IO[str]) -> None:
        self.task = task
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self.started = self._ask(task.to_json())

    def run(self) -> float:
        """Seconds of one run."""
        return float(self._ask("run")["seconds"])

    def finish(self) -> dict[str, Any]:
        """Peak memory; the process has ended then."""
        answer = self._ask("finish")
        self.close()
        return answer

    def close(self) -> None:
        """End the process, whatever it does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.poll() is None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.close()
            raise SideError(last_lines(Path(self._log.name)) or f"ended with {self._process.returncode}")
        fields: dict[str, Any] = json.loads(answer)
        return fields


def measure(
    settings: Settings, part: str, sides: Sequence[Side], batch: int = 1, tell: Callable[[str], None] = print
) -> list[Measurement]:
    """Measure a part on several sides.

    Args:
        settings: of the whole run.
        part: of worker.TASKS.
        sides: one of them may be the reference, which the others are compared with.
        batch: pictures in one call.
        tell: gets a line when something has been done.

    Returns:
        One measurement per side, in order; one that failed says why.
    """
    folder = settings.output / "outcomes"
    folder.mkdir(parents=True, exist_ok=True)
    workers: dict[Side, WorkerProcess] = {}
    seconds: dict[Side, list[float]] = {side: [] for side in sides}
    failures: dict[Side, str] = {}
    try:
        for side in sides:
            name = f"{part}-{side.variant}-{side.backend}-{side.precision}-{side.performance_mode}-{batch}"
            with (folder / f"{name}.log").open("w") as log:
                try:
                    workers[side] = WorkerProcess(Task(settings, side, part, folder / f"{name}.npz", batch), log)
                except SideError as error:
                    failures[side] = str(error)
                    tell(f"  {side.label}: failed: {error}")
                    continue
            if not workers[side].started["warm"]:
                seconds[side].append(workers[side].started["first"])
        _take_turns(settings, workers, seconds)
        ends = {side: worker.finish() for side, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    found = [
        _measurement(part, side, batch, seconds[side], workers[side].started, ends[side])
        if side in workers
        else Measurement(part, side, batch=batch, failure=failures[side])
        for side in sides
    ]
    return _compared(found, {side: worker.task.outcome for side, worker in workers.items()})


def _take_turns(settings: Settings, workers: dict[Side, WorkerProcess], seconds: dict[Side, list[float]]) -> None:
    """One run of every side, then the next: what disturbs the machine for a while disturbs all of them."""
    for _ in range(settings.runs):
        for side, worker in workers.items():
            taken = sum(seconds[side]) * worker.task.batch
            if len(seconds[side]) < settings.runs and taken < SIDE_SECONDS:
                seconds[side].append(worker.run())


def _measurement(
    part: str, side: Side, batch: int, seconds: list[float], start: dict[str, Any], end: dict[str, Any]
) -> Measurement:
    return Measurement(
        part=part,
        side=side,
        seconds=tuple(seconds),
        batch=batch,
        peak=end["peak"],
        device_peak=end["device_peak"],
        engine=start["engine"],
        load=start["load"],
    )


def _compared(found: list[Measurement], outcomes: dict[Side, Path]) -> list[Measurement]:
    """The measurements with what their results are beside the reference's."""
    reference = next((outcomes[m.side] for m in found if m.side.backend == REFERENCE and m.side in outcomes), None)
    return [compare(m, outcomes[m.side], reference) if m.side in outcomes else m for m in found]
