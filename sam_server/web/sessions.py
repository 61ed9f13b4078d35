"""POST /sessions; GET and DELETE /sessions/ID."""

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from sam_server.web.access import own_session
from sam_server.web.answers import json_answer, picture_fields
from sam_server.web.hooks import note_session, timed
from sam_server.web.openapi import body, responses
from sam_server.web.pictures import open_session
from sam_server.web.problems import Problem
from sam_server.web.reading import read_request
from sam_server.web.schemas import PictureIn, SessionCreated, SessionOut, SessionPath
from sam_server.web.state import server

blueprint = APIBlueprint("sessions", __name__, abp_tags=[Tag(name="sessions", description="pictures that are kept")])


@blueprint.post(
    "/sessions",
    summary="Encode a picture and keep it",
    responses=responses({201: SessionCreated}, 400, 413, 415, 422, 503),
    openapi_extensions=body(blueprint, PictureIn, {"image": "data:image/png;base64,iVBORw0KGgo..."}),
)
def create_session() -> Response:
    """The same picture is encoded once, however often it is posted; every post gets a session of its own."""
    _, source = read_request(PictureIn)
    if source is None:
        raise Problem(400, "missing_picture", "send a picture in the field 'image'", field="image")
    session, cached = open_session(source)
    headers = {"Location": f"/sessions/{session.id}"}
    return json_answer({**picture_fields(session), "cached": cached}, 201, headers)


@blueprint.get(
    "/sessions/<session_id>", summary="Look at a session", responses=responses({200: SessionOut}, 404, 410, 503)
)
def look_at_session(path: SessionPath) -> Response:
    """Looking counts as use: it moves `expires_at`."""
    with timed("cache"):
        session = own_session(path.session_id)
    return json_answer({**picture_fields(session), "masks": session.masks, "mask_sets": session.mask_sets})


@blueprint.delete("/sessions/<session_id>", summary="Forget a session", responses=responses({204: None}, 404, 410, 503))
def delete_session(path: SessionPath) -> Response:
    """The picture, its embedding and its masks are forgotten, unless another session has the same picture."""
    session = own_session(path.session_id)
    server().sessions.delete(session.id)
    note_session(session.id)
    return Response(status=204)
