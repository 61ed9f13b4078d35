"""GET /openapi.json and /docs: the description of the server, and a page to try it that works offline."""

from importlib.resources import files
from typing import cast

from flask import Blueprint, Response, current_app, send_from_directory
from flask_openapi3.openapi import OpenAPI

from sam_server.web.answers import json_answer

# Swagger UI as the plugin package of flask-openapi3 ships it.
_SWAGGER_UI = str(files("flask_openapi3_swagger") / "templates" / "swagger")
_CSP = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"

blueprint = Blueprint("docs", __name__, static_folder="static", static_url_path="/static")


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The description of every path, OpenAPI 3.1."""
    return json_answer(cast(OpenAPI, current_app).api_doc)


@blueprint.get("/docs")
def docs() -> Response:
    """A page to read the description and try it."""
    page = blueprint.send_static_file("docs.html")
    page.headers["Content-Security-Policy"] = _CSP
    return page


@blueprint.get("/docs/ui/<path:name>")
def swagger_ui(name: str) -> Response:
    """The files of Swagger UI."""
    return send_from_directory(_SWAGGER_UI, name, max_age=86_400)
