"""The graphs: their signatures, their numbers in every precision, and what does not stand in them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import convert_to_onnx
from convert_to_onnx import ExportOptions, export_checkpoint
from sam_server import transforms
from sam_server.backend import PreparedImage
from sam_server.network import export
from sam_server.onnx.engines import CPU_PROVIDER, OpenVinoEngine
from sam_server.onnx.files import part_path
from sam_server.onnx.metadata import DECODER, ENCODER, PARTS, STANDARD_DECODER, read_metadata
from tests.exported import ExportedModel
from tests.onnx_backend.small_model import SMALL, save_checkpoint
from tests.reference.pictures import photographs

ROUNDING = 1e-5


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=[CPU_PROVIDER])


@pytest.fixture
def export_encoder(small_model: ExportedModel, tmp_path: Path) -> Callable[..., onnxruntime.InferenceSession]:
    """Exports the encoder of the small model with other options, and loads it."""

    def encoder(**options: Any) -> onnxruntime.InferenceSession:
        chosen = ExportOptions(what="encoder", **options)
        written = export_checkpoint(small_model.checkpoint, SMALL, tmp_path, chosen, small_model.sha256)
        assert read_metadata(written[0]).precision == chosen.precision
        return session(written[0])

    return encoder


def encoded(small_model: ExportedModel, pictures: np.ndarray) -> np.ndarray:
    """(B, C, E, E) by the plain export."""
    found: np.ndarray = session(part_path(small_model.onnx_dir, "small", ENCODER)).run(None, {"image": pictures})[0]
    return found


def prepared(name: str) -> PreparedImage:
    return transforms.prepare(photographs()[name], SMALL.image_size)


def test_signature_of_the_encoder(small_model: ExportedModel) -> None:
    loaded = session(part_path(small_model.onnx_dir, "small", ENCODER))
    assert [(value.name, value.shape) for value in loaded.get_inputs()] == [("image", ["batch", 3, 128, 128])]
    assert [(value.name, value.shape) for value in loaded.get_outputs()] == [("image_embeddings", ["batch", 32, 8, 8])]


def test_signature_of_the_standard_decoder(small_model: ExportedModel) -> None:
    """As segment_anything/utils/onnx.py has it, with a dynamic number of prompts besides."""
    loaded = session(part_path(small_model.onnx_dir, "small", STANDARD_DECODER))
    assert {value.name: (value.type, value.shape) for value in loaded.get_inputs()} == {
        "image_embeddings": ("tensor(float)", [1, 32, 8, 8]),
        "point_coords": ("tensor(float)", ["prompts", "points", 2]),
        "point_labels": ("tensor(float)", ["prompts", "points"]),
        "mask_input": ("tensor(float)", [1, 1, 32, 32]),
        "has_mask_input": ("tensor(float)", [1]),
        "orig_im_size": ("tensor(float)", [2]),
    }
    assert [value.name for value in loaded.get_outputs()] == ["masks", "iou_predictions", "low_res_masks"]


def test_metadata(small_model: ExportedModel) -> None:
    for part in PARTS:
        metadata = read_metadata(part_path(small_model.onnx_dir, "small", part))
        assert (metadata.part, metadata.spec, metadata.precision) == (part, SMALL.spec, "fp32")
        assert metadata.checkpoint_sha256 == small_model.sha256
        assert f"torch {torch.__version__}" in metadata.exporter


def test_nothing_of_the_machine_stands_in_the_files(small_model: ExportedModel) -> None:
    """The exporter of torch writes stack traces into the graph unless they are taken out."""
    root = str(Path(convert_to_onnx.__file__).parent).encode()
    for path in small_model.onnx_dir.glob("*.onnx"):
        content = path.read_bytes()
        assert root not in content
        assert b"image_encoder_vit.py" not in content


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batch_of_pictures(small_model: ExportedModel, count: int) -> None:
    pictures = np.random.default_rng(count).normal(size=(count, 3, 128, 128)).astype(np.float32)
    (found,) = session(part_path(small_model.onnx_dir, "small", ENCODER)).run(None, {"image": pictures})
    backend = small_model.pytorch()
    with torch.inference_mode():
        expected = backend._sam.encode(torch.from_numpy(pictures)).numpy()
    assert relative(found, expected) <= ROUNDING


def test_bytes_encode_as_floats_do(
    small_model: ExportedModel, export_encoder: Callable[..., onnxruntime.InferenceSession]
) -> None:
    """Normalised and padded in the graph, for every shape that a resized picture can have."""
    takes_bytes = export_encoder(encoder_input="uint8")
    for name in photographs():
        image = prepared(name)
        (found,) = takes_bytes.run(None, {"image": image.pixels[None]})
        expected = encoded(small_model, transforms.normalise_and_pad(image, SMALL.spec)[None])
        assert relative(found, expected) <= ROUNDING, name


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 5e-3), ("int8", 2e-2)])
def test_precisions(
    small_model: ExportedModel,
    export_encoder: Callable[..., onnxruntime.InferenceSession],
    tmp_path: Path,
    precision: str,
    limit: float,
) -> None:
    pictures = transforms.normalise_and_pad(prepared("square"), SMALL.spec)[None]
    (found,) = export_encoder(precision=precision).run(None, {"image": pictures})
    assert 1e-6 < relative(found, encoded(small_model, pictures)) <= limit
    wide, narrow = (part_path(path, "small", ENCODER).stat().st_size for path in (small_model.onnx_dir, tmp_path))
    assert narrow < wide


def test_weights_beside_the_graph(
    small_model: ExportedModel,
    export_encoder: Callable[..., onnxruntime.InferenceSession],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What large encoders need: a ViT-H above the 2 GB of a protobuf, a smaller one to be mapped and not copied."""
    monkeypatch.setattr(export, "EXTERNAL_BYTES", 1000)
    pictures = transforms.normalise_and_pad(prepared("square"), SMALL.spec)[None]
    (found,) = export_encoder().run(None, {"image": pictures})
    assert {path.name for path in tmp_path.glob("*.onnx*")} == {"sam_small_encoder.onnx", "sam_small_encoder.onnx.data"}
    np.testing.assert_array_equal(found, encoded(small_model, pictures))
    engine = OpenVinoEngine(part_path(tmp_path, "small", ENCODER), "fp32", threads=1)
    for _ in range(2):  # the weights' pages were let go after loading; what is computed does not change by it
        (found,) = engine.run({"image": pictures})
        assert relative(found, encoded(small_model, pictures)) <= ROUNDING


def test_opset_is_that_asked_for(
    small_model: ExportedModel, export_encoder: Callable[..., onnxruntime.InferenceSession], tmp_path: Path
) -> None:
    pictures = transforms.normalise_and_pad(prepared("square"), SMALL.spec)[None]
    (found,) = export_encoder(opset=20).run(None, {"image": pictures})
    assert relative(found, encoded(small_model, pictures)) <= ROUNDING
    versions = {entry.domain: entry.version for entry in onnx.load(tmp_path / "sam_small_encoder.onnx").opset_import}
    assert versions[""] == 20


def test_old_opset_is_refused(small_model: ExportedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="opset 17 is too old; 20 is the oldest"):
        export_checkpoint(small_model.checkpoint, SMALL, tmp_path, ExportOptions(opset=17), small_model.sha256)


def test_what_is_not_traced_together_is_refused(small_model: ExportedModel, tmp_path: Path) -> None:
    metadata = [read_metadata(part_path(small_model.onnx_dir, "small", part)) for part in (ENCODER, DECODER)]
    files = {tmp_path / f"{each.part}.onnx": each for each in metadata}
    with pytest.raises(ValueError, match="'decoder' in fp32 is not traced with 'encoder' in fp32"):
        export.export_parts(small_model.pytorch()._sam, files)
    assert not list(tmp_path.iterdir())


def test_command_line(small_model: ExportedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "onnx"
    arguments = ["--checkpoint", str(small_model.checkpoint), "--output-dir", str(output), "--what", "encoder"]
    convert_to_onnx.main(arguments)
    assert read_metadata(output / "sam_small_encoder.onnx").checkpoint_sha256 == small_model.sha256
    assert str(output / "sam_small_encoder.onnx") in capsys.readouterr().out


def test_command_line_says_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_checkpoint(tmp_path / "model" / "weights.safetensors", SMALL)
    (checkpoint.parent / "config.json").write_text(replace(SMALL, depth=3, name="deeper").to_json())
    with pytest.raises(SystemExit, match="1"):
        convert_to_onnx.main(["--checkpoint", str(checkpoint), "--output-dir", str(tmp_path / "onnx")])
    assert "weights do not fit model type deeper: missing" in capsys.readouterr().err
    assert not list((tmp_path / "onnx").glob("*.onnx*"))
