"""A model by its type to checked ONNX files: `python convert_model.py --model-type vit_b`.

Finds or downloads the checkpoint, exports it, runs PyTorch and ONNX side by side on real pictures, prints how near
they are, and puts the files into SAM_ONNX_DIR only if they agree.
"""

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from backend_loader import TINY, Step, candidates
from convert_to_onnx import ExportOptions, add_options, export_checkpoint, exporter_version
from onnx_sam_wrapper import load_onnx_sam
from pytorch_sam_wrapper import find_variant, load_pytorch_sam
from sam_config import ConfigError, SamConfig, load_config, usual_threads
from sam_server.checkpoints.download import DownloadError, download_checkpoint, sha256_of
from sam_server.checkpoints.load import CheckpointError
from sam_server.checkpoints.table import CHECKPOINTS
from sam_server.network.sam import WeightsError
from sam_server.network.variants import VARIANTS, SamVariant
from sam_server.onnx.agreement import LIMITS, Agreement, Run, compare, run
from sam_server.onnx.engines import CPU_PROVIDER, OrtEngine
from sam_server.onnx.files import find_files, part_path
from sam_server.onnx.metadata import STANDARD_DECODER, OnnxFileError, read_metadata
from sam_server.onnx.staging import publish, staging

P = ParamSpec("P")
T = TypeVar("T")

# A rounding of float32 on the way through the standard decoder, relative to its largest logit.
STANDARD_ERROR = 1e-3


class DisagreementError(RuntimeError):
    """ONNX and PyTorch do not give the same masks."""


@dataclass(frozen=True)
class Source:
    """A checkpoint to convert.

    Attributes:
        path: .pth, .pt or .safetensors file.
        variant: its dimensions.
        sha256: of the file.
    """

    path: Path
    variant: SamVariant
    sha256: str


def find_checkpoint(config: SamConfig) -> Source:
    """The checkpoint that the server would run in PyTorch, downloaded where it is not there yet.

    Raises:
        ConfigError: there is none, and none can be had.
        DownloadError: it did not come.
    """
    problems = []
    for candidate in candidates(replace(config, backend="pytorch", precision="auto"), frozenset({"pytorch"})):
        if candidate.backend != "pytorch" or candidate.model_type != config.model_type:
            continue
        if candidate.problem is not None:
            problems.append(candidate.problem)
            continue
        path = candidate.files[0]
        if candidate.step == Step.DOWNLOAD:
            download_checkpoint(CHECKPOINTS[config.model_type], config.model_dir, mirror=config.checkpoint_mirror)
        shipped = config.checkpoint is not None or candidate.model_type == TINY
        variant = find_variant(path, config.model_type) if shipped else VARIANTS[config.model_type]
        return Source(path, variant, sha256_of(path))
    raise ConfigError(f"no checkpoint of {config.model_type}: {'; '.join(problems)}")


def is_converted(source: Source, directory: Path, options: ExportOptions) -> bool:
    """Whether the files that are there are what a conversion would write."""
    name = source.variant.name
    try:
        files = find_files(directory, name)
        standard = read_metadata(part_path(directory, name, STANDARD_DECODER))
    except OnnxFileError:
        return False
    found = (files.encoder_metadata, files.decoder_metadata, standard)
    return files.encoder_metadata.precision == options.precision and all(
        metadata.checkpoint_sha256 == source.sha256
        and metadata.encoder_input == options.encoder_input
        and metadata.spec == source.variant.spec
        and metadata.exporter == exporter_version()
        for metadata in found
    )


def convert(source: Source, directory: Path, options: ExportOptions) -> None:
    """Export a checkpoint into `directory`, if ONNX agrees with PyTorch.

    Raises:
        DisagreementError: it does not; nothing was written.
        CheckpointError, WeightsError, OnnxFileError: the checkpoint or what came of it cannot be read.
    """
    with staging(directory) as stage:
        files = export_checkpoint(source.path, source.variant, stage, options, source.sha256, _say)
        _say("checking: PyTorch on real pictures")
        expected = _in_process_of_its_own(_run_pytorch, source)
        _say("checking: ONNX on the same pictures")
        found, standard = _in_process_of_its_own(_run_onnx, stage, source.variant.name)
        agreement = compare(found, expected)
        print(table(expected, found, agreement, standard, files))
        failures = agreement.failures(LIMITS[options.precision])
        if options.precision == "fp32" and not standard <= STANDARD_ERROR:
            failures.append(f"the standard decoder differs by {standard:.1e}")
        if failures:
            raise DisagreementError("; ".join(failures))
        for path in publish(files, directory):
            _say(f"done: {path}")


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _in_process_of_its_own(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a function in a fresh process, so that it has its memory for itself."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments, **named).result()


def _run_pytorch(source: Source) -> Run:
    return run(load_pytorch_sam(source.path, source.variant, use_gpu=False, precision="fp32", threads=usual_threads()))


def _run_onnx(directory: Path, model_type: str) -> tuple[Run, float]:
    """What the server runs, and the error of the standard decoder."""
    found = run(load_onnx_sam(directory, model_type, use_gpu=False, threads=usual_threads()))
    return found, _standard_decoder_error(directory, model_type)


def _standard_decoder_error(directory: Path, model_type: str) -> float:
    """Run the standard decoder as other software would; how far its low-res masks are from our decoder's, relative."""
    files = find_files(directory, model_type)
    spec = files.encoder_metadata.spec
    rng = np.random.default_rng(0)
    cells, size = spec.embedding_size, spec.low_res_size
    inputs = {
        "image_embeddings": rng.normal(0, 0.3, (1, spec.embedding_channels, cells, cells)).astype(np.float32),
        "point_coords": np.array([[[0.4, 0.3], [0.2, 0.6], [0.7, 0.8]]], np.float32) * spec.image_size,
        "point_labels": np.array([[1, 2, 3]], np.float32),
        "mask_input": np.zeros((1, 1, size, size), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    every = {"mask_indices": np.arange(4), "min_iou": np.array([-np.inf], np.float32)}
    own, _ = OrtEngine(files.decoder, (CPU_PROVIDER,), usual_threads()).run({**inputs, **every})
    standard = OrtEngine(part_path(directory, model_type, STANDARD_DECODER), (CPU_PROVIDER,), usual_threads())
    masks, _, low_res = standard.run({**inputs, "orig_im_size": np.array([300, 451], np.float32)})
    if masks.shape != (1, 4, 300, 451) or low_res.shape != own.shape:
        return float("inf")
    return float(np.abs(low_res - own).max() / np.abs(own).max())


def table(expected: Run, found: Run, agreement: Agreement, standard: float, files: list[Path]) -> str:
    """What the check found, for people."""
    sizes = {path.name: path.stat().st_size for path in files}
    rows = [
        ("", "PyTorch", "ONNX"),
        ("engine", expected.engine, found.engine),
        ("encode a picture", f"{expected.encode_seconds:.2f} s", f"{found.encode_seconds:.2f} s"),
        ("decode a click", f"{expected.click_seconds * 1e3:.0f} ms", f"{found.click_seconds * 1e3:.0f} ms"),
        ("most memory", f"{expected.peak_bytes / 1e6:,.0f} MB", f"{found.peak_bytes / 1e6:,.0f} MB"),
        ("embedding error", "", f"{agreement.embedding_error:.1e}"),
        (f"IoU of {agreement.masks} masks, mean", "", f"{agreement.mean_iou:.5f}"),
        ("worst", "", f"{agreement.worst_iou:.5f}"),
        ("standard decoder error", "", f"{standard:.1e}"),
        *((name, "", f"{size / 1e6:,.1f} MB") for name, size in sizes.items()),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Convert as the command line and the settings say."""
    parser = argparse.ArgumentParser(
        prog="convert_model.py", description="Convert a model to ONNX files in SAM_ONNX_DIR, and check them."
    )
    parser.add_argument("--model-type", choices=tuple(VARIANTS), help="which model (default: SAM_MODEL_TYPE)")
    parser.add_argument("--force", action="store_true", help="convert even where the files are there already")
    add_options(parser)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    options = ExportOptions(chosen.precision, chosen.encoder_input, chosen.opset)
    try:
        config = load_config()
        config = replace(config, model_type=chosen.model_type or config.model_type)
        source = find_checkpoint(config)
        if not chosen.force and is_converted(source, config.onnx_dir, options):
            print(f"{config.onnx_dir} has {source.variant.name} already; --force converts it again")
            return 0
        convert(source, config.onnx_dir, options)
    except (
        ConfigError,
        DownloadError,
        CheckpointError,
        WeightsError,
        ValueError,
        DisagreementError,
        BrokenProcessPool,
        OSError,
    ) as error:
        print(f"FAILED, nothing was written: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
