"""For all tests: what takes longest begins first, and a file answers for what it leaves open."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import sam_server  # noqa: F401 - before any test imports ONNX Runtime: its reports are off from here on

# A busy machine is slow, which is no failure.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Files that take half a minute and more, the longest first. A file stays in one worker: were one of these begun last,
# the other workers would wait for it. The first three export nothing that another of them waits for.
LONG = (
    "onnx_backend/test_agreement.py",
    "reference/test_automatic.py",
    "openapi/test_conformance.py",
    "test_docs.py",
    "reference/test_samexporter.py",
    "onnx_backend/test_convert_model.py",
    "training/test_trainer.py",
    "automatic/test_large_pictures.py",
    "benchmarks/test_benchmark.py",
    "reference/test_vit_b.py",
    "onnx_backend/test_vit_b.py",
    "training/test_droplet_count.py",
    "onnx_backend/test_without_torch.py",
    "test_coins.py",
    "onnx_backend/test_export.py",
    "training/test_evaluate.py",
    "test_app.py",
    "training/test_finetune.py",
    "reference/test_checkpoints.py",
    "web/test_gunicorn.py",
    "benchmarks/test_load.py",
    "faults/test_kill.py",
    "faults/test_slow_clients.py",
    "shared/test_workers.py",
    "test_pytorch_sam_wrapper.py",
    "shared/test_two_servers.py",
    "page/test_groups.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of LONG first.

    Raises:
        UsageError: LONG names a file that is not there.
    """
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONG)}
    if missing := [str(path) for path in place if not path.exists()]:
        raise pytest.UsageError(f"tests/conftest.py names files that are not there: {', '.join(missing)}")
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


@pytest.fixture(scope="module", autouse=True)
def own_garbage() -> Iterator[None]:
    """A socket or a file that was left open is a warning when it is collected, which fails the test of that moment.

    Collected here, it fails its own file, and not a test of another that allocates much.
    """
    yield
    gc.collect()
