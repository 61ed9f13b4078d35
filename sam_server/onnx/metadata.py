"""What an exported file says of itself: written by the exporter, read without loading the model."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from sam_server.backend import ModelSpec

# Of the inputs and outputs of our graphs. A change that an older reader would misread raises it.
FORMAT = 1

ENCODER = "encoder"
DECODER = "decoder"
STANDARD_DECODER = "standard_decoder"
PARTS = (ENCODER, DECODER, STANDARD_DECODER)

PRECISIONS = ("fp32", "fp16", "int8")
ENCODER_INPUTS = ("float", "uint8")

# Keys in the file start with this, so that they are told from those of other tools.
PREFIX = "sam_server."

# onnx/onnx.proto: ModelProto.graph is field 7, ModelProto.metadata_props field 14; a StringStringEntryProto
# has its key in field 1 and its value in field 2. Wire type 2 is a length and that many bytes.
GRAPH_FIELD = 7
METADATA_FIELD = 14
WIRE_VARINT, WIRE_FIXED64, WIRE_BYTES, WIRE_FIXED32 = 0, 1, 2, 5
VARINT_BYTES = 10  # of 64 bits, 7 a byte
ENTRY_BYTES = 1 << 16  # our entries have some dozens; more is no entry of ours


class OnnxFileError(ValueError):
    """ONNX files that cannot run; the message names the file and what to do."""


@dataclass(frozen=True)
class ModelMetadata:
    """What stands in an exported file beside the graph.

    Attributes:
        part: row of PARTS.
        spec: of the model.
        precision: row of PRECISIONS, of the weights.
        encoder_input: "float" takes normalised, padded (B, 3, S, S) float32, "uint8" takes (B, h, w, 3) RGB bytes.
        checkpoint_sha256: of the file that the weights came from.
        exporter: name and version of what wrote the file.
        format: FORMAT of the exporter.
    """

    part: str
    spec: ModelSpec
    precision: str
    encoder_input: str
    checkpoint_sha256: str
    exporter: str
    format: int = FORMAT

    def to_properties(self) -> dict[str, str]:
        """Entries for ONNX's metadata_props."""
        values = {**asdict(self.spec), **{key: value for key, value in asdict(self).items() if key != "spec"}}
        return {PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> "ModelMetadata":
        """The inverse of `to_properties`.

        Raises:
            ValueError: an entry is missing, or not what it should be.
        """
        found = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
        if not found:
            raise ValueError("it was not written by convert_model.py or convert_to_onnx.py")
        # First of all, for everything else may have changed with it.
        if found.get("format") != str(FORMAT):
            raise ValueError(f"its format is {found.get('format')}, this version reads {FORMAT}")
        names = {item.name for item in (*fields(cls), *fields(ModelSpec))} - {"spec"}
        missing = sorted(names - set(found))
        if missing:
            raise ValueError(f"its metadata has no {', '.join(missing)}")
        try:
            metadata = cls._from_values(found)
        except (TypeError, ValueError) as error:
            raise ValueError(f"its metadata is damaged ({error})") from None
        if metadata.part not in PARTS or metadata.precision not in PRECISIONS:
            raise ValueError(f"it says part {metadata.part!r} and precision {metadata.precision!r}, which do not exist")
        if metadata.encoder_input not in ENCODER_INPUTS:
            raise ValueError(f"it says encoder input {metadata.encoder_input!r}, which does not exist")
        return metadata

    @classmethod
    def _from_values(cls, found: Mapping[str, str]) -> "ModelMetadata":
        spec = ModelSpec(
            model_type=found["model_type"],
            image_size=int(found["image_size"]),
            embedding_size=int(found["embedding_size"]),
            embedding_channels=int(found["embedding_channels"]),
            mask_threshold=float(found["mask_threshold"]),
            pixel_mean=_three_numbers(found["pixel_mean"]),
            pixel_std=_three_numbers(found["pixel_std"]),
        )
        return cls(
            part=found["part"],
            spec=spec,
            precision=found["precision"],
            encoder_input=found["encoder_input"],
            checkpoint_sha256=found["checkpoint_sha256"],
            exporter=found["exporter"],
        )


def _three_numbers(text: str) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in json.loads(text))
    return (red, green, blue)


def read_metadata(path: Path) -> ModelMetadata:
    """Read what a file says of itself; neither the graph nor the weights are loaded.

    Args:
        path: .onnx file.

    Raises:
        OnnxFileError: there is no such file, it is cut short, it is no ONNX file or not one of ours.
    """
    try:
        return ModelMetadata.from_properties(read_properties(path))
    except OSError as error:
        raise OnnxFileError(f"{path} cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise OnnxFileError(f"{path}: {error}; write it again with {command(path)}") from None


def command(path: Path) -> str:
    """The command that writes `path` again, as far as its name tells."""
    found = re.fullmatch(r"sam_(.+?)_(?:encoder|decoder|decoder_standard)\.onnx", path.name)
    return f"python convert_model.py --model-type {found[1] if found else 'TYPE'} --force"


def read_properties(path: Path) -> dict[str, str]:
    """The metadata_props of an ONNX file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is cut short or no ONNX file.
    """
    size = path.stat().st_size
    properties: dict[str, str] = {}
    graphs = 0
    with path.open("rb") as file:
        for field, start, length in _fields(file, 0, size):
            graphs += field == GRAPH_FIELD
            if field == METADATA_FIELD and length <= ENTRY_BYTES:
                entry = dict.fromkeys((1, 2), "")
                for key, value_start, value_length in _fields(file, start, start + length):
                    file.seek(value_start)
                    entry[key] = file.read(value_length).decode()
                properties[entry[1]] = entry[2]
                file.seek(start + length)
    if graphs != 1:
        raise ValueError("it is not an ONNX file, or cut short")
    return properties


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, length) of each length-delimited field of the protobuf message in bytes start to end."""
    position = start
    while position < end:
        file.seek(position)
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if wire == WIRE_VARINT:
            _varint(file)
            position = file.tell()
        elif wire in (WIRE_FIXED32, WIRE_FIXED64):
            position = file.tell() + (4 if wire == WIRE_FIXED32 else 8)
        elif wire == WIRE_BYTES:
            length = _varint(file)
            value = file.tell()
            position = value + length
            if position <= end:
                yield number, value, length
        else:
            raise ValueError("it is not an ONNX file")
    if position > end:
        raise ValueError("it is cut short")


def _varint(file: BinaryIO) -> int:
    value = 0
    for index in range(VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise ValueError("it is cut short")
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:
            return value
    raise ValueError("it is not an ONNX file")
