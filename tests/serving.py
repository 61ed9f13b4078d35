"""Servers that a test starts."""

import functools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serving(server: HTTPServer) -> Iterator[str]:
    """The address of a server that answers in a thread of its own; nothing of it is left afterwards."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_files(directory: Path) -> Iterator[str]:
    """The address of a server of the files in a directory."""
    handler = functools.partial(QuietHandler, directory=directory)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        yield url
