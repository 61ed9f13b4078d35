"""The project's own files, as tests read them."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def committed() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def python_files() -> list[str]:
    return [name for name in committed() if name.endswith(".py")]


def library_files() -> list[str]:
    return [name for name in python_files() if name.startswith("sam_server/") or "/" not in name]


def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level packages that a module imports anywhere, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
