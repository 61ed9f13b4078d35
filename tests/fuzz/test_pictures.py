"""Ten thousand damaged pictures of every format: an error that is documented or a picture, within bounds."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sam_server.images import FORMATS, ImageError
from tests.fuzz.corpus import STRANGERS

ROOT = Path(__file__).resolve().parents[2]
COUNT = 10_000
SEED = 8
# The watchdog of the process is quicker; this is for a process that cannot even be interrupted.
PATIENCE = 280


@pytest.fixture(scope="module")
def outcome() -> dict[str, Counter[str]]:
    """By format, how often each thing came out."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", "tests.fuzz.reader", f"--count={COUNT}", f"--seed={SEED}"],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # Warnings of Python, of its libraries and of C code all end up here, and so does the end of a crash. The libpng
    # inside OpenCV cannot be silenced; it writes fixed phrases.
    leaked = [line for line in done.stderr.splitlines() if not line.startswith(("libpng error: ", "libpng warning: "))]
    assert (done.returncode, leaked) == (0, [])
    report = json.loads(done.stdout)
    found: dict[str, Counter[str]] = {}
    for name, counts in report["counts"].items():
        found.setdefault(name.split()[0], Counter()).update(counts)
    print(f"\n{COUNT:,} damaged files, {report['grown'] >> 20} MB of address space at most")
    for name, counts in found.items():
        print(f"  {name}: {', '.join(f'{number:,} {what}' for what, number in counts.most_common())}")
    return found


@pytest.mark.timeout(PATIENCE + 20)
def test_nothing_but_pictures_and_documented_errors(outcome: dict[str, Counter[str]]) -> None:
    codes = {kind.code for kind in ImageError.__subclasses__()} | {"picture"}
    assert sum(sum(counts.values()) for counts in outcome.values()) == COUNT
    assert set().union(*outcome.values()) <= codes
    assert set(outcome) == {*FORMATS, *STRANGERS}


@pytest.mark.parametrize("name", FORMATS)
def test_the_damage_reaches_the_decoders(outcome: dict[str, Counter[str]], name: str) -> None:
    """Neither do all files fail at the first byte, nor does all damage go unnoticed."""
    total = sum(outcome[name].values())
    assert outcome[name]["picture"] > total / 50
    assert total - outcome[name]["picture"] > total / 50


@pytest.mark.parametrize("name", STRANGERS)
def test_other_formats_stay_out(outcome: dict[str, Counter[str]], name: str) -> None:
    assert outcome[name]["picture"] <= outcome[name]["not_an_image"] / 20  # parts of other files may make one
