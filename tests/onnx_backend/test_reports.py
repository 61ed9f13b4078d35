"""ONNX Runtime reports nothing to its makers, and keeps no identifier of the machine, wherever it is imported first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend_loader import TINY_DIR
from tests.source_files import ROOT, imported, library_files, parse

IMPORTERS = [name for name in library_files() if "onnxruntime" in imported(parse(name))]

# Variables of build servers, where it reports nothing of its own accord.
REPORTS_NOTHING = ("CI", "GITHUB_ACTIONS", "TF_BUILD")

# Version 1.32 leaves three files where its reports are not turned off: an identifier, what it means to send, a session.
RUN = """
import sys
{before}
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
assert session.get_outputs()
"""


def files_left(directory: Path, before: str) -> list[str]:
    """What a process leaves in its home and its directory for temporary files."""
    left_out = ("ORT_", "SAM_", "XDG_", *REPORTS_NOTHING)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    home, scratch = directory / "home", directory / "scratch"
    home.mkdir()
    scratch.mkdir()
    kept |= {"HOME": str(home), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", RUN.format(before=before), str(TINY_DIR / "sam_tiny_decoder.onnx")]
    subprocess.run(command, cwd=ROOT, env=kept, check=True)
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", [*IMPORTERS, "onnx_sam_wrapper.py", "app.py"])
def test_nothing_is_kept_for_a_report(tmp_path: Path, name: str) -> None:
    module = name.removesuffix(".py").replace("/", ".")
    assert files_left(tmp_path, f"import {module}") == []
