"""POST /generate_masks: every mask of a picture."""

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from sam_server.sessions.mask_sets import KeptMaskSet
from sam_server.web.answers import json_answer
from sam_server.web.hooks import timed
from sam_server.web.jobs import run_job
from sam_server.web.mask_sets import FORMAT_OF_MODE, mask_set_fields, search_parameters
from sam_server.web.openapi import body, responses
from sam_server.web.pictures import session_of
from sam_server.web.problems import Problem
from sam_server.web.reading import read_request
from sam_server.web.schemas import GenerateIn, JobOut, MaskSetOut
from sam_server.web.state import server
from sam_server.web.work import arguments_of, make_work

blueprint = APIBlueprint("generate", __name__, abp_tags=[Tag(name="mask sets", description="every mask of a picture")])


@blueprint.post(
    "/generate_masks",
    summary="Every mask of a picture",
    responses=responses({200: MaskSetOut, 202: JobOut}, 400, 404, 409, 410, 413, 415, 422, 503),
    openapi_extensions=body(
        blueprint, GenerateIn, {"session_id": "0123456789abcdef0123456789abcdef", "points_per_side": 16}
    ),
)
def generate_masks() -> Response:
    """The result is a mask set that is kept with the session. With `Prefer: respond-async` it is a job."""
    fields, source = read_request(GenerateIn)
    state = server()
    model = state.model()
    if fields.output_mode is not None and fields.mask_format is not None:
        raise Problem(422, "invalid_field", "give either mask_format or output_mode, not both", field="output_mode")
    parameters = search_parameters(fields, model)
    session = session_of(fields.session_id, source)
    with timed("mask"):
        arguments = arguments_of(session, parameters)
        job = run_job("generate_masks", make_work(state, arguments, session), arguments)
    if isinstance(job, Response):
        return job
    session, kept = state.sessions.mask_set(job.result["mask_set_id"])
    assert isinstance(kept, KeptMaskSet)
    mode = fields.output_mode
    mask_format = fields.mask_format or ("rle" if mode is None else FORMAT_OF_MODE.get(mode, "rle"))
    return json_answer(mask_set_fields(session, job.result["mask_set_id"], kept, mask_format, mode))
