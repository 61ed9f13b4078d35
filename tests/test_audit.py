"""script/audit tells apart: nothing known, something known, and nobody to ask. The database is the test's own."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.serving import serving

ROOT = Path(__file__).parents[1]
BUG = {
    "id": "TEST-0000-0001",
    "summary": "made up",
    "details": "made up",
    "modified": "2020-01-01T00:00:00Z",
    "published": "2020-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "flask"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
        }
    ],
}


@pytest.fixture
def database() -> Iterator[tuple[str, set[str]]]:
    """A database in the manner of osv.dev, and the packages in it that have a bug."""
    bad: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = {"vulns": [BUG]} if asked["package"]["name"].lower() in bad else {}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield f"{url}/v1/query", bad


def audit(url: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    command = ["script/audit", "--vulnerability-service", "osv", "--osv-url", url]
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False, timeout=240)


def test_what_is_known_is_told(database):
    url, bad = database
    bad.add("flask")
    answer = audit(url)
    assert answer.returncode == 1, answer.stderr
    assert re.search(r"(?i)^flask \S+: TEST-0000-0001, fixed in 99$", answer.stdout, re.M)
    assert "1 known vulnerabilities" in answer.stdout


def test_nothing_known(database):
    answer = audit(database[0])
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"^\d{2,} packages, 0 known vulnerabilities$", answer.stdout, re.M)


def test_a_database_that_cannot_be_asked_is_no_good_news():
    answer = audit("http://127.0.0.1:9/v1/query")
    assert answer.returncode == 3
    assert "could not be asked" in answer.stderr
    assert "0 known" not in answer.stdout
