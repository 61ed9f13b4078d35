"""`python -m benchmarks`: measure, print the tables, write results.json and index.html."""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.conductor import measure
from benchmarks.page import make_page
from benchmarks.report import to_markdown
from benchmarks.results import Machine, Results, Share
from benchmarks.servers import SERVER_PARTS, measure_servers
from benchmarks.settings import (
    BACKENDS,
    BENCHMARK_VARIANTS,
    ONNX,
    ONNXRUNTIME,
    OUTPUT,
    PARTS,
    PRECISIONS,
    PYTORCH,
    REFERENCE,
    ROOT,
    Settings,
    Side,
)
from sam_server.processors import cpu_quota

# What --quick puts in place of the defaults.
QUICK: dict[str, Any] = {
    "parts": tuple(part for part in PARTS if part not in ("batches", "startup")),
    "variants": ("tiny",),
    "precisions": ("fp32",),
    "runs": 2,
    "batches": (1, 2),
    "points_per_side": 8,
    "picture_size": (640, 360),
}


def main() -> None:
    """Run the benchmark; exits with 1 if a side failed."""
    settings = parse_arguments(sys.argv[1:])
    results = run(settings, shlex.join(["script/benchmark", *sys.argv[1:]]))
    print(to_markdown(results))
    print(f"{settings.output / 'results.json'} and {settings.output / 'index.html'} are written")
    sys.exit(any(measurement.failure for measurement in results.measurements))


def run(settings: Settings, command: str) -> Results:
    """Measure everything that the settings ask for, and write the results.

    Args:
        settings: what to measure.
        command: for the report.
    """
    started = time.perf_counter()
    settings.output.mkdir(parents=True, exist_ok=True)
    # Every library that the measuring processes load finds the same number of threads.
    os.environ.update(
        dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(settings.threads))
    )
    tell("matrix products")
    machine = Machine(**_child("benchmarks.machine", settings.to_json()))
    weights = {variant: _prepare(settings, variant) for variant in settings.variants}
    results = Results(
        command=command,
        machine=machine,
        weights=weights,
        started=datetime.now(UTC).strftime("%Y-%m-%d"),
        threads=settings.threads,
        picture=f"{settings.picture_size[0]} x {settings.picture_size[1]}, drawn by code; for automatic masks a grid "
        f"of {settings.points_per_side} x {settings.points_per_side} points, "
        f"pred_iou_thresh {settings.pred_iou_thresh}, stability_score_thresh {settings.stability_score_thresh}",
    )
    for variant in settings.variants:
        for _ in _measure_variant(settings, variant, results):
            # After every part, so that a run that is cut off has not measured in vain.
            results.took = time.perf_counter() - started
            _write(settings, results)
    return results


def _write(settings: Settings, results: Results) -> None:
    (settings.output / "results.json").write_text(json.dumps(dataclasses.asdict(results), indent=1, default=str))
    (settings.output / "index.html").write_text(make_page(results))


def _measure_variant(settings: Settings, variant: str, results: Results) -> Iterator[None]:
    """Add to the results, a part at a time."""
    sides = settings.sides(variant)
    for part in settings.parts:
        if part in SERVER_PARTS or part == "components":
            continue
        tell(f"{part}, {variant}")
        if part == "batches":
            results.measurements += _measure_batches(settings, variant)
        else:
            modes = [dataclasses.replace(side, performance_mode=True) for side in _fastest(sides)]
            results.measurements += measure(
                settings, part, [*sides, *modes] if part == "automatic" else sides, tell=tell
            )
        yield
    if any(part in settings.parts for part in SERVER_PARTS):
        tell(f"servers, {variant}")
        results.measurements += measure_servers(settings, variant, tell)
        if "memory" in settings.parts and REFERENCE in settings.backends:
            reference = measure(dataclasses.replace(settings, runs=1), "click", [Side(REFERENCE, variant)], tell=tell)
            results.measurements += [dataclasses.replace(m, part="memory", seconds=()) for m in reference]
        yield
    if "components" in settings.parts and PYTORCH in settings.backends and variant == settings.variants[0]:
        tell(f"components and layers, {variant}")
        for precision in (p for p in settings.precisions if p != "int8"):
            shares = _child("benchmarks.shares", settings.to_json(), variant, precision)
            results.components += [Share(**share) for share in shares["components"]]
            results.layers = [Share(**share) for share in shares["layers"]]  # those of the last precision
        yield


def _measure_batches(settings: Settings, variant: str) -> list[Any]:
    """Several pictures in one call, in the fastest precision of each backend."""
    found = []
    for batch in settings.batches:
        found += measure(
            dataclasses.replace(settings, runs=2), "batches", _fastest(settings.sides(variant)), batch, tell
        )
    return found


def _fastest(sides: Sequence[Side]) -> list[Side]:
    """The last precision of each backend of this project."""
    return list({side.backend: side for side in sides if side.backend in (PYTORCH, ONNX)}.values())


def _prepare(settings: Settings, variant: str) -> str:
    """Weights and ONNX files of a variant, made if they are not there; says what they are."""
    tell(f"weights, {variant}")
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.weights", settings.to_json(), variant],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    if ONNX in settings.backends or ONNXRUNTIME in settings.backends:
        for painted in (False, True):
            _export(settings.weights(variant, painted), variant)
    return made.stdout.strip().splitlines()[-1]


def _export(checkpoint: Path, variant: str) -> None:
    """Write the ONNX files of a checkpoint beside it, unless they are there and younger than what makes them."""
    folder = checkpoint.parent / ONNX
    files = [folder / f"sam_{variant}_{part}.onnx" for part in ("encoder", "decoder")]
    sources = [checkpoint, ROOT / "convert_to_onnx.py", *(ROOT / "sam_server" / "network").glob("*.py")]
    changed = max(source.stat().st_mtime for source in sources)
    if all(file.is_file() and file.stat().st_mtime > changed for file in files):
        return
    tell(f"ONNX files of {checkpoint.parent.name}")
    arguments = ["--checkpoint", str(checkpoint), "--output-dir", str(folder)]
    log = checkpoint.with_suffix(".export.log")
    with log.open("w") as file:
        command = [sys.executable, "convert_to_onnx.py", *arguments]
        status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        tell(f"  the export failed, see {log}")


def _child(module: str, *arguments: str) -> Any:
    """What `python -m module` prints as JSON in its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def parse_arguments(arguments: Sequence[str]) -> Settings:
    """Settings from the command line."""
    parser = argparse.ArgumentParser(
        prog="script/benchmark",
        description="Measure speed, memory and quality side by side with segment-anything 1.0.",
        epilog="parts: " + "; ".join(f"{part}: {what}" for part, what in PARTS.items()),
    )
    defaults = Settings(threads=cpu_quota())
    parser.add_argument("--quick", action="store_true", help="the tiny model on a small picture, in less than a minute")
    parser.add_argument("--parts", type=_names(PARTS), help="separated by commas; all if left out")
    parser.add_argument("--variants", type=_names(BENCHMARK_VARIANTS), help="vit_b,tiny if left out")
    parser.add_argument("--backends", type=_names(BACKENDS), help="reference,pytorch,onnx if left out")
    parser.add_argument("--precisions", type=_names(PRECISIONS), help="of PyTorch and ONNX; fp32,bf16 if left out")
    parser.add_argument("--runs", type=int, help=f"timed runs of a side; {defaults.runs} if left out")
    parser.add_argument("--threads", type=int, help="of one computation; the CPU quota if left out")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cpu if left out")
    parser.add_argument(
        "--pred-iou-thresh", type=float, help=f"of automatic masks; {defaults.pred_iou_thresh} if left out"
    )
    parser.add_argument(
        "--stability-score-thresh",
        type=float,
        help=f"of automatic masks; {defaults.stability_score_thresh} if left out",
    )
    parser.add_argument("--output", type=Path, help=f"{OUTPUT.relative_to(ROOT)} if left out")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    if given.pop("quick"):
        given = {**QUICK, **given}
    if "output" in given:
        given["output"] = given["output"].resolve()
    return dataclasses.replace(defaults, **given)


def _names(known: Sequence[str] | dict[str, Any]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def tell(line: str) -> None:
    """A line of progress, apart from the results on standard output."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
