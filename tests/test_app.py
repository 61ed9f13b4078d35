"""The server as it is started: the application factory, gunicorn, and python app.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data

import app as root
from pytorch_sam_wrapper import PyTorchSam
from sam_config import ConfigError, SamConfig, load_config
from sam_server.network.sam import Sam
from sam_server.network.variants import VARIANTS
from tests.serving import free_port

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
START = {
    "gunicorn": [str(BIN / "gunicorn"), "--config", "gunicorn.conf.py", "app:app"],
    "python": [sys.executable, "app.py"],
}


# What takes as long to import as the rest of a start, and what few requests need, or none.
LATER = ("sklearn", "openpyxl", "torch._dynamo")
CLICK = """
import sys
import numpy as np
import app
from backend_loader import TINY_DIR
from pytorch_sam_wrapper import load_pytorch_sam
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt
predictor = Predictor(load_pytorch_sam(TINY_DIR / "sam_tiny.safetensors", use_gpu=False))
predictor.predict(predictor.encode(np.zeros((64, 64, 3), np.uint8)), [make_prompt([(3, 4)])])
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def sam() -> Sam:
    """The tiny model with random weights."""
    torch.manual_seed(0)
    return Sam(VARIANTS["tiny"])


@pytest.fixture(scope="module")
def checkpoint(sam, tmp_path_factory) -> Path:
    """Its weights as a file."""
    path = tmp_path_factory.mktemp("model") / "sam_tiny.safetensors"
    save_file(sam.state_dict(), path)
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[subprocess.Popen, str]]]:
    """Starts the server as a process of its own on a free port."""
    processes = []

    def run(command: str, **settings: str) -> tuple[subprocess.Popen, str]:
        port = free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SAM_")}
        env = {**kept, "SAM_PORT": str(port), "SAM_OFFLINE": "true", "SAM_INTRA_OP_THREADS": "1", **settings}
        process = subprocess.Popen(
            START[command], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
        return process, f"http://127.0.0.1:{port}"

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(url: str, process: subprocess.Popen) -> requests.Response:
    """The first answer of a server that is starting, once it is not 503."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            answer = requests.get(url, timeout=10)
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.05)
            continue
        if answer.status_code != 503:
            return answer
        time.sleep(0.05)
    raise TimeoutError(url)


def test_a_plain_import_loads_nothing():
    code = "import app, sys; sys.exit('torch' in sys.modules or 'app' in vars(app))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(AttributeError):
        root.nothing  # noqa: B018


def test_a_backend_can_be_given(sam):
    backend = PyTorchSam(sam, torch.device("cpu"), "fp32")
    client = root.create_app(SamConfig(model_type="tiny"), backend).test_client()
    info = client.get("/backend_info").json
    assert (info["backend"], info["model_type"], info["requested_model_type"]) == ("pytorch", "tiny", "tiny")
    assert (info["pytorch_available"], info["onnx_available"]) == (True, True)


def test_settings_reach_the_server(sam):
    config = SamConfig(
        model_type="tiny", max_upload_bytes=5_000, max_prompts=2, cache_bytes=7 << 20, api_keys=("key",), max_points=3
    )
    client = root.create_app(config, PyTorchSam(sam, torch.device("cpu"), "fp32")).test_client()
    head = {"X-API-Key": "key"}
    assert client.get("/backend_info").status_code == 401
    assert client.get("/backend_info", headers=head).json["cache"]["budget_bytes"] == 7 << 20
    answer = client.post("/sessions", data=bytes(6_000), content_type="image/png", headers=head)
    assert (answer.status_code, answer.json["code"]) == (413, "image_too_large")
    answer = client.post("/segment", json={"session_id": "x", "prompts": [{"box": [1, 1, 2, 2]}] * 3}, headers=head)
    assert answer.json["code"] == "too_many_prompts"
    answer = client.post("/segment", json={"session_id": "x", "points": [[1, 1]] * 4}, headers=head)
    assert answer.json["code"] == "too_many_points"


def test_a_model_that_is_not_there_is_told(tmp_path):
    config = SamConfig(offline=True, strict=True, model_type="vit_b", model_dir=tmp_path, onnx_dir=tmp_path)
    told: list[str] = []
    client = root.create_app(config, on_failure=told.append).test_client()
    deadline = time.monotonic() + 30
    while not told:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "vit_b" in told[0]
    answer = client.get("/ready")
    assert (answer.status_code, answer.json["code"]) == (503, "model_failed")


def test_a_bad_setting_is_refused():
    with pytest.raises(ConfigError, match="SAM_PORT"):
        load_config({"SAM_PORT": "many"}, None)


@pytest.mark.parametrize("command", START)
def test_the_server_segments_a_picture_and_stops_when_asked(start, command, checkpoint, tmp_path):
    process, url = start(command, SAM_CHECKPOINT=str(checkpoint), SAM_MODEL_TYPE="tiny")
    assert wait_for(f"{url}/health", process).status_code == 200
    assert wait_for(f"{url}/ready", process).json()["model_type"] == "tiny"
    picture = tmp_path / "coins.png"
    Image.fromarray(data.coins()).save(picture)
    with picture.open("rb") as file:
        answer = requests.post(f"{url}/sessions", files={"image": file}, timeout=60)
    assert answer.status_code == 201, answer.text
    fields = {"session_id": answer.json()["session_id"], "points": [[120, 80]]}
    answer = requests.post(f"{url}/segment", json=fields, timeout=60)
    assert len(answer.json()["results"][0]["masks"]) == 3
    search = {"session_id": fields["session_id"], "points_per_side": 200}
    answer = requests.post(f"{url}/generate_masks", json=search, headers={"Prefer": "respond-async"}, timeout=60)
    assert answer.status_code == 202, answer.text
    process.send_signal(signal.SIGTERM if command == "gunicorn" else signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "serving tiny with torch" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("command", START)
def test_a_client_that_leaves_stops_its_search(start, command, checkpoint, tmp_path):
    process, url = start(command, SAM_CHECKPOINT=str(checkpoint), SAM_MODEL_TYPE="tiny")
    wait_for(f"{url}/ready", process)
    picture = tmp_path / "coins.png"
    Image.fromarray(data.coins()).save(picture)
    form = {"points_per_side": "200", "pred_iou_thresh": "0"}
    with picture.open("rb") as file, pytest.raises(requests.ReadTimeout):
        requests.post(f"{url}/generate_masks", files={"image": file}, data=form, timeout=3)
    deadline = time.monotonic() + 60
    while (jobs := requests.get(f"{url}/backend_info", timeout=30).json()["jobs"]) != {"cancelled": 1}:
        assert jobs in ({}, {"running": 1})
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("command", START)
def test_a_server_without_a_model_ends_with_a_clear_line(start, command, tmp_path):
    process, _ = start(
        command, SAM_MODEL_TYPE="vit_b", SAM_STRICT="true", SAM_MODEL_DIR=str(tmp_path), SAM_ONNX_DIR=str(tmp_path)
    )
    output, _ = process.communicate(timeout=200)
    assert process.returncode == root.EXIT_NO_MODEL
    lines = [line for line in output.splitlines() if "the model could not be loaded" in line]
    assert len(lines) == 1
    assert "vit_b" in lines[0]
    assert "Traceback" not in output


@pytest.mark.parametrize("command", START)
def test_a_server_with_a_bad_setting_ends_with_one_line(start, command):
    process, _ = start(command, SAM_USE_GPU="perhaps")
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.splitlines() == ["SAM_USE_GPU='perhaps' is not valid; options: true, false"]


def test_a_start_does_not_wait_for_what_few_ask_for():
    done = subprocess.run([sys.executable, "-c", CLICK], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert "torch" in imported
    assert not set(LATER) & set(imported)
