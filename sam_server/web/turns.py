"""On whose behalf a request asks for the model: its client and session, its deadline, and whether it is still there."""

import time

from flask import Flask, request

from sam_server.jobs.asking import Asker, asker
from sam_server.web.access import owner
from sam_server.web.clients import Caller
from sam_server.web.hooks import add_time
from sam_server.web.state import server


def register(app: Flask) -> None:
    """Let every computation of a request know the request."""
    app.before_request(_begin)
    app.teardown_request(_end)


def _begin() -> None:
    asker.set(
        Asker(
            client=owner() or f"address {request.remote_addr}",
            deadline=time.monotonic() + server().settings.request_deadline,
            is_gone=Caller().is_gone,
            waited=lambda seconds: add_time("queue", seconds),
        )
    )


def _end(_: BaseException | None) -> None:
    asker.set(Asker())
