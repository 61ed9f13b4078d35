"""Servers that end with the tests of a file."""

import subprocess
from collections.abc import Callable, Iterator

import pytest
from skimage import data

from tests.faults.servers import GUNICORN, ROOT, Running, environment, to_png
from tests.serving import free_port


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """Starts servers, which end with the tests of the file."""
    started: list[Running] = []

    def start(
        command: tuple[str, ...] = GUNICORN, port: int | None = None, wait: bool = True, **environ: str
    ) -> Running:
        number = free_port() if port is None else port
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(SAM_PORT=str(number), **environ),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        server = Running(process, number, log)
        started.append(server)
        if wait:
            server.wait_until_ready()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def coins() -> bytes:
    """skimage's coins, 384 x 303, as PNG."""
    return to_png(data.coins())
