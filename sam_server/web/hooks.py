"""What happens around every request: its id, its timings, its line in the log, and what a browser may do with it."""

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from flask import Flask, Response, g, request

from sam_server import logs
from sam_server.jobs.asking import asker
from sam_server.web.state import server

log = logging.getLogger("sam_server.requests")

# An id that came with the request is taken over if it cannot break a log line or a header.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Paths that are asked every few seconds: logged at the level "debug".
_PROBED_PATHS = frozenset({"/health", "/ready", "/metrics"})
# What a browser may do with an answer: nothing but show it. Pages that are more say so themselves.
_SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Answers belong to the one who asked: no cache on the way may give them to another.
    "Cache-Control": "no-store",
}
_CORS_METHODS = "GET, POST, DELETE, OPTIONS"
_CORS_REQUEST_HEADERS = "Authorization, Content-Type, Prefer, X-API-Key, X-Request-ID"
_CORS_ANSWER_HEADERS = "Location, Retry-After, Server-Timing, X-Request-ID"
_CORS_MAX_AGE = "600"  # seconds that a browser may remember a preflight


@contextmanager
def timed(phase: str) -> Iterator[None]:
    """Add the time of the `with` block to a phase of Server-Timing."""
    started = time.perf_counter()
    try:
        yield
    finally:
        add_time(phase, time.perf_counter() - started)


def add_time(phase: str, seconds: float) -> None:
    """Add seconds to a phase of Server-Timing."""
    timings: dict[str, float] = g.timings
    timings[phase] = timings.get(phase, 0.0) + seconds


def spent(*phases: str) -> float:
    """Seconds that phases of this request took so far."""
    timings: dict[str, float] = g.timings
    return sum(timings.get(phase, 0.0) for phase in phases)


def register(app: Flask) -> None:
    """Put the hooks around every request of the application."""
    app.before_request(_begin)
    app.after_request(_finish)
    app.teardown_request(_forget)


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
    g.started = time.perf_counter()
    g.timings = {}
    logs.request_id.set(g.request_id)


def _forget(_: BaseException | None) -> None:
    logs.request_id.set(None)


def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    phases = {**g.timings, "total": time.perf_counter() - g.started}
    response.headers["Server-Timing"] = ", ".join(f"{name};dur={took * 1000:.1f}" for name, took in phases.items())
    for name, value in _SAFE_HEADERS.items():
        response.headers.setdefault(name, value)
    _allow_origin(response)
    _record(response.status_code, phases)
    return response


def note_session(session_id: str) -> None:
    """Remember the session that the current request is about: for its line in the log, and its turns at the model."""
    g.session_id = session_id
    asker.set(replace(asker.get(), session=session_id))


def _record(status: int, phases: Mapping[str, float]) -> None:
    """Count the request and log it. An id of a session opens it, so the log has the start of its hash instead."""
    route = None if request.url_rule is None else request.url_rule.rule
    server().metrics.count_request(request.method, route, status, phases)
    level = logging.DEBUG if request.path in _PROBED_PATHS else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields: dict[str, object] = {"method": request.method, "route": route, "status": status}
    if (session_id := g.get("session_id")) is not None:
        fields["session"] = hashlib.sha256(session_id.encode()).hexdigest()[:12]
    fields["ms"] = round(phases["total"] * 1000, 1)
    fields["phases"] = {name: round(took * 1000, 1) for name, took in phases.items() if name != "total"}
    log.log(level, "request", extra={logs.FIELDS: fields})


def _allow_origin(response: Response) -> None:
    allowed = server().settings.cors_origins
    if not allowed:
        return
    response.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin is None or not ("*" in allowed or origin in allowed):
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = _CORS_ANSWER_HEADERS
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = _CORS_METHODS
        response.headers["Access-Control-Allow-Headers"] = _CORS_REQUEST_HEADERS
        response.headers["Access-Control-Max-Age"] = _CORS_MAX_AGE
