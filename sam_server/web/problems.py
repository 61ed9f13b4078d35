"""Errors as RFC 9457 problem details: a status, a stable `code`, and a sentence that says what to change."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from flask import Flask, Response, g, request
from pydantic import ValidationError
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from sam_server.automatic.parameters import ParameterError
from sam_server.grouping.errors import GroupingError
from sam_server.images import ImageError
from sam_server.jobs.gate import ClientGoneError, GateBusyError
from sam_server.jobs.queue import FailedElsewhereError, QueueFullError, UnknownJobError
from sam_server.masks.mask_set import MaskSetError
from sam_server.prompts import PromptError
from sam_server.sessions.errors import ForgottenIdError, OverBudgetError, SessionError, StoreAwayError

log = logging.getLogger(__name__)

MIMETYPE = "application/problem+json"
# How many wrong fields of one request are listed.
MAX_ERRORS = 10
# What an error of Flask or of the server in front of it is called here, and what to do about it.
_HTTP_ERRORS: dict[int, tuple[str, str]] = {
    400: ("malformed_request", "the request could not be read"),
    404: ("unknown_path", "there is nothing here: see /docs for the paths"),
    405: ("method_not_allowed", "this path does not take {method}: see the Allow header"),
    408: ("request_timeout", "the request came too slowly"),
    413: ("body_too_large", "the body is too large: send a smaller picture"),
    414: ("uri_too_long", "the address is too long: send the fields in the body"),
    415: ("unsupported_media_type", "the Content-Type is not one that this path takes"),
    416: ("range_not_satisfiable", "the Range header asks for bytes that do not exist"),
    431: ("headers_too_large", "the headers are too large"),
}

# Seconds after which a client that found the queue of jobs full may try again.
JOB_RETRY_AFTER = 10.0
# How long, and for how many bytes, a body that is too large is still read before the connection closes.
LINGER_SECONDS = 1.0
LINGER_BYTES = 256 << 20
LINGER_PIECE = 64 << 10
# A client that leaves gets no answer; the status is the one that nginx logs for it.
CLIENT_CLOSED_REQUEST = 499
# Any other error of a picture is a 400.
_IMAGE_STATUS = {"not_an_image": 415, "image_unsupported": 415, "image_too_large": 413}


class Problem(Exception):  # noqa: N818, the name of the RFC
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        """Describe the problem.

        Args:
            status: HTTP status.
            code: stable name that programs can test.
            detail: one sentence for people that says what to change.
            headers: such as Retry-After.
            members: further members of the problem document, such as `field`.
        """
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def to_response(self) -> Response:
        """The problem as an HTTP answer."""
        document = {
            "type": "about:blank",
            "title": HTTP_STATUS_CODES.get(self.status, "Unknown Error"),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": g.get("request_id"),
            **self.members,
        }
        return Response(orjson.dumps(document), self.status, self.headers, mimetype=MIMETYPE)


MISTAKE = Problem(500, "internal_error", "the server made a mistake; its log has the details under the request_id")


def busy(code: str, detail: str, retry_after: float) -> Problem:
    """503: try again after so many seconds."""
    return Problem(503, code, detail, headers=retry_header(retry_after))


def client_left() -> Problem:
    """For a client that gets no answer, since it closed the connection."""
    return Problem(CLIENT_CLOSED_REQUEST, "client_left", "the client closed the connection")


def retry_header(seconds: float) -> dict[str, str]:
    """Retry-After in whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def from_validation(error: ValidationError) -> Problem:
    """What pydantic found: 400 where the text is not JSON at all, else 422 with every wrong field by name."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return Problem(400, "malformed_json", f"the body is not JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}")
    errors = [{"field": _path(item["loc"]), "message": _message(item["type"], item["msg"])} for item in found]
    first = errors[0]
    code = "unknown_field" if found[0]["type"] == "extra_forbidden" else "invalid_field"
    detail = f"{first['field']}: {first['message']}" if first["field"] else str(first["message"])
    return Problem(422, code, detail, field=first["field"], errors=errors[:MAX_ERRORS])


def _path(location: tuple[int | str, ...]) -> str:
    """`prompts[2].points[0][1]` from pydantic's location, the way people write it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _message(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such field"
    return message.removeprefix("Value error, ")


def from_prompt(error: PromptError, where: str) -> Problem:
    """422 for a prompt that makes no sense; `where` is the prompt's place in the request, such as `prompts[2]`."""
    field = error.field if not where else where if error.field == "prompt" else f"{where}.{error.field}"
    return Problem(422, "invalid_prompt", f"{where}: {error}" if where else str(error), field=field)


def from_session(error: SessionError) -> Problem:
    """404 for an id that never was, 410 for one that was forgotten, 413 for a picture that no budget holds."""
    if isinstance(error, OverBudgetError):
        return Problem(413, error.code, str(error))
    return Problem(410 if isinstance(error, ForgottenIdError) else 404, error.code, str(error))


def from_job(error: UnknownJobError) -> Problem:
    """404 for a job that never was, 410 for one that ended long ago."""
    return Problem(410, "job_expired", str(error)) if error.forgotten else Problem(404, "unknown_job", str(error))


def from_elsewhere(error: FailedElsewhereError) -> Problem:
    """The problem that another server made of an error."""
    made = error.document
    return Problem(
        made["status"], made["code"], made["detail"], headers=made.get("headers"), **made.get("members") or {}
    )


def from_image(error: ImageError) -> Problem:
    """415 for bytes that are no picture, 413 for one that is too large, 400 for one that is broken."""
    return Problem(_IMAGE_STATUS.get(error.code, 400), error.code, str(error), field="image")


def _from_http(error: HTTPException) -> Response:
    if error.response is not None:
        return Response(error.response.get_data(), error.response.status_code, error.response.headers)  # type: ignore[attr-defined]
    status = error.code or 500
    if isinstance(error, ClientDisconnected) and isinstance(error.__context__, TimeoutError):
        status = 408  # it is still there, but the server would not wait any longer
    code, detail = _HTTP_ERRORS.get(status, ("http_error", error.description or error.name))
    headers = {name: value for name, value in error.get_headers() if name == "Allow"}
    if status == 413:
        _let_finish()
        detail = f"the body is larger than {request.max_content_length:,} bytes: send a smaller picture"
    return Problem(status, code, detail.format(method=request.method), headers=headers).to_response()


def _let_finish() -> None:
    """Read on for a moment: a client that finds the connection closed while it sends never sees the answer."""
    # Where the length is known, werkzeug refuses before it reads; past the end of the body a read would block.
    left = LINGER_BYTES if request.content_length is None else min(request.content_length, LINGER_BYTES)
    deadline = time.monotonic() + LINGER_SECONDS
    stream = request.environ["wsgi.input"]
    while left > 0 and time.monotonic() < deadline:
        try:
            piece = stream.read(min(left, LINGER_PIECE))
        except OSError:  # it left, or sends too slowly
            break
        if not piece:
            break
        left -= len(piece)


def _from_bug(error: Exception) -> Response:
    log.error("request %s failed", g.get("request_id"), exc_info=error)
    return MISTAKE.to_response()


def describe(error: Exception) -> Problem | None:
    """The problem that an error of the rooms below is to a client; None for an error that is a mistake of ours."""
    if isinstance(error, Problem):
        return error
    return next((make(error) for kind, make in _KNOWN.items() if isinstance(error, kind)), None)


_KNOWN: dict[type[Exception], Callable[[Any], Problem]] = {
    ValidationError: from_validation,
    PromptError: lambda error: from_prompt(error, ""),
    ImageError: from_image,
    SessionError: from_session,
    UnknownJobError: from_job,
    ParameterError: lambda error: Problem(422, "invalid_parameter", str(error), field=error.field),
    GroupingError: lambda error: Problem(422, "invalid_grouping", str(error), field=error.field),
    MaskSetError: lambda error: Problem(422, "too_many_masks", str(error)),
    ClientGoneError: lambda _: client_left(),
    GateBusyError: lambda error: busy("busy", str(error), error.retry_after),
    StoreAwayError: lambda error: busy("shared_store_away", str(error), error.retry_after),
    FailedElsewhereError: from_elsewhere,
    QueueFullError: lambda error: busy("too_many_jobs", str(error), JOB_RETRY_AFTER),
}


def _answer(error: Exception) -> Response:
    problem = describe(error)
    return _from_bug(error) if problem is None else problem.to_response()


def register(app: Flask) -> None:
    """Make every error of the application a problem document, its own and Flask's."""
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(Exception, _answer)
