"""Debian's packages that tests need and a machine may lack."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

# A mirror that answers slowly shall not look like a test that hangs.
PATIENCE = 600


def program(name: str, package: str) -> str:
    """Path of a program, whose package is installed if it is missing."""
    provide(package, lambda: shutil.which(name) is not None)
    found = shutil.which(name)
    assert found is not None
    return found


def provide(package: str, is_there: Callable[[], bool]) -> None:
    """Install a package unless `is_there` says that what is wanted of it is there already.

    One process installs while all others wait, whatever they want: apt serves one at a time, and half an installation
    does not start.
    """
    with FileLock(Path(tempfile.gettempdir()) / "install-for-tests.lock"):
        if is_there():
            return
        sudo = [] if shutil.which("sudo") is None else ["sudo", "-n"]
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            quiet = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", *command]
            done = subprocess.run(quiet, capture_output=True, text=True, check=False, timeout=PATIENCE)
            if done.returncode:
                last = (done.stderr.strip() or "no message").splitlines()[-1]
                pytest.fail(f"a test needs Debian's {package}: apt-get install {package} ({last})", pytrace=False)
