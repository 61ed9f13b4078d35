"""script/bootstrap, with a pip that only says what it was asked for: which requirements, and when again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDING_PIP = "import sys; print('pip', *sys.argv[1:])"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The script and the requirements, with a virtual environment whose pip is a recorder."""
    directory = tmp_path / "clone"
    (directory / "script").mkdir(parents=True)
    shutil.copy2(ROOT / "script" / "bootstrap", directory / "script")
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy2(path, directory)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / ".venv"], check=True)
    package = next((directory / ".venv").glob("lib/python*/site-packages")) / "pip"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(RECORDING_PIP)
    (directory / ".venv" / "bin" / "pip").write_text("#!/bin/sh\n")
    (directory / ".venv" / "bin" / "pip").chmod(0o755)
    return directory


def bootstrap(clone: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["script/bootstrap", *arguments],
        cwd=clone,
        env={"PATH": no_driver(clone), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def no_driver(clone: Path) -> str:
    """A PATH on which an nvidia-smi fails, as it does without a driver."""
    return put_nvidia_smi(clone, 9)


def put_nvidia_smi(clone: Path, status: int) -> str:
    directory = clone / f"driver-{status}"
    directory.mkdir(exist_ok=True)
    (directory / "nvidia-smi").write_text(f"#!/bin/sh\nexit {status}\n")
    (directory / "nvidia-smi").chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


def installed(answer: "subprocess.CompletedProcess[str]") -> list[str]:
    """The requirements files that pip was given."""
    assert answer.returncode == 0, answer.stderr
    words = [word for line in answer.stdout.splitlines() if line.startswith("pip ") for word in line.split()]
    return [word for word in words if word.startswith("requirements")]


def test_second_run_installs_nothing(clone: Path) -> None:
    assert installed(bootstrap(clone)) == ["requirements.txt"]
    again = bootstrap(clone)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_dev_adds_to_the_server(clone: Path) -> None:
    assert installed(bootstrap(clone)) == ["requirements.txt"]
    assert installed(bootstrap(clone, "--dev")) == ["requirements-dev.txt"]
    assert installed(bootstrap(clone)) == []
    assert installed(bootstrap(clone, "--dev")) == []


def test_changed_requirements_are_installed(clone: Path) -> None:
    bootstrap(clone, "--dev")
    with (clone / "requirements-base.txt").open("a") as file:
        file.write("another-package\n")
    assert installed(bootstrap(clone, "--dev")) == ["requirements.txt", "requirements-dev.txt"]


def test_driver_that_answers_takes_the_gpu_requirements(clone: Path) -> None:
    assert installed(bootstrap(clone, PATH=put_nvidia_smi(clone, 0))) == ["requirements-gpu.txt"]


def test_requirements_by_name(clone: Path) -> None:
    assert installed(bootstrap(clone, REQUIREMENTS="requirements-onnx.txt")) == ["requirements-onnx.txt"]
    answer = bootstrap(clone, REQUIREMENTS="requirements-none.txt")
    assert answer.returncode == 1
    assert "there is no requirements-none.txt" in answer.stderr


def test_failed_install_is_tried_again(clone: Path) -> None:
    main = next((clone / ".venv").glob("lib/python*/site-packages/pip/__main__.py"))
    main.write_text("raise SystemExit(1)")
    assert bootstrap(clone).returncode == 1
    main.write_text(RECORDING_PIP)
    assert installed(bootstrap(clone)) == ["requirements.txt"]


def test_unknown_argument(clone: Path) -> None:
    answer = bootstrap(clone, "--devel")
    assert answer.returncode == 1
    assert "unknown argument --devel" in answer.stderr


def test_old_python_is_named(clone: Path) -> None:
    shutil.rmtree(clone / ".venv")
    answer = bootstrap(clone, PYTHON="false")
    assert answer.returncode == 1
    assert "Python 3.11 or later is needed" in answer.stderr
    assert not (clone / ".venv").exists()


def test_environment_is_made(clone: Path) -> None:
    answer = bootstrap(clone, VENV="elsewhere", PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert "Making elsewhere with Python 3" in answer.stdout
    assert answer.returncode == 1  # without an index the real pip finds nothing
    assert (clone / "elsewhere" / "bin" / "python").exists()
