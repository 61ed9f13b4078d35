"""Two thousand requests made from the server's own description: every answer is one that it describes."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.servers import ROOT, Running, environment
from tests.onnx_backend.small_model import SMALL, save_checkpoint
from tests.openapi.generate import Outcome, run
from tests.serving import free_port

LEAST = 2_000
# A tenth more than is asked for: how many follow from a job depends on how far it was when it was asked about.
EXAMPLES = 50
SEED = 8
PATIENCE = 600
OPERATIONS = {
    *("GET /health", "GET /ready", "GET /backend_info", "GET /metrics"),
    *("POST /sessions", "GET /sessions", "DELETE /sessions", "POST /segment"),
    *("POST /generate_masks", "POST /group_masks", "POST /mask_sets", "GET /mask_sets"),
    *("GET /jobs", "DELETE /jobs"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The real server on a real network, small and with random weights."""
    checkpoint = tmp_path_factory.mktemp("model") / "sam_vit_b.safetensors"
    save_checkpoint(checkpoint, replace(SMALL, name="vit_b"))
    port, log = free_port(), checkpoint.with_name("log")
    files = {"SAM_MODEL_TYPE": "vit_b", "SAM_MODEL_DIR": str(checkpoint.parent), "SAM_ONNX_DIR": str(checkpoint.parent)}
    command = [sys.executable, "-m", "tests.faults.small_server", str(checkpoint)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--config", "gunicorn.conf.py", "app:app"],
            cwd=ROOT,
            env=environment(SAM_PORT=str(port), **files),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    running = Running(process, port, Path(log))
    running.wait_until_ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def outcome(server: Running) -> Outcome:
    """What the run found; requests that follow from no answer are the same for the same seed and description."""
    found = run(server.url, EXAMPLES, SEED, PATIENCE)
    print(f"\n{found.table()}")
    return found


@pytest.mark.timeout(PATIENCE + 60)
def test_every_answer_is_as_described(server: Running, outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.text[-20_000:]
    assert "Traceback" not in server.log.read_text()


def test_there_were_enough_requests(outcome: Outcome) -> None:
    assert outcome.total >= LEAST


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_every_operation_was_also_asked_something_it_could_do(outcome: Outcome, operation: str) -> None:
    """Without real ids and pictures every answer would be an error, and each of those as described."""
    assert any(200 <= status < 300 for status in outcome.requests[operation])


@pytest.mark.parametrize("status", [200, 201, 202, 204, 400, 404, 405, 410, 415, 422])
def test_status_was_reached(outcome: Outcome, status: int) -> None:
    assert any(status in counts for counts in outcome.requests.values())


def test_no_answer_was_a_mistake_of_the_server(outcome: Outcome) -> None:
    assert {status for counts in outcome.requests.values() for status in counts if status >= 500} <= {503}
