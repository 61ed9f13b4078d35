"""Answers as JSON, written with orjson."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from flask import Response

from sam_server.sessions.kept import Session
from sam_server.web.hooks import note_session


def json_answer(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(document), status, headers, mimetype="application/json")


def picture_fields(session: Session) -> dict[str, Any]:
    """The fields of `PictureOut`."""
    note_session(session.id)
    height, width = session.image.embedding.original_size
    expires = datetime.now(UTC) + timedelta(seconds=session.expires_in)
    return {
        "session_id": session.id,
        "width": width,
        "height": height,
        "scaling": session.image.details.get("scaling"),
        "expires_at": expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
