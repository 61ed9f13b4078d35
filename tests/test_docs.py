"""The documentation does what it says: its commands run in a copy of the repository, against a server started there.

A fenced block of `console` holds commands after `$ ` and what they print; numbers and ids may differ, and `...`
stands for anything. Blocks of `bash` and `python` hold code alone. All blocks of a page run in their order, in one
directory. Addresses of port 5000 are those of the test's own server. What cannot run here has
`<!-- not run: reason -->` in the line before the block.
"""

import doctest
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.serving import free_port

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.M | re.S)
# The server runs already; tests and lint run this test; the clone is the copy that the commands run in.
DONE_ELSEWHERE = re.compile(
    r"(\w+=\S+ +)*"
    r"(script/(server|test|lint)|\.ci/run|python app\.py|gunicorn .*app:app|git clone|cd mask-grouping-server)\b"
)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")
SEPARATOR = "\x1e"
START_SECONDS = 120
PAGE_SECONDS = 540
LOG_CHARACTERS = 3000  # of a log, in a failure


@dataclass(frozen=True)
class Command:
    """One command of a page and what it shall print; None where the page does not say."""

    page: str
    line: int
    code: str
    output: str | None


def commands(page: str) -> list[Command]:
    """The commands of a page that run here, in their order."""
    text = (ROOT / page).read_text()
    found = []
    for block in BLOCK.finditer(text):
        if block["reason"] is not None:
            continue
        line = text.count("\n", 0, block.start("body")) + 1
        if block["language"] in ("bash", "sh"):
            lines = [text for text in block["body"].splitlines() if not DONE_ELSEWHERE.match(text)]
            found.append(Command(page, line, "\n".join(lines), None))
        elif block["language"] == "python":
            found.append(Command(page, line, f"python - <<'END_OF_BLOCK'\n{block['body']}END_OF_BLOCK", None))
        elif block["language"] == "console":
            found += console(page, line, block["body"])
    return found


def console(page: str, line: int, body: str) -> Iterator[Command]:
    for number, part in enumerate(re.split(r"^\$ ", body, flags=re.M)):
        if number == 0:
            assert not part.strip(), f"{page}:{line}: a console block starts with '$ '"
            continue
        lines = part.splitlines(keepends=True)
        end = 1
        while lines[end - 1].endswith("\\\n"):
            end += 1
        code, output = "".join(lines[:end]).strip(), "".join(lines[end:]).strip()
        if not DONE_ELSEWHERE.match(code):
            yield Command(page, line, code, output or None)


def as_printed(text: str) -> str:
    """Text without what differs from run to run: numbers, ids, spaces."""
    text = re.sub(r'("\w*id":) *"[^"]*"', r'\1 "ID"', text)
    return " ".join(re.sub(r"\d(?:[\d,:e+-]|\.(?!\.))*", "0", text).split())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository as a clone would have it, with this environment as its own."""
    directory = tmp_path_factory.mktemp("clone") / "mask-grouping-server"
    arguments = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    (directory / ".venv").symlink_to(sys.prefix)
    return directory


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    """A person's environment, with the model that needs no download."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SAM_", "VENV", "PYTEST_"))}
    path = f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"
    return clean | {"PATH": path, "SAM_MODEL_TYPE": "tiny", "SAM_USE_GPU": "false", "SAM_OFFLINE": "true"}


@pytest.fixture(scope="module")
def port(clone: Path, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a server started as the README says."""
    number = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["script/server"], cwd=clone, env=environ | {"SAM_PORT": str(number)}, stdout=stream, stderr=stream
        )
    try:
        wait_until_ready(number, process, log)
        yield number
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    assert status == 0, log.read_text()[-LOG_CHARACTERS:]


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == requests.codes.ok:
                return
        except (requests.ConnectionError, requests.Timeout):
            pass
        time.sleep(0.1)
    raise AssertionError(f"the server is not ready; its log ends:\n{log.read_text()[-LOG_CHARACTERS:]}")


@pytest.mark.parametrize("page", PAGES)
def test_commands_run(page: str, clone: Path, environ: dict[str, str], port: int) -> None:
    wanted = commands(page)
    script = ["set -euo pipefail"]
    for number, command in enumerate(wanted):
        code = re.sub(r"\b(localhost|127\.0\.0\.1):5000\b", rf"\1:{port}", command.code)
        script += [f"printf '{SEPARATOR}'; echo {number} >&2", code]
    answer = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=clone,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PAGE_SECONDS,
        check=False,
    )
    outputs = answer.stdout.split(SEPARATOR)[1:]
    if answer.returncode != 0:
        command = wanted[len(outputs) - 1]
        raise AssertionError(
            f"{page}:{command.line} ended with status {answer.returncode}\n{command.code}\n"
            f"{outputs[-1]}\n{answer.stderr[-LOG_CHARACTERS:]}"
        )
    checker = doctest.OutputChecker()
    for command, output in zip(wanted, outputs, strict=True):
        if command.output is not None:
            expected = as_printed(command.output)
            assert checker.check_output(expected, as_printed(output), doctest.ELLIPSIS), (
                f"{page}:{command.line} prints something else\n{command.code}\n{output}"
            )


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = LINK.findall((ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_readme_starts_the_server() -> None:
    text = (ROOT / "README.md").read_text()
    assert "script/server" in text
    assert "localhost:5000" in text
    assert commands("README.md"), "the README has no command that runs here"


def test_console_block_is_taken_apart() -> None:
    body = '$ curl -s \\\n  localhost:5000/health\n{"status": "ok"}\n$ script/server\n$ echo 2\n'
    assert [(command.code, command.output) for command in console("page", 1, body)] == [
        ("curl -s \\\n  localhost:5000/health", '{"status": "ok"}'),
        ("echo 2", None),
    ]


def test_output_is_compared() -> None:
    assert as_printed('{"session_id": "abc", "took": 12.5}') == as_printed('{"session_id":  "xyz",  "took": 3}')
    assert as_printed('{"status": "ok"}') != as_printed('{"status": "bad"}')
