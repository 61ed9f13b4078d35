"""The standard decoder against the definition that other people's software follows: segment_anything/utils/onnx.py."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from sam_server.checkpoints.load import load_state_dict
from sam_server.onnx.engines import CPU_PROVIDER
from sam_server.onnx.files import part_path
from sam_server.onnx.metadata import STANDARD_DECODER
from tests.exported import ExportedModel, exported_small
from tests.onnx_backend.small_model import SMALL
from tests.reference.reference_models import reference_sam

ROUNDING = 1e-4
CELLS, CHANNELS, LOW_RES = SMALL.spec.embedding_size, SMALL.embedding_channels, SMALL.spec.low_res_size


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return exported_small(tmp_path_factory, SMALL)


@pytest.fixture(scope="module")
def decoder(model: ExportedModel) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(part_path(model.onnx_dir, "small", STANDARD_DECODER), providers=[CPU_PROVIDER])


@pytest.fixture(scope="module")
def definition(model: ExportedModel) -> nn.Module:
    from segment_anything.utils.onnx import SamOnnxModel  # importable with what reference_models supplies

    return SamOnnxModel(reference_sam(SMALL, load_state_dict(model.checkpoint)), return_single_mask=False)


@pytest.mark.parametrize("size", [(300, 451), (600, 400), (31, 640), (40, 30), (128, 128), (1100, 1500)])
@pytest.mark.parametrize(
    ("labels", "has_mask"), [([1, -1], 0), ([0, -1], 1), ([1, 0, 1, -1], 0), ([2, 3], 0), ([1, 2, 3], 1)]
)
def test_same_as_the_definition(
    decoder: onnxruntime.InferenceSession,
    definition: nn.Module,
    labels: list[int],
    has_mask: int,
    size: tuple[int, int],
) -> None:
    rng = np.random.default_rng(len(labels))
    inputs = {
        "image_embeddings": rng.normal(size=(1, CHANNELS, CELLS, CELLS)),
        "point_coords": rng.uniform(0, SMALL.image_size, (1, len(labels), 2)),
        "point_labels": np.array([labels]),
        "mask_input": rng.normal(0, 5, (1, 1, LOW_RES, LOW_RES)),
        "has_mask_input": np.array([has_mask]),
        "orig_im_size": np.array(size),
    }
    inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
    expected = definition(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    found = decoder.run(None, inputs)
    assert found[0].shape == (1, 4, *size)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == tuple(other.shape)
        assert np.abs(one - other.numpy()).max() <= ROUNDING * np.abs(other.numpy()).max()
