"""Commands of docs/deployment.md that no test can run, for want of an engine or a cluster: what they name is there."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "deployment.md").read_text()
BLOCKS = re.findall(r"^<!-- not run: .+? -->\n```bash\n(.*?)^```$", PAGE, re.M | re.S)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def after(words: list[str], option: str) -> str | None:
    """The word after an option, or None where it is not there."""
    return words[words.index(option) + 1] if option in words else None


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_a_command_names_is_there(words, stages):
    while "=" in words[0]:  # NAME=value before the command
        words = words[1:]
    program, *rest = words
    if program == "docker" and rest[0] == "compose":
        services = [word for word in rest[2:] if not word.startswith("-")]
        assert set(services) <= set(COMPOSE["services"])
    elif program == "docker":
        target = after(rest, "--target")
        assert target is None or target in stages
        images = {service["image"] for service in COMPOSE["services"].values()}
        assert rest[0] == "load" or images & set(rest)
        volume = after(rest, "--volume")
        assert volume is None or volume.split(":")[1] == stages["cpu"].values("VOLUME")[-1]
        scripts = [word for word in rest if word.endswith(".py")]
        assert all((ROOT / script).is_file() for script in scripts)
    elif program == "kubectl":
        folder = after(rest, "--kustomize")
        assert folder is None or (ROOT / folder / "kustomization.yaml").is_file()
    elif program == "pip":
        assert (ROOT / (after(rest, "--requirement") or "")).is_file()
    else:
        assert program == "export" or (ROOT / program).is_file()


def test_there_are_commands():
    assert len(COMMANDS) > 10
    assert COMMANDS[0][0] == "docker"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:deploy|script)/[\w./-]+|[\w-]+\.yml)`", PAGE))))
def test_files_that_the_page_names_are_there(name):
    assert (ROOT / name).exists()


def test_alerts_of_the_page_are_those_of_the_rules():
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus-alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert set(re.findall(r"`(Sam[A-Z]\w+)`", PAGE)) == alerts
