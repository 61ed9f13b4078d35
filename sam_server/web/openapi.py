"""OpenAPI 3.1 from the schemas: what flask-openapi3 does not say by itself.

It documents one content type per body; here a body may be JSON, a form or a bare picture.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.types import ResponseDict
from flask_openapi3.utils import parse_body
from pydantic import BaseModel

from sam_server.web.problems import MIMETYPE

_PROBLEM = {"schema": {"$ref": "#/components/schemas/ProblemOut"}}
PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff", "application/octet-stream")
# Every path may answer with these.
ALWAYS = (401, 429, 500)


def responses(answers: Mapping[int, type[BaseModel] | None], *problems: int) -> ResponseDict:
    """The documented answers of a path: by status its schema (or no body), and its errors, ALWAYS included."""
    documented: ResponseDict = dict(answers.items())
    if 413 in problems:  # where there is a body, it may come too slowly
        problems = (*problems, 408)
    errors: ResponseDict = {
        status: {"description": HTTPStatus(status).phrase, "content": {MIMETYPE: _PROBLEM}}
        for status in sorted({*problems, *ALWAYS})
    }
    return documented | errors


def document_or_file(
    blueprint: APIBlueprint, model: type[BaseModel], mimetypes: Iterable[str], *other_json: dict[str, Any]
) -> dict[str, Any]:
    """The documented answer 200 of a path that gives a document, or a file of another media type.

    Args:
        blueprint: takes the model's schemas.
        model: of the document.
        mimetypes: of the files.
        other_json: schemas of files that are JSON, too.
    """
    _, components = parse_body(model)
    blueprint.components_schemas.update(components)
    document = {"$ref": f"#/components/schemas/{model.__name__}"}
    content: dict[str, Any] = {mimetype: {} for mimetype in mimetypes}
    content["application/json"] = {"schema": {"anyOf": [document, *other_json]}}
    return {"description": "the document, or a file", "content": content}


def body(
    blueprint: APIBlueprint, model: type[BaseModel], example: dict[str, Any], *, picture: bool = True
) -> dict[str, Any]:
    """The `openapi_extensions` of a path whose body is `model`.

    Args:
        blueprint: takes the model's schemas.
        model: the fields.
        example: a request that works.
        picture: whether a picture may come as a form field or as the whole body.
    """
    _, components = parse_body(model)
    blueprint.components_schemas.update(components)
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    content: dict[str, Any] = {"application/json": {"schema": reference, "example": example}}
    if picture:
        content["multipart/form-data"] = {"schema": _form(model)}
        binary = {"schema": {"type": "string", "format": "binary"}}
        content.update(dict.fromkeys(PICTURE_TYPES, binary))
    return {"requestBody": {"required": True, "content": content}}


def _form(model: type[BaseModel]) -> dict[str, Any]:
    """A form of the model's fields; the picture is a file, and what is not text is written as JSON."""
    properties: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        properties[name] = {"type": "string", "description": field.description or name}
    properties["image"] = {"type": "string", "format": "binary", "description": "the picture's file"}
    return {"type": "object", "properties": properties, "additionalProperties": False}
