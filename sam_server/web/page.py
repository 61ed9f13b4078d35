"""GET /: the page that people meet, and the choices that it offers. Works offline: every file comes from here."""

from dataclasses import asdict, fields
from typing import Any

from flask import Blueprint, Response

from sam_server.grouping.partition import MethodParameters
from sam_server.grouping.presets import PRESETS, Preset
from sam_server.grouping.registry import METHODS, method_of
from sam_server.web.answers import json_answer

# No inline script or style, nothing from elsewhere; pictures are drawn from blobs that the page makes itself.
_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

blueprint = Blueprint("page", __name__, static_folder="static/page", static_url_path="/page")


@blueprint.get("/")
def home() -> Response:
    """The page."""
    page = blueprint.send_static_file("index.html")
    page.headers["Content-Security-Policy"] = _CSP
    page.headers["Referrer-Policy"] = "no-referrer"
    return page


@blueprint.get("/page/choices.json")
def choices() -> Response:
    """Presets and methods of grouping with the values that they begin with, for the page's sliders."""
    presets = {name: _preset(preset) for name, preset in PRESETS.items()}
    methods = {
        name: {"summary": method.summary, "parameters": _defaults(method.parameters)}
        for name, method in METHODS.items()
    }
    return json_answer({"presets": presets, "methods": methods})


@blueprint.after_request
def _say_what_it_is(response: Response) -> Response:
    """Browsers take a file for what its type says, never for what it looks like."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _preset(preset: Preset) -> dict[str, Any]:
    methods = [{"method": method_of(parameters).name, **asdict(parameters)} for parameters in preset.methods]
    return {"summary": preset.summary, "filters": asdict(preset.filters), "methods": methods}


def _defaults(parameters: type[MethodParameters]) -> dict[str, Any]:
    return {item.name: item.default for item in fields(parameters)}
