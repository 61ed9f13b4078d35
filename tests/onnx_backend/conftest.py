"""One small model for all tests of this room."""

import pytest

from tests.exported import ExportedModel, exported_small
from tests.onnx_backend.small_model import SMALL


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    """SMALL with random weights, exported."""
    return exported_small(tmp_path_factory, SMALL)
