"""What stands in a file, read without a model: against the onnx package, and out of broken files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from sam_server.backend import ModelSpec
from sam_server.onnx.metadata import FORMAT, ModelMetadata, OnnxFileError, read_metadata, read_properties

METADATA = ModelMetadata(
    part="encoder",
    spec=ModelSpec("vit_b", pixel_mean=(1.5, 2.25, 3.0)),
    precision="fp16",
    encoder_input="uint8",
    checkpoint_sha256="ab" * 32,
    exporter="a name, with a version",
)


def make_file(path: Path, properties: dict[str, str]) -> Path:
    """A graph with weights and metadata."""
    weight = numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [300])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [300])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "graph", [value], [out], [weight])
    model = helper.make_model(graph, producer_name="test", doc_string="of a test")
    helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_file(tmp_path / "sam_vit_b_encoder.onnx", {"of_another_tool": "1", **METADATA.to_properties()})


def test_comes_back_as_it_was(file: Path) -> None:
    assert read_metadata(file) == METADATA


def test_reads_what_the_onnx_package_reads(file: Path) -> None:
    expected = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert read_properties(file) == expected
    assert expected["of_another_tool"] == "1"


def test_every_shortened_file_is_refused(file: Path) -> None:
    """Cut anywhere: either the end is missing, or what is missing is metadata that is asked for."""
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(OnnxFileError, match=r"sam_vit_b_encoder\.onnx.*--model-type vit_b --force"):
            read_metadata(file)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "sam_vit_b_encoder.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError):
        read_metadata(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(OnnxFileError, match="No such file"):
        read_metadata(tmp_path / "sam_vit_b_encoder.onnx")


def test_file_of_another_tool(tmp_path: Path) -> None:
    with pytest.raises(OnnxFileError, match=r"not written by convert_model\.py"):
        read_metadata(make_file(tmp_path / "encoder.onnx", {"model_type": "vit_b"}))


@pytest.mark.parametrize("format", [0, FORMAT + 1])
def test_another_format(tmp_path: Path, format: int) -> None:
    properties = replace(METADATA, format=format).to_properties()
    with pytest.raises(OnnxFileError, match=f"its format is {format}, this version reads {FORMAT}"):
        read_metadata(make_file(tmp_path / "sam_vit_b_encoder.onnx", properties))


@pytest.mark.parametrize("key", sorted(METADATA.to_properties()))
def test_every_entry_is_needed(tmp_path: Path, key: str) -> None:
    properties = METADATA.to_properties()
    del properties[key]
    with pytest.raises(OnnxFileError, match=r"its metadata has no|its format is None"):
        read_metadata(make_file(tmp_path / "sam_vit_b_encoder.onnx", properties))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", "large"),
        ("mask_threshold", ""),
        ("pixel_mean", "[1, 2]"),
        ("pixel_std", "1"),
        ("pixel_std", "{"),
        ("part", "neck"),
        ("precision", "fp8"),
        ("encoder_input", "jpeg"),
    ],
)
def test_every_value_is_checked(tmp_path: Path, key: str, value: str) -> None:
    properties = METADATA.to_properties() | {f"sam_server.{key}": value}
    with pytest.raises(OnnxFileError, match=r"damaged|do not exist|does not exist"):
        read_metadata(make_file(tmp_path / "sam_vit_b_encoder.onnx", properties))
