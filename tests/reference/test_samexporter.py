"""Another project's inference module, unchanged from PyPI, reads our files and gives our server's masks."""

import importlib
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from onnx_sam_wrapper import load_onnx_sam
from sam_server.network.variants import SamVariant
from sam_server.onnx.engines import CPU_PROVIDER
from sam_server.onnx.files import part_path
from sam_server.onnx.metadata import ENCODER, STANDARD_DECODER
from sam_server.predictor import Predictor
from sam_server.prompts import PromptBatch, make_prompt
from sam_server.transforms import to_input_coords
from tests.exported import exported_small
from tests.reference.pictures import photographs

# samexporter pins versions of torch and OpenCV that are not ours, and needs neither to read files; so it is installed
# without what it names, but for the two packages that its tokenizer imports.
PACKAGES = ("samexporter==0.5.0", "ftfy==6.3.1", "wcwidth", "regex")

# OpenCV, by which it resizes masks, rounds otherwise than we do.
FLIPPED = 1e-3

# The official input and mask sizes, which samexporter has as constants; the rest is small.
OFFICIAL_SIZES = SamVariant(
    name="sizes", width=32, depth=2, heads=2, window=14, global_blocks=(1,), decoder_mlp=64, embedding_channels=64
)


@pytest.fixture(scope="session")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """samexporter.inference from PyPI."""
    directory = tmp_path_factory.mktemp("samexporter")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--target", str(directory), *PACKAGES], check=True)
    sys.path.insert(0, str(directory))
    yield importlib.import_module("samexporter.inference")
    sys.path.remove(str(directory))


@pytest.fixture(scope="module")
def onnx_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_small(tmp_path_factory, OFFICIAL_SIZES).onnx_dir


@pytest.mark.parametrize("picture", ["landscape", "portrait", "strip", "large"])
def test_same_masks(inference: ModuleType, onnx_dir: Path, tmp_path: Path, picture: str) -> None:
    files = (part_path(onnx_dir, OFFICIAL_SIZES.name, part) for part in (ENCODER, STANDARD_DECODER))
    arguments = dict(zip(("encoder_model", "decoder_model"), map(str, files), strict=True))
    model = inference.load_model(Namespace(sam_variant="sam", providers="cpu", **arguments))

    pixels = photographs()[picture]
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    embedding = model.encode(inference.cv2.imread(str(tmp_path / "picture.png")))

    ours = load_onnx_sam(onnx_dir, OFFICIAL_SIZES.name, [CPU_PROVIDER])
    predictor = Predictor(ours)
    encoded = predictor.encode(pixels)
    np.testing.assert_allclose(embedding["image_embedding"][0], ours.embedding_array(encoded), atol=1e-4)

    height, width = pixels.shape[:2]
    points = np.array([[0.4, 0.55], [0.7, 0.3]]) * [width, height]
    marks = [
        {"type": "point", "data": point.tolist(), "label": label} for point, label in zip(points, (1, 0), strict=True)
    ]
    found = model.predict_masks(embedding, marks)[0] > 0
    for multimask, rows in ((False, slice(0, 1)), (True, slice(1, 4))):
        expected = predictor.predict(encoded, [make_prompt(points, [1, 0])], multimask)[0].masks
        assert found[rows].shape == expected.shape
        assert (found[rows] != expected).mean() <= FLIPPED

    # A box gets a padding point there, which our prompts give to points alone.
    box = np.array([[0.2, 0.25], [0.75, 0.8]]) * [width, height]
    found = model.predict_masks(embedding, [{"type": "rectangle", "data": box.ravel().tolist()}])[0]
    coords = to_input_coords(np.concatenate([box, [[0, 0]]]), encoded.original_size, encoded.input_size)
    low_res = ours.decode(encoded, PromptBatch(coords[None].astype(np.float32), np.array([[2, 3, -1]])), True)
    padded = replace(
        predictor.predict(encoded, [make_prompt(box=box.ravel())])[0], logits=low_res.logits[0], iou=low_res.iou[0]
    )
    assert ((found[1:] > 0) != padded.masks).mean() <= FLIPPED
