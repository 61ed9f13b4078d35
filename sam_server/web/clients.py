"""Whether the one who asked is still there."""

import socket
from typing import Any

from flask import request


class Caller:
    """The client of the current request, as far as the server in front of Flask shows its socket."""

    def __init__(self) -> None:
        environ: dict[str, Any] = request.environ
        found = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
        self._socket: socket.socket | None = found if type(found) is socket.socket else None

    def is_gone(self) -> bool:
        """Whether the client has closed the connection; False where that cannot be known."""
        if self._socket is None:
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
