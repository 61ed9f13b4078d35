"""Which files belong together, and how they come to be there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from sam_server.backend import ModelSpec
from sam_server.onnx.files import find_files, part_path
from sam_server.onnx.metadata import DECODER, ENCODER, PARTS, ModelMetadata, OnnxFileError
from sam_server.onnx.staging import publish, staging
from tests.onnx_backend.test_metadata import METADATA, make_file


def put(directory: Path, part: str, metadata: ModelMetadata = METADATA) -> Path:
    return make_file(part_path(directory, "vit_b", part), replace(metadata, part=part).to_properties())


@pytest.fixture
def both(tmp_path: Path) -> Path:
    for part in (ENCODER, DECODER):
        put(tmp_path, part)
    return tmp_path


def test_names() -> None:
    names = [part_path(Path(), "vit_h", part).name for part in PARTS]
    assert names == ["sam_vit_h_encoder.onnx", "sam_vit_h_decoder.onnx", "sam_vit_h_decoder_standard.onnx"]


def test_both_are_found(both: Path) -> None:
    files = find_files(both, "vit_b")
    assert (files.encoder_metadata, files.decoder_metadata) == (METADATA, replace(METADATA, part=DECODER))


@pytest.mark.parametrize("part", [ENCODER, DECODER])
def test_one_is_missing(both: Path, part: str) -> None:
    part_path(both, "vit_b", part).unlink()
    with pytest.raises(OnnxFileError, match=rf"{part}\.onnx is missing; write it with .*--model-type vit_b"):
        find_files(both, "vit_b")


@pytest.mark.parametrize("part", [ENCODER, DECODER])
def test_weights_beside_the_graph_are_missing(both: Path, part: str) -> None:
    path = part_path(both, "vit_b", part)
    data = path.with_name(f"{path.name}.data")
    graph = onnx.load(path)
    weights = onnx.numpy_helper.from_array(np.zeros(4096, np.float32), "weights")
    graph.graph.initializer.append(weights)
    onnx.save(graph, path, save_as_external_data=True, location=data.name)
    find_files(both, "vit_b")
    data.unlink()
    with pytest.raises(
        OnnxFileError, match=rf"{data.name} is missing beside .*: copy it too, or write both again with"
    ):
        find_files(both, "vit_b")


def test_another_model_inside(both: Path) -> None:
    put(both, DECODER, replace(METADATA, spec=ModelSpec("vit_l")))
    with pytest.raises(OnnxFileError, match="holds the decoder of vit_l, not what its name says"):
        find_files(both, "vit_b")


def test_another_part_inside(both: Path) -> None:
    part_path(both, "vit_b", DECODER).write_bytes(part_path(both, "vit_b", ENCODER).read_bytes())
    with pytest.raises(OnnxFileError, match="holds the encoder of vit_b"):
        find_files(both, "vit_b")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(METADATA, checkpoint_sha256="cd" * 32), "checkpoint sha256 is ab.* and cd"),
        (replace(METADATA, spec=replace(METADATA.spec, image_size=512)), "image_size=512"),
    ],
)
def test_of_different_checkpoints(both: Path, other: ModelMetadata, words: str) -> None:
    put(both, DECODER, other)
    with pytest.raises(OnnxFileError, match=f"do not belong together: .*{words}"):
        find_files(both, "vit_b")


def test_published_files_are_there(tmp_path: Path) -> None:
    with staging(tmp_path / "onnx") as stage:
        (stage / "a.onnx").write_text("graph")
        (stage / "a.onnx.data").write_text("weights")
        published = publish([stage / "a.onnx", stage / "a.onnx.data"], tmp_path / "onnx")
    assert [path.read_text() for path in published] == ["graph", "weights"]
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"a.onnx", "a.onnx.data", ".convert.lock"}


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("old")

    def fail() -> None:
        with staging(tmp_path) as stage:
            (stage / "a.onnx").write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", ".convert.lock"}
    assert (tmp_path / "a.onnx").read_text() == "old"


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".convert-abc"
    left.mkdir()
    (left / "a.onnx").write_text("half")
    with staging(tmp_path):
        assert not left.exists()


def test_weights_of_an_older_model_go_with_it(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.onnx.data", "b.onnx.data"):
        (tmp_path / name).write_text("old")
    with staging(tmp_path) as stage:
        (stage / "a.onnx").write_text("new")
        publish([stage / "a.onnx"], tmp_path)
    assert not (tmp_path / "a.onnx.data").exists()
    assert (tmp_path / "b.onnx.data").exists()


def test_a_graph_never_meets_the_weights_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off between the two moves, there is no graph."""
    for name in ("a.onnx", "a.onnx.data"):
        (tmp_path / name).write_text("old")
    moved = []

    def break_off(source: Path, target: Path) -> None:
        if moved:
            raise OSError("no power")
        moved.append(target)
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr("sam_server.onnx.staging.os.replace", break_off)
    with staging(tmp_path) as stage:
        for name in ("a.onnx", "a.onnx.data"):
            (stage / name).write_text("new")
        with pytest.raises(OSError, match="no power"):
            publish([stage / "a.onnx", stage / "a.onnx.data"], tmp_path)
    assert not (tmp_path / "a.onnx").exists()
    assert (tmp_path / "a.onnx.data").read_text() == "new"
