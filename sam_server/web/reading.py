"""The body of a request: fields and a picture, as JSON, as a form, or as the bare picture.

A field stands under one name everywhere: in the JSON object, as a form field, or, beside a bare picture, in the
query. In forms and queries lists and numbers are written as JSON.
"""

import base64
import binascii
import io
from collections.abc import Mapping
from typing import IO, Any, TypeVar

from flask import Request, request
from pydantic_core import from_json
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wsgi import LimitedStream

from sam_server.web.problems import Problem
from sam_server.web.schemas import In

T = TypeVar("T", bound=In)

JSON = "application/json"
FORM = "multipart/form-data"
BINARY = "application/octet-stream"

# Room in a body for what is not the picture, in bytes: fields, boundaries.
FIELD_BYTES = 4 << 20


class InMemoryRequest(Request):
    """A request whose uploads never touch the disk: the limit on the body bounds the memory."""

    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return io.BytesIO()


def body_limit(image_bytes: int) -> int:
    """Bytes that a body may have so that a picture of `image_bytes` fits in as base64."""
    return (image_bytes + 2) // 3 * 4 + FIELD_BYTES


def read_request(model: type[T]) -> tuple[T, bytes | None]:
    """Read the current request.

    Args:
        model: the fields that it may have; a base64 picture is its field `image`.

    Returns:
        The checked fields, and the picture's file if one came in whatever way.

    Raises:
        Problem: 400 empty or malformed, 415 a content type that is none of these.
        pydantic.ValidationError: fields that are unknown or wrong.
    """
    stream = request.stream
    try:
        return _read(model)
    finally:
        # Werkzeug ends a chunked body at the limit without a word: one that was cut may look like anything.
        if request.content_length is None and isinstance(stream, LimitedStream) and stream.is_exhausted:
            raise RequestEntityTooLarge


def _read(model: type[T]) -> tuple[T, bytes | None]:
    mimetype = request.mimetype
    if mimetype == FORM:
        return _read_form(model)
    if mimetype.startswith("image/") or mimetype == BINARY:
        return model.model_validate(_fields(model, request.args)), _not_empty(request.get_data(cache=False))
    if mimetype == JSON or mimetype.endswith("+json"):
        fields = model.model_validate_json(_not_empty(request.get_data(cache=False)))
        image = getattr(fields, "image", None)
        return fields, None if image is None else decode_base64(image)
    if not request.get_data(cache=True):
        raise _empty()
    detail = f"Content-Type {mimetype or '(none)'}: send {JSON}, {FORM} or a bare picture as image/*"
    raise Problem(415, "unsupported_media_type", detail)


def decode_base64(text: str) -> bytes:
    """The bytes of base64 text or of a data URL.

    Raises:
        Problem: 400, it is neither.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise Problem(400, "bad_base64", "a data URL must be data:image/...;base64,...", field="image")
    packed = "".join(text.split()) if any(space in text for space in "\n\r\t ") else text
    try:
        data = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, "bad_base64", "image must be base64 text of a picture's file", field="image") from None
    if not data:
        raise Problem(400, "image_empty", "image is empty", field="image")
    return data


def _read_form(model: type[T]) -> tuple[T, bytes | None]:
    unknown = sorted(set(request.files) - {"image"})
    if unknown:
        detail = f"file field {unknown[0]!r}: the picture goes into the field 'image'"
        raise Problem(422, "unknown_field", detail, field=unknown[0])
    files = request.files.getlist("image")
    if len(files) > 1:
        raise Problem(422, "invalid_field", "send one picture a request", field="image")
    if not files and not request.form:
        raise _empty()
    fields = model.model_validate(_fields(model, request.form))
    image = getattr(fields, "image", None)
    if image is not None:
        return fields, decode_base64(image)
    if not files:
        return fields, None
    data = files[0].read()
    if not data:
        raise Problem(400, "image_empty", "image is empty", field="image")
    return fields, data


def _fields(model: type[In], texts: "MultiDict[str, str]") -> Mapping[str, object]:
    values: dict[str, object] = {}
    for name, given in texts.lists():
        if len(given) > 1:
            raise Problem(422, "invalid_field", f"{name} was given {len(given)} times", field=name)
        values[name] = given[0] if name in model.TEXT_FIELDS else _from_json(model, name, given[0])
    return values


def _from_json(model: type[In], name: str, text: str) -> object:
    if name not in model.model_fields:
        return text  # refused by name when the model sees it
    try:
        return from_json(text, allow_inf_nan=True)
    except ValueError as error:
        raise Problem(400, "malformed_json", f"{name} must be JSON here: {error}", field=name) from None


def _not_empty(body: bytes) -> bytes:
    if not body:
        raise _empty()
    return body


def _empty() -> Problem:
    return Problem(400, "empty_body", "the request has no body: send JSON, a form, or a picture")
