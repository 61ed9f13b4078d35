"""What the tests of the deployment share: the Dockerfile, read by a parser, and what the server itself says."""

import runpy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

import app

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Stage:
    """One stage of the Dockerfile.

    Attributes:
        base: image or stage that it starts from.
        own: its instructions, as (name, value), in their order.
        inherited: those of the stages below it.
    """

    base: str
    own: list[tuple[str, str]] = field(default_factory=list)
    inherited: list[tuple[str, str]] = field(default_factory=list)

    def values(self, instruction: str, *, inherited: bool = True) -> list[str]:
        """Values of an instruction, the one that counts last."""
        lines = [*self.inherited, *self.own] if inherited else self.own
        return [value for name, value in lines if name == instruction]

    @property
    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        pairs = [pair.partition("=") for value in self.values("ENV") for pair in value.split()]
        return {name: value for name, _, value in pairs}


@pytest.fixture(scope="session")
def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by name, in their order."""
    found: dict[str, Stage] = {}
    for line in DockerfileParser(path=str(ROOT / "Dockerfile")).structure:
        if line["instruction"] == "FROM":
            base, word, name = line["value"].split()
            assert word == "AS", "every stage has a name"
            below = found.get(base)
            found[name] = Stage(base, inherited=[] if below is None else [*below.inherited, *below.own])
        elif line["instruction"] != "COMMENT":
            found[list(found)[-1]].own.append((line["instruction"], line["value"]))
    return found


@pytest.fixture(scope="session")
def stop_seconds() -> float:
    """The longest that a server takes to stop: requests finish, then jobs are waited for."""
    settings = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    return float(settings["graceful_timeout"] + app.EXIT_PATIENCE)
