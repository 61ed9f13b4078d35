"""Which model a command measures: a checkpoint with PyTorch, or ONNX files."""

import argparse
from pathlib import Path

from onnx_sam_wrapper import PRECISIONS, load_onnx_sam
from pytorch_sam_wrapper import load_pytorch_sam
from sam_server.backend import SamBackend
from sam_server.threads import limit_threads


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that name the model and how it is run."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoint", type=Path, default=Path("model/tiny/sam_tiny.safetensors"), help="run by PyTorch"
    )
    source.add_argument(
        "--onnx", type=Path, help="folder of sam_TYPE_encoder.onnx and decoder, run by OpenVINO or ONNX Runtime"
    )
    parser.add_argument("--model-type", help="of ONNX files (tiny), or where no config.json lies beside the checkpoint")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="in which it computes (fp32)")
    parser.add_argument("--threads", type=int, help="processor threads")


def load_model(arguments: argparse.Namespace) -> SamBackend:
    """The backend that `add_model_arguments` asked for.

    Raises:
        SystemExit: it cannot be loaded; the message says why.
    """
    if arguments.threads is not None:  # for drawing and measuring too, which the backend does not govern
        limit_threads(arguments.threads)
    try:
        return _load(arguments)
    except ValueError as error:  # all that loading raises: CheckpointError, WeightsError, OnnxFileError
        raise SystemExit(f"error: {error}") from error


def _load(arguments: argparse.Namespace) -> SamBackend:
    if arguments.onnx:
        model_type = arguments.model_type or "tiny"
        return load_onnx_sam(arguments.onnx, model_type, precision=arguments.precision, threads=arguments.threads)
    return load_pytorch_sam(
        arguments.checkpoint,
        model_type=arguments.model_type,
        precision=arguments.precision,
        threads=arguments.threads,
    )
