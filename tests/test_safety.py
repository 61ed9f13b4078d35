"""What the code never does: unpickle, run text as code, fetch what a client names."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# They run code that stands in the bytes they read, or are made of such readers.
UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
# Whoever may ask other servers: for the checkpoints of the table, and nothing else; or as a client of this one.
FETCHERS = {"requests", "urllib3", "httpx", "aiohttp", "ftplib"}
MAY_FETCH = {"sam_server/checkpoints/download.py", "benchmarks/", "tests/", "script/", "training/droplet_count.py"}


def files() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def served() -> list[str]:
    """What a server may run."""
    return [name for name in files() if not name.startswith(("tests/", "benchmarks/"))]


def nodes(name: str) -> Iterator[ast.AST]:
    return ast.walk(ast.parse((ROOT / name).read_text(), name))


def imports(name: str) -> set[str]:
    found: set[str] = set()
    for node in nodes(name):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
            if node.module == "urllib":
                found |= {f"urllib.{alias.name}" for alias in node.names}
            if node.module.startswith("urllib."):
                found.add(node.module)
    return found


def calls(name: str) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Every call as its text and its named arguments."""
    for node in nodes(name):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {item.arg: item.value for item in node.keywords if item.arg}


@pytest.mark.parametrize("name", served())
def test_nothing_is_unpickled(name: str) -> None:
    unsafe = imports(name) & UNSAFE
    # torch's own reader of tensors alone raises an error of pickle; that name is all that may be used.
    used = {ast.unparse(node) for node in nodes(name) if isinstance(node, ast.Attribute)}
    assert unsafe <= {"pickle"}
    assert {text for text in used if text.startswith("pickle.")} <= {"pickle.UnpicklingError"}
    assert not {node.module for node in nodes(name) if isinstance(node, ast.ImportFrom)} & UNSAFE
    for called, arguments in calls(name):
        if called == "torch.load":
            assert ast.unparse(arguments["weights_only"]) == "True"
        assert "allow_pickle" not in arguments or ast.unparse(arguments["allow_pickle"]) == "False"
        assert called not in ("eval", "exec", "yaml.load", "pd.read_pickle", "os.system", "os.popen")
        assert "shell" not in arguments


def test_the_check_sees_what_it_looks_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle\nfrom urllib import request\ntorch.load(file, weights_only=False)\n")
    assert imports(str(bad)) >= {"pickle", "urllib.request"}
    assert [called for called, _ in calls(str(bad))] == ["torch.load"]


def test_no_url_of_a_client_is_fetched() -> None:
    fetchers = [name for name in served() if imports(name) & (FETCHERS | {"urllib.request"})]
    assert [name for name in fetchers if not name.startswith(tuple(MAY_FETCH))] == []


@pytest.mark.parametrize("name", served())
def test_no_serializer_is_pickle(name: str) -> None:
    assert [node for node in nodes(name) if isinstance(node, ast.Constant) and node.value in ("pickle", "yaml")] == []
