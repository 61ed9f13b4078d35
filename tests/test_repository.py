"""The rules of the house that no linter knows: what is committed, and who imports what."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sam_server
from tests.source_files import ROOT, committed, imported, library_files, parse, python_files

MAX_FILE_BYTES = 20_000_000
MAX_TINY_BYTES = 16_000_000
TINY = "model/tiny/"
WEIGHT_SUFFIXES = {".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".onnx", ".npz", ".pkl"}
# Modules that another package promises: pydantic pins its core to one version.
PART_OF = {"pydantic-core": "pydantic"}
MAX_FILE_LINES = 420
MAX_FUNCTION_LINES = 60

# Which files may import a package; a folder stands for all in it.
MAY_IMPORT = {
    "torch": (
        "sam_server/network/",
        "sam_server/checkpoints/load.py",
        "pytorch_sam_wrapper.py",
        "convert_model.py",
        "convert_to_onnx.py",
        "training/",
        "benchmarks/",
        "tests/",
    ),
    "flask": ("sam_server/web/", "app.py", "tests/"),
    "flask_openapi3": ("sam_server/web/", "tests/"),
    "werkzeug": ("sam_server/web/", "app.py", "tests/"),
    "segment_anything": ("benchmarks/", "tests/"),
    "matplotlib": ("training/", "benchmarks/"),
}
# What a machine leaves in a file by accident: homes, mounted work folders, scratch.
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:root|home/\w+|Users/\w+|work/\w+|tmp/\w+|mnt/\w+|workspace)/")


def test_no_large_file() -> None:
    assert [name for name in committed() if (ROOT / name).stat().st_size > MAX_FILE_BYTES] == []


def test_no_weights_but_the_tiny_model() -> None:
    weights = [name for name in committed() if Path(name).suffix in WEIGHT_SUFFIXES]
    assert [name for name in weights if not name.startswith(TINY)] == []
    assert sum((ROOT / name).stat().st_size for name in weights) <= MAX_TINY_BYTES


def test_no_path_of_a_machine() -> None:
    found = []
    for name in committed():
        content = (ROOT / name).read_bytes()
        if b"\0" in content:  # not text
            continue
        found += [f"{name}: {match[0]}" for match in MACHINE_PATH.finditer(content.decode("utf-8", "replace"))]
    assert found == []


def test_machine_path_is_recognised() -> None:
    assert MACHINE_PATH.search("at " + "/home" + "/ann/sam")
    assert not MACHINE_PATH.search("https://example.org" + "/home" + "/ann/sam")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_who_imports(package: str) -> None:
    allowed = MAY_IMPORT[package]
    users = [name for name in python_files() if package in imported(parse(name))]
    assert [name for name in users if not name.startswith(allowed)] == []


def test_the_library_imports_no_root_file() -> None:
    roots = {Path(name).stem for name in python_files() if "/" not in name} | {"training", "benchmarks", "tests"}
    files = [name for name in library_files() if name.startswith("sam_server/")]
    assert {name: found for name in files if (found := roots & set(imported(parse(name))))} == {}


def test_the_library_reads_no_environment() -> None:
    names = {"environ", "environb", "getenv"}
    readers = []
    for name in library_files():
        for node in ast.walk(parse(name)):
            of_os = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            imported_from_os = isinstance(node, ast.ImportFrom) and node.module == "os"
            read = {node.attr} if of_os else {alias.name for alias in node.names} if imported_from_os else set()
            if read & names and name.startswith("sam_server/"):
                readers.append(f"{name}:{node.lineno}")
    assert readers == []


# A finder that knows no torch. (A None in sys.modules would do for imports, but SciPy looks in there for its classes.)
FORBID_TORCH = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is not installed")
sys.meta_path.insert(0, Forbid())
"""


def test_a_server_without_pytorch_imports_none_of_it() -> None:
    """The modules of an ONNX deployment, in a process where torch cannot be imported."""
    modules = [
        Path(name).stem for name in library_files() if "/" not in name and not name.startswith(("pytorch_", "convert_"))
    ]
    modules = [name for name in modules if name.isidentifier()]
    assert {"app", "backend_loader", "sam_config"} <= set(modules)
    code = f"{FORBID_TORCH}import {', '.join(modules)}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SAM_")}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_files_and_functions_stay_short() -> None:
    long = []
    for name in library_files():
        lines = len((ROOT / name).read_text().splitlines())
        if lines > MAX_FILE_LINES:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(parse(name)):
            if isinstance(node, ast.FunctionDef):
                start = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0].lineno
                code = (node.end_lineno or start) - start + 1
                if code > MAX_FUNCTION_LINES:
                    long.append(f"{name}: {node.name} has {code} lines")
    assert long == []


def test_no_test_is_skipped() -> None:
    pattern = re.compile(r"pytest\.(skip|xfail|importorskip)\b|mark\.(skip|skipif|xfail)\b")
    tests = [name for name in python_files() if name.startswith("tests/") and name != "tests/test_repository.py"]
    assert [name for name in tests if pattern.search((ROOT / name).read_text())] == []


def requirements(name: str) -> dict[str, str]:
    """Package to version specifier, in lower case with dashes; included files too."""
    found: dict[str, str] = {}
    for raw in (ROOT / name).read_text().splitlines():
        line = raw.split("#")[0].strip()
        if line.startswith("-r "):
            found |= requirements(line.removeprefix("-r ").strip())
        elif line:
            package, specifier = re.fullmatch(r"([\w.-]+)(.*)", line).groups()  # type: ignore[union-attr]
            found[package.lower().replace("_", "-")] = specifier
    return found


def test_requirements_differ_where_they_must() -> None:
    cpu, gpu, onnx = (requirements(f"requirements{kind}.txt") for kind in ("", "-gpu", "-onnx"))
    assert cpu["torch"] == "==2.13.0"
    assert cpu.pop("onnxruntime") == gpu.pop("onnxruntime-gpu")
    assert cpu == gpu
    assert "torch" not in onnx
    assert {name: onnx[name] for name in onnx.keys() & cpu.keys()} == {
        name: cpu[name] for name in onnx.keys() & cpu.keys()
    }


def test_every_import_is_required() -> None:
    """What the code imports is in a requirements file, not there by luck through another package."""
    known = requirements("requirements.txt") | requirements("requirements-dev.txt")
    own = {Path(name).parts[0].removesuffix(".py") for name in python_files()}
    providers = importlib.metadata.packages_distributions()
    missing = set()
    for name in python_files():
        for package in set(imported(parse(name))) - own - set(sys.stdlib_module_names):
            names = {provider.lower().replace("_", "-") for provider in providers.get(package, ["?"])}
            names = {PART_OF.get(name, name) for name in names}
            if not names & known.keys() and not name.startswith("tests/"):
                missing.add(f"{name}: {package}")
    assert missing == set()


def test_scripts_are_executable() -> None:
    scripts = [name for name in committed() if name.startswith("script/") or name == ".ci/run"]
    assert {"script/bootstrap", "script/server", "script/test", "script/lint", ".ci/run"} <= set(scripts)
    for name in scripts:
        listing = subprocess.run(["git", "ls-files", "-s", name], cwd=ROOT, capture_output=True, text=True, check=True)
        assert listing.stdout.startswith("100755 "), name


def test_version_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == sam_server.__version__
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert len((ROOT / "LICENSE").read_text().splitlines()) > 200
