"""GET /sessions/ID/image: a session's picture the way the model sees it, for clients that cannot read its format."""

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from sam_server import images
from sam_server.grouping.overlay import to_png
from sam_server.web.access import own_session
from sam_server.web.hooks import timed
from sam_server.web.openapi import responses
from sam_server.web.schemas import SessionPath
from sam_server.web.state import server

blueprint = APIBlueprint("previews", __name__, abp_tags=[Tag(name="sessions", description="pictures that are kept")])


@blueprint.get(
    "/sessions/<session_id>/image",
    summary="A session's picture as PNG",
    responses={200: {"description": "8-bit RGB", "content": {"image/png": {}}}, **responses({}, 404, 410, 503)},
)
def session_image(path: SessionPath) -> Response:
    """After EXIF rotation, and with the scaling of pictures of more than 8 bits."""
    state = server()
    with timed("cache"):
        session = own_session(path.session_id)
    with timed("decode"):
        pixels = images.read(session.image.source, state.settings.image_limits).pixels
    with timed("export"):
        data = to_png(pixels)
    return Response(data, mimetype="image/png", headers={"Cache-Control": "private, max-age=3600"})
