"""An HTTP server that answers by script, in the ways in which servers and networks misbehave."""

import contextlib
import hashlib
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sam_server.checkpoints.table import CheckpointFile
from tests.serving import serving

CONTENT = random.Random(0).randbytes(3_000_000)


@dataclass(frozen=True)
class Answer:
    """How the server answers one request.

    Attributes:
        status: sent in place of 200 or 206, without a body.
        content: the file as it is at that time.
        sent: bytes of the body after which the connection is dropped; all if None.
        ranges: whether Range is honoured.
        shift: added to the start of the range that is answered.
        etag: of the content; If-Range is honoured.
        length: whether Content-Length is told.
        before, pause: seconds before the answer, and between chunks of the body.
    """

    status: int | None = None
    content: bytes = CONTENT
    sent: int | None = None
    ranges: bool = True
    shift: int = 0
    etag: str | None = '"1"'
    length: bool = True
    before: float = 0.0
    pause: float = 0.0


@dataclass
class Scripted:
    """A running server: the answers it has left (the last one is repeated), and the requests it has seen.

    `left` is set once a client closed its connection before it had all of an answer.
    """

    url: str
    answers: list[Answer]
    requests: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    left: threading.Event = field(default_factory=threading.Event)

    def next(self, headers: dict[str, str]) -> Answer:
        with self.lock:
            self.requests.append(headers)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    scripted: Scripted

    def do_GET(self) -> None:
        answer = self.scripted.next({"path": self.path, **self.headers})
        time.sleep(answer.before)
        try:
            self.answer(answer)
        except (BrokenPipeError, ConnectionResetError):
            self.scripted.left.set()
        self.close_connection = True

    def answer(self, answer: Answer) -> None:
        if answer.status is not None:
            self.send_response(answer.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self.start(answer)
        body = answer.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(answer.content) - 1}/{len(answer.content)}")
        if answer.etag:
            self.send_header("ETag", answer.etag)
        if answer.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: answer.sent]
        for at in range(0, len(body), 100_000):
            self.wfile.write(body[at : at + 100_000])
            time.sleep(answer.pause)

    def start(self, answer: Answer) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found is None or not answer.ranges or self.headers.get("If-Range", answer.etag) != answer.etag:
            return 0
        return int(found[1]) + answer.shift

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def scripted_server() -> Iterator[Scripted]:
    """A server with one answer, until the test says otherwise."""
    scripted = Scripted("", [Answer()])
    handler = type("ScriptedHandler", (Handler,), {"scripted": scripted})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        scripted.url = url
        yield scripted


def a_file(url: str) -> CheckpointFile:
    return CheckpointFile(
        model_type="test",
        name="sam_test.pth",
        url=url,
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="Apache-2.0",
        input_size=64,
    )
