"""Any checkpoint to ONNX files, without further ado: `python convert_to_onnx.py --help`.

convert_model.py is this with a download before and a check after it.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import sam_server
from pytorch_sam_wrapper import find_variant
from sam_server.checkpoints.download import sha256_of
from sam_server.checkpoints.load import CheckpointError, load_state_dict
from sam_server.network.export import DEFAULT_OPSET, OLDEST_OPSET, export_parts
from sam_server.network.quantise import quantise
from sam_server.network.sam import Sam, WeightsError, load_sam
from sam_server.network.variants import VARIANTS, SamVariant
from sam_server.onnx.files import part_path
from sam_server.onnx.metadata import (
    DECODER,
    ENCODER,
    ENCODER_INPUTS,
    PRECISIONS,
    STANDARD_DECODER,
    ModelMetadata,
)
from sam_server.onnx.staging import publish, staging

# What --what means: parts of a model, those together that are traced together.
DECODERS = (DECODER, STANDARD_DECODER)
PARTS_OF = {"encoder": ((ENCODER,),), "decoder": (DECODERS,), "both": ((ENCODER,), DECODERS)}

Report = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        precision: row of PRECISIONS. int8 is that of the encoder; the decoders, 4 % of a ViT-B, stay in fp32.
        encoder_input: row of ENCODER_INPUTS.
        opset: version of ONNX's operators.
        what: row of PARTS_OF.
    """

    precision: str = "fp32"
    encoder_input: str = "float"
    opset: int = DEFAULT_OPSET
    what: str = "both"


def exporter_version() -> str:
    """What stands in the files as their writer."""
    return f"mask-grouping-server {sam_server.__version__}, torch {torch.__version__}"


def export_checkpoint(
    checkpoint: Path, variant: SamVariant, directory: Path, options: ExportOptions, sha256: str, report: Report = print
) -> list[Path]:
    """Write the ONNX files of a checkpoint.

    Args:
        checkpoint: .pth, .pt or .safetensors file.
        variant: its dimensions.
        directory: where to write; it exists, and what has the same names is written over.
        options: how.
        sha256: of the checkpoint.
        report: called with a line before each step.

    Returns:
        The files written.

    Raises:
        CheckpointError, WeightsError: the checkpoint cannot be read, or does not fit.
    """
    report(f"reading {checkpoint}")
    sam = load_sam(variant, load_state_dict(checkpoint))
    written: list[Path] = []
    for together in _parts(variant, options, sha256):
        files = {part_path(directory, variant.name, metadata.part): metadata for metadata in together}
        report(f"writing {' and '.join(path.name for path in files)}, {together[0].precision}")
        written += _export(sam, files, options.opset)
    return written


def _parts(variant: SamVariant, options: ExportOptions, sha256: str) -> Iterator[list[ModelMetadata]]:
    """What the files shall say, those together that are traced together."""
    for parts in PARTS_OF[options.what]:
        yield [
            ModelMetadata(
                part=part,
                spec=variant.spec,
                precision="fp32" if options.precision == "int8" and part != ENCODER else options.precision,
                encoder_input=options.encoder_input,
                checkpoint_sha256=sha256,
                exporter=exporter_version(),
            )
            for part in parts
        ]


def _export(sam: Sam, files: dict[Path, ModelMetadata], opset: int) -> list[Path]:
    path, metadata = next(iter(files.items()))
    if metadata.precision != "int8":
        return export_parts(sam, files, opset)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        wide = Path(name) / path.name
        export_parts(sam, {wide: replace(metadata, precision="fp32")}, opset, pack=False)
        return quantise(wide, path, metadata)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that convert_model.py shares."""
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the weights (default: fp32)")
    parser.add_argument(
        "--encoder-input",
        choices=ENCODER_INPUTS,
        default="float",
        help="float: normalised, padded (B, 3, S, S); uint8: resized RGB bytes (B, h, w, 3) (default: float)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=DEFAULT_OPSET,
        help=f"version of ONNX's operators, {OLDEST_OPSET} or newer (default: {DEFAULT_OPSET})",
    )


def main(arguments: list[str] | None = None) -> None:
    """Export as the command line says."""
    parser = argparse.ArgumentParser(prog="convert_to_onnx.py", description="Write a checkpoint as ONNX files.")
    parser.add_argument("--checkpoint", type=Path, required=True, help=".pth, .pt or .safetensors file")
    parser.add_argument(
        "--model-type",
        choices=tuple(VARIANTS),
        help="of the checkpoint; not needed where a config.json lies beside it",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="where the files shall be")
    parser.add_argument("--what", choices=tuple(PARTS_OF), default="both", help="which files (default: both)")
    add_options(parser)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    options = ExportOptions(chosen.precision, chosen.encoder_input, chosen.opset, chosen.what)
    try:
        variant = find_variant(chosen.checkpoint, chosen.model_type)
        sha256 = sha256_of(chosen.checkpoint)
        with staging(chosen.output_dir) as directory:
            files = export_checkpoint(chosen.checkpoint, variant, directory, options, sha256)
            for path in publish(files, chosen.output_dir):
                print(f"{path}  {path.stat().st_size / 1e6:,.1f} MB")
    except (CheckpointError, WeightsError, ValueError, OSError) as error:
        parser.exit(1, f"nothing was written: {error}\n")


if __name__ == "__main__":
    main()
