"""The Flask application, put together from its blueprints."""

from typing import Any

from flask import Response
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from sam_server import __version__
from sam_server.web import (
    access,
    collect,
    docs,
    exports,
    generate,
    group,
    hooks,
    info,
    jobs,
    page,
    previews,
    problems,
    segment,
    sessions,
    turns,
)
from sam_server.web.reading import FIELD_BYTES, InMemoryRequest, body_limit
from sam_server.web.schemas import ProblemOut
from sam_server.web.state import EXTENSION, Server

DESCRIPTION = "Segment Anything over HTTP: masks by prompt, every mask of a picture, and groups of masks."

# Both ways of sending a key; a server without SAM_API_KEYS asks for none.
SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def make_app(server: Server) -> OpenAPI:
    """Make the WSGI application.

    Args:
        server: what the requests share.
    """
    app = OpenAPI(
        "sam_server.web",
        info=Info(title="Mask Grouping Server", version=__version__, description=DESCRIPTION),
        security_schemes=SECURITY_SCHEMES,
        doc_ui=False,
        static_folder=None,
        validation_error_status=500,  # documented by hand everywhere, so that no other shape is added
        validation_error_model=ProblemOut,
        validation_error_callback=_refuse,
    )
    app.request_class = InMemoryRequest
    app.extensions[EXTENSION] = server
    app.config["MAX_CONTENT_LENGTH"] = body_limit(server.settings.image_limits.max_bytes)
    app.config["MAX_FORM_MEMORY_SIZE"] = FIELD_BYTES
    hooks.register(app)
    access.register(app)
    turns.register(app)
    problems.register(app)
    for room in (info, sessions, previews, segment, generate, group, collect, exports, jobs):
        app.register_api(room.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(page.blueprint)
    return app


def _refuse(error: Any) -> Response:
    return problems.from_validation(error).to_response()
