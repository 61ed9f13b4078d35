"""The Dockerfile, as far as reading it tells; script/build-root carries it out."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from werkzeug.serving import make_server as make_wsgi_server

from pytorch_sam_wrapper import PyTorchSam
from sam_config import SETTINGS
from sam_server.network.sam import Sam
from sam_server.network.variants import VARIANTS
from sam_server.web.application import make_app
from sam_server.web.model import BackendReport
from sam_server.web.state import Server, WebSettings, make_server
from tests.serving import serving

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("cuda", "cpu")
# Packages that a server without PyTorch must not have.
HEAVY = re.compile(r"torch|nvidia|cuda|triton|onnx$|onnx-|onnxscript|onnxruntime-gpu")


def copied(stage) -> list[tuple[str | None, list[str], str]]:
    """Its own COPY lines: stage that they copy from, sources, destination."""
    found = []
    for value in stage.values("COPY", inherited=False):
        words = value.split()
        origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        assert not words[0].startswith("--")
        found.append((origin, words[:-1], words[-1]))
    return found


def requirements(name: str) -> set[str]:
    """Names of the packages of a requirements file and of those that it includes."""
    found = set()
    for line in (ROOT / name).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            found |= requirements(line.removeprefix("-r ").strip())
        elif line:
            found.add(Requirement(line).name.lower())
    return found


def installed(stage) -> list[str]:
    """The requirements files that its RUN lines install."""
    return re.findall(r"--requirement (\S+)", " ".join(stage.values("RUN", inherited=False)))


def test_targets_are_there_and_cpu_is_the_default(stages):
    assert set(TARGETS) <= set(stages)
    assert list(stages)[-1] == "cpu"


def test_base_images_are_pinned_by_tag(stages):
    images = [stage.base for stage in stages.values() if stage.base not in stages]
    assert images
    for image in images:
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", image), image


def test_copied_files_exist(stages):
    for stage in stages.values():
        for origin, sources, _ in copied(stage):
            if origin is not None:
                assert origin in stages
                continue
            for source in sources:
                assert list(ROOT.glob(source)), f"COPY {source}: no such file"


def test_build_context_is_a_list_of_what_is_needed(stages):
    text = (ROOT / ".dockerignore").read_text()
    patterns = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert patterns[0] == "*"
    let_in = {line.removeprefix("!").rstrip("/") for line in patterns if line.startswith("!")}
    needed = {
        source for stage in stages.values() for origin, sources, _ in copied(stage) if not origin for source in sources
    }
    for source in needed:
        assert source in let_in or re.fullmatch(r"requirements-\w+\.txt", source), f"{source} stays outside"


def test_cpu_target_has_no_torch(stages):
    files = installed(stages["packages-cpu"])
    assert files == ["requirements-onnx.txt"]
    names = requirements(files[0])
    assert {"onnxruntime", "openvino"} <= names
    assert [name for name in names if HEAVY.match(name)] == []


def test_cuda_target_has_both_backends(stages):
    assert {"torch", "onnxruntime-gpu"} <= requirements(installed(stages["packages-cuda"])[0])


@pytest.mark.parametrize("target", TARGETS)
def test_requirements_are_copied_with_what_they_include(stages, target):
    stage = stages[f"packages-{target}"]
    there = {source for _, sources, _ in copied(stage) for source in sources}
    for name in installed(stage):
        included = re.findall(r"^-r (\S+)", (ROOT / name).read_text(), re.M)
        assert {name, *included} <= there


@pytest.mark.parametrize("target", TARGETS)
def test_last_stage_builds_nothing(stages, target):
    stage = stages[target]
    assert stage.values("RUN", inherited=False) == []
    origins = [origin for origin, _, _ in copied(stage)]
    # Code changes most often: it comes after the packages, so that their layer stays.
    assert origins == [f"packages-{target}", "code"]


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_as_nobody_special(stages, target):
    user = stages[target].values("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, which Kubernetes can tell from root"
    made = " ".join(stages[target].values("RUN"))
    assert f"--uid {user.split(':')[0]} " in made
    assert f"--gid {user.split(':')[1]} " in made


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_in_the_volume(stages, target):
    stage = stages[target]
    volumes = stage.values("VOLUME")
    for name in ("SAM_MODEL_DIR", "SAM_ONNX_DIR"):
        assert any(f"{stage.environment[name]}/".startswith(f"{volume}/") for volume in volumes)
        assert stage.environment[name] in " ".join(stage.values("RUN")), "made before it is a volume, for its owner"


@pytest.mark.parametrize("target", TARGETS)
def test_settings_and_ports_are_those_of_the_server(stages, target):
    stage = stages[target]
    known = {setting.variable for setting in SETTINGS}
    assert {name for name in stage.environment if name.startswith("SAM_")} <= known
    assert stage.values("EXPOSE") == [stage.environment["SAM_PORT"]]


@pytest.mark.parametrize("target", TARGETS)
def test_gunicorn_gets_the_signals(stages, target):
    command = json.loads(stages[target].values("CMD")[-1])
    assert command[0] == "gunicorn", "as a list, no shell stands between"
    assert stages[target].values("ENTRYPOINT") == []
    assert (ROOT / command[command.index("--config") + 1]).is_file()


@pytest.mark.parametrize("target", TARGETS)
def test_labels_tell_the_version(stages, target):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in stages[target].values("LABEL")[-1]


def healthcheck(stages, port: int) -> int:
    """Exit status of the HEALTHCHECK's command."""
    value = stages["cpu"].values("HEALTHCHECK")[-1]
    command = json.loads(value[value.index("[") :])
    assert command[0] == "python"
    # A proxy of the environment is for the download of weights, not for this.
    environ = os.environ | {"SAM_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, *command[1:]], env=environ, capture_output=True, check=False).returncode


@pytest.fixture
def state() -> Iterator[Server]:
    """What the requests of a server share, without a model."""
    state = make_server(WebSettings())
    yield state
    state.jobs.close()


def test_healthcheck_asks_for_the_model(stages, state):
    torch.manual_seed(0)
    backend = PyTorchSam(Sam(replace(VARIANTS["tiny"], image_size=128)), torch.device("cpu"), "fp32")
    server = make_wsgi_server("127.0.0.1", 0, make_app(state), threaded=True)
    with serving(server):
        assert healthcheck(stages, server.port) != 0, "no model yet"
        state.slot.fill(backend, BackendReport("auto", "tiny", False, False, False, True))
        assert healthcheck(stages, server.port) == 0
    assert healthcheck(stages, server.port) != 0, "nobody listens"
