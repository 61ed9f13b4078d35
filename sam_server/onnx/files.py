"""Where the files of an exported model lie, and whether they belong together."""

import mmap
from dataclasses import dataclass
from pathlib import Path

from sam_server.onnx.metadata import (
    DECODER,
    ENCODER,
    STANDARD_DECODER,
    ModelMetadata,
    OnnxFileError,
    command,
    read_metadata,
)

# Suffix of the file beside NAME.onnx that has its weights, where they are many.
DATA_SUFFIX = ".data"

_SUFFIXES = {ENCODER: "encoder", DECODER: "decoder", STANDARD_DECODER: "decoder_standard"}


def part_path(directory: Path, model_type: str, part: str) -> Path:
    """Where a part of a model lies: sam_TYPE_encoder.onnx, sam_TYPE_decoder.onnx, sam_TYPE_decoder_standard.onnx."""
    return directory / f"sam_{model_type}_{_SUFFIXES[part]}.onnx"


@dataclass(frozen=True)
class OnnxFiles:
    """The two files of a model that fit each other.

    Attributes:
        encoder, decoder: paths.
        encoder_metadata, decoder_metadata: what stands in them.
    """

    encoder: Path
    decoder: Path
    encoder_metadata: ModelMetadata
    decoder_metadata: ModelMetadata


def find_files(directory: Path, model_type: str) -> OnnxFiles:
    """Find the files of a model and check them against each other, without loading them.

    Args:
        directory: where exported models are kept, SAM_ONNX_DIR.
        model_type: such as "vit_b".

    Raises:
        OnnxFileError: one is missing, broken, of another model or of another version than the other.
    """
    encoder, decoder = (part_path(directory, model_type, part) for part in (ENCODER, DECODER))
    files = OnnxFiles(encoder, decoder, _checked(encoder, model_type, ENCODER), _checked(decoder, model_type, DECODER))
    for name in ("spec", "checkpoint_sha256"):
        first, second = getattr(files.encoder_metadata, name), getattr(files.decoder_metadata, name)
        if first != second:
            raise OnnxFileError(
                f"{encoder.name} and {decoder.name} do not belong together: {name.replace('_', ' ')} is {first} in one "
                f"and {second} in the other; write both again with {command(encoder)}"
            )
    return files


def _checked(path: Path, model_type: str, part: str) -> ModelMetadata:
    if not path.is_file():
        raise OnnxFileError(f"{path} is missing; write it with {command(path)}")
    metadata = read_metadata(path)
    if _lacks_weights(path):
        data = f"{path.name}{DATA_SUFFIX}"
        raise OnnxFileError(
            f"{data} is missing beside {path}, which has its weights there: copy it too, or write both "
            f"again with {command(path)}"
        )
    if metadata.spec.model_type != model_type or metadata.part != part:
        raise OnnxFileError(
            f"{path} holds the {metadata.part.replace('_', ' ')} of {metadata.spec.model_type}, "
            f"not what its name says; write it again with {command(path)}"
        )
    return metadata


def _lacks_weights(path: Path) -> bool:
    """Whether the weights of a graph lie in a file beside it that is not there."""
    data = path.with_name(path.name + DATA_SUFFIX)
    if data.is_file():
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(data.name.encode()) >= 0
