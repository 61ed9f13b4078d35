"""Requests that schemathesis makes from a server's own description: `python -m tests.openapi.generate --help`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        status: exit status of schemathesis: 0 where every answer was as described.
        text: what it printed.
        requests: answers by operation and status.
    """

    status: int
    text: str
    requests: dict[str, Counter[int]]

    @property
    def total(self) -> int:
        """How many requests were answered."""
        return sum(sum(counts.values()) for counts in self.requests.values())

    def table(self) -> str:
        """How often each operation gave each status."""
        rows = [f"  {name}: {dict(sorted(counts.items()))}" for name, counts in sorted(self.requests.items())]
        return "\n".join([f"{self.total:,} requests", *rows])


def run(url: str, examples: int, seed: int, timeout: float | None = None) -> Outcome:
    """Try a server with so many requests for each operation and phase."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "requests.har"
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        command += [f"{url}/openapi.json", f"--max-examples={examples}", f"--seed={seed}", "--no-color", "--no-shrink"]
        command += ["--report=har", f"--report-har-path={report}", "--continue-on-failure"]
        environ = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.openapi.hooks", "OPENAPI_TEST_URL": url}
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=timeout, check=False
        )
        entries = json.loads(report.read_text())["log"]["entries"] if report.exists() else []
    found: dict[str, Counter[int]] = {}
    for entry in entries:
        path = entry["request"]["url"].removeprefix(url).split("?")[0]
        name = f"{entry['request']['method']} /{path.split('/')[1] if '/' in path else path}"
        found.setdefault(name, Counter())[entry["response"]["status"]] += 1
    return Outcome(done.returncode, done.stdout + done.stderr, found)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.openapi.generate", description=__doc__)
    parser.add_argument("url", help="of a server; it will be kept busy")
    parser.add_argument("--examples", type=int, default=100, help="requests for each operation and phase")
    parser.add_argument("--seed", type=int, default=8)
    options = parser.parse_args()
    outcome = run(options.url.rstrip("/"), options.examples, options.seed)
    print(outcome.text)
    print(outcome.table())
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
