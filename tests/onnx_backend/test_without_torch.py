"""A server of ONNX files where torch is not: in a process that may not import it, and in an environment without it."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.exported import ExportedModel, exported_tiny

ROOT = Path(__file__).resolve().parents[2]

# What an import of torch would do; that of anything else is left alone.
FORBID_TORCH = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Forbid())
"""

# From the start of the process to the answer for a click, as a client sees it.
SERVE = """
import time
start = time.perf_counter()
import io, json
from PIL import Image
from skimage import data
from app import create_app
client = create_app().test_client()
while client.get("/ready").status_code != 200:
    assert time.perf_counter() - start < 120, client.get("/ready").text
    time.sleep(0.01)
print(f"ready after {time.perf_counter() - start:.2f} s")
picture = io.BytesIO()
Image.fromarray(data.coffee()).save(picture, "PNG")
session = client.post("/sessions", data=picture.getvalue(), content_type="image/png").get_json()
answer = client.post("/segment", json={"session_id": session["session_id"], "points": [[300, 200]]})
assert answer.status_code == 200, answer.text
info = client.get("/backend_info").get_json()
assert info["backend"] == "onnx", info
assert info["pytorch_available"] is False, info
assert "torch" not in sys.modules
print(json.dumps(info))
"""


def environment(small_model: ExportedModel) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SAM_", "PYTHON"))}
    return clean | {
        "SAM_BACKEND": "onnx",
        "SAM_MODEL_TYPE": "tiny",
        "SAM_ONNX_DIR": str(small_model.onnx_dir),
        "SAM_USE_GPU": "false",
        "SAM_STRICT": "true",
        "SAM_OFFLINE": "true",
    }


def run(python: Path | str, code: str, small_model: ExportedModel) -> str:
    answer = subprocess.run(
        [python, "-c", code], cwd=ROOT, env=environment(small_model), capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    """The model that ships, as ONNX files."""
    return exported_tiny(tmp_path_factory)


@pytest.fixture(scope="session")
def python_without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment with requirements-onnx.txt."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*install, "-r", ROOT / "requirements-onnx.txt"], check=True)
    return python


def test_in_a_process_that_may_not_import_torch(tiny_files: ExportedModel) -> None:
    # The loader asks for the package before it imports: it must be gone for that question too.
    hide = "import importlib.util\nfind = importlib.util.find_spec\n"
    hide += "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
    printed = run(sys.executable, FORBID_TORCH + hide + SERVE, tiny_files)
    assert '"model_type": "tiny"' in printed


@pytest.mark.timeout(900)
def test_in_an_environment_without_torch(python_without_torch: Path, tiny_files: ExportedModel) -> None:
    missing = "import importlib.util; print(importlib.util.find_spec('torch'), importlib.util.find_spec('onnx'))"
    assert run(python_without_torch, missing, tiny_files).split() == ["None", "None"]
    printed = run(python_without_torch, "import sys\n" + SERVE, tiny_files)
    print(re.search("ready after .*", printed)[0])  # type: ignore[index]
    assert '"engine": "openvino' in printed
