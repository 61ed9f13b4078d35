"""docs/grouping.md against the code: every name, and every value that a table gives."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from sam_server.grouping.filters import Filters
from sam_server.grouping.presets import PRESETS
from sam_server.grouping.registry import METHODS, method_of
from sam_server.grouping.statistics import DESCRIBED, Description
from sam_server.masks.measures import NAMES

TEXT = (Path(__file__).parents[2] / "docs" / "grouping.md").read_text(encoding="utf-8")
WORDS = set(re.findall(r"`([\w.]+)`", TEXT))


def row(section: str, name: str) -> list[str]:
    """Cells of the row that begins with a name, in the table of a section."""
    text = TEXT.split(f"## {section}\n")[1].split("\n## ")[0]
    (line,) = re.findall(rf"^\| `{name}` \|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in line.split(" | ")]


def settings(text: str) -> dict[str, str]:
    """Names with the word that follows each, if any: "`max_parts` 1" gives {"max_parts": "1"}."""
    return dict(re.findall(r"`(\w+)`(?: (`?[\w.]+`?))?", text))


def test_everything_is_named() -> None:
    names = {*METHODS, *PRESETS, *NAMES, *DESCRIBED, *(item.name for item in (*fields(Filters), *fields(Description)))}
    assert names - WORDS == set()


@pytest.mark.parametrize("name", METHODS)
def test_parameters_and_their_defaults(name: str) -> None:
    told = settings(row("Methods", name)[-1])
    for item in fields(METHODS[name].parameters):
        assert item.name in told
        if isinstance(item.default, int | float):
            assert float(told[item.name]) == item.default
        elif isinstance(item.default, str):
            assert told[item.name].strip("`") == item.default


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    _, filters, methods = row("Presets", name)
    set_ones = {
        item.name: value
        for item in fields(Filters)
        if (value := getattr(PRESETS[name].filters, item.name)) is not None and value is not False
    }
    told = settings(filters)
    assert set(told) == set(set_ones)
    for key, value in set_ones.items():
        assert value is True or float(told[key]) == value
    assert re.findall(r"`(\w+)`", methods) == [method_of(parameters).name for parameters in PRESETS[name].methods]


def test_filters_stand_in_the_order_in_which_they_act() -> None:
    table = TEXT[TEXT.index("## Filters") : TEXT.index("## Measures")]
    told = [name for line in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)]
    assert told == [item.name for item in fields(Filters)]
