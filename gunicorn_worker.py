"""gunicorn's worker with threads, kept from clients that hold a thread without using it.

gunicorn gives a connection to a thread at once and reads the request there for as long as it takes; as many clients as
there are threads, sending a byte a second, would stop the server. Here a connection costs no thread before its first
byte, and a client that sends slower than LEAST_RATE is cut off: soon where others wait for a thread, later where there
are enough. The habit, and the numbers, are those of Apache's mod_reqtimeout.
"""

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.http import message
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.gthread import TConn, ThreadWorker

# Seconds that a request may take to arrive, and bytes per second that are added to them as they come.
PATIENCE = 20.0
LEAST_RATE = 1_000.0
# The same while others wait for a thread.
CROWDED_PATIENCE = 5.0
# Seconds between two looks whether others wait.
LOOK_EVERY = 0.25
# Seconds that a new connection may stay silent; it costs no thread.
SILENCE = 10.0
# Seconds that an answer may wait for a client that takes nothing of it (tcp(7), TCP_USER_TIMEOUT).
STALL = 30.0

# Bytes of a request line. GET /mask_sets/ID takes a choice of masks of 60,000 characters; gunicorn knows no setting
# beyond 8,190.
LONGEST_REQUEST_LINE = 65_536
message.MAX_REQUEST_LINE = LONGEST_REQUEST_LINE


class SlowClientError(NoMoreData, TimeoutError):  # type: ignore[misc]
    """The request came too slowly. The application sees a time-out, gunicorn the end of the connection."""


class _Paced:
    """In place of the `chunk` of a connection's reader: receives, and keeps account of the waiting."""

    def __init__(self, receive: Callable[..., bytes], sock: socket.socket, is_crowded: Callable[[], bool]) -> None:
        self._receive = receive
        self._sock = sock
        self._is_crowded = is_crowded
        self.restart()

    def restart(self) -> None:
        """A new request begins."""
        self._waited = 0.0
        self._received = 0

    def __call__(self, *arguments: Any) -> bytes:
        given = self._sock.gettimeout()  # gunicorn's own, where it throws away the rest of a body
        waited_before = self._waited
        while True:
            patience = CROWDED_PATIENCE if self._is_crowded() else PATIENCE
            left = patience + self._received / LEAST_RATE - self._waited
            if left <= 0:
                raise SlowClientError
            if given is not None and self._waited - waited_before >= given:
                raise TimeoutError
            piece = self._wait(min(left, LOOK_EVERY), arguments, given)
            if piece is not None:
                self._received += len(piece)
                return piece

    def _wait(self, seconds: float, arguments: tuple[Any, ...], given: float | None) -> bytes | None:
        started = time.monotonic()
        self._sock.settimeout(seconds)
        try:
            return self._receive(*arguments)
        except TimeoutError:
            return None
        finally:
            self._sock.settimeout(given)
            self._waited += time.monotonic() - started


class _Connection(TConn):  # type: ignore[misc]
    """A connection whose requests must come at a pace."""

    def __init__(self, *arguments: Any, is_crowded: Callable[[], bool]) -> None:
        super().__init__(*arguments)
        self._is_crowded = is_crowded
        self._paced: _Paced | None = None

    def init(self) -> None:
        """Called by the thread before each request."""
        fresh = not self.initialized
        super().init()
        if fresh and not self.is_http2:
            reader = self.parser.unreader
            self._paced = reader.chunk = _Paced(reader.chunk, self.sock, self._is_crowded)
        elif self._paced is not None:
            self._paced.restart()


class PacedWorker(ThreadWorker):  # type: ignore[misc]
    """One process, threads that share its model, and no thread for clients that do nothing with it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting = 0
        self._counting = threading.Lock()

    def is_crowded(self) -> bool:
        """Whether requests wait for a thread."""
        return self._waiting > 0

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection and wait for its first byte beside all the others."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError | ConnectionAbortedError):
                raise
            return
        if client.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL * 1000))
        self.nr_conns += 1
        connection = _Connection(self.cfg, client, address, listener.getsockname(), is_crowded=self.is_crowded)
        connection.timeout = time.monotonic() + SILENCE
        self.pending_conns.append(connection)
        self.poller.register(client, EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def enqueue_req(self, conn: _Connection) -> None:
        """Give a connection that has something to say to a thread."""
        with self._counting:
            self._waiting += 1
        super().enqueue_req(conn)

    def handle(self, conn: _Connection) -> Any:
        """Serve one request; runs in a thread."""
        with self._counting:
            self._waiting -= 1
        return super().handle(conn)
