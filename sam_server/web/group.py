"""POST /group_masks: masks into groups, without the model where the masks are known."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from sam_server.automatic.parameters import AutomaticParameters
from sam_server.grouping.filters import Filters
from sam_server.grouping.partition import MethodParameters
from sam_server.grouping.plan import Plan
from sam_server.grouping.presets import preset
from sam_server.grouping.registry import make_parameters
from sam_server.grouping.selection import Scale
from sam_server.masks.measures import Measures
from sam_server.sessions.kept import Session
from sam_server.sessions.mask_sets import KeptMaskSet
from sam_server.web.access import own_mask_set
from sam_server.web.answers import json_answer, picture_fields
from sam_server.web.group_schemas import GroupIn, GroupOut
from sam_server.web.hooks import timed
from sam_server.web.jobs import run_job
from sam_server.web.mask_sets import found_with, search_parameters
from sam_server.web.openapi import body, responses
from sam_server.web.pictures import session_of
from sam_server.web.problems import Problem
from sam_server.web.reading import read_request
from sam_server.web.schemas import JobOut, SearchIn
from sam_server.web.state import Server, server
from sam_server.web.work import arguments_of, group_set, make_work

blueprint = APIBlueprint("group", __name__, abp_tags=[Tag(name="mask sets", description="every mask of a picture")])

# What is asked for where a request names neither preset nor methods.
DEFAULT_PRESET = "everything"


@blueprint.post(
    "/group_masks",
    summary="Groups of masks, with statistics",
    responses=responses({200: GroupOut, 202: JobOut}, 400, 404, 409, 410, 413, 415, 422, 503),
    openapi_extensions=body(
        blueprint, GroupIn, {"mask_set_id": "0123456789abcdef0123456789abcdef", "preset": "droplets"}
    ),
)
def group_masks_of() -> Response:
    """A kept mask set is grouped in milliseconds. Where masks must be found first, `Prefer: respond-async` works."""
    fields, source = read_request(GroupIn)
    plan = _plan(fields)
    state = server()
    if fields.mask_set_id is not None:
        if source is not None or fields.session_id is not None or fields.generate is not None:
            detail = "a mask set needs no picture, session or search beside it"
            raise Problem(422, "ambiguous_picture", detail, field="mask_set_id")
        own_mask_set(fields.mask_set_id)
        return _answer(state, fields.mask_set_id, plan, fields.include_measures)
    model = state.model()
    begin_with = {} if fields.preset is None else preset(fields.preset).search
    search = None if fields.generate is None else search_parameters(fields.generate, model, begin_with)
    session = session_of(fields.session_id, source)
    set_id = _known_set(state, session, search)
    if set_id is None:
        search = search or search_parameters(SearchIn.model_validate({}), model, begin_with)
        with timed("mask"):
            arguments = arguments_of(session, search, plan)
            job = run_job("group_masks", make_work(state, arguments, session), arguments)
        if isinstance(job, Response):
            return job
        set_id = str(job.result["mask_set_id"])
    return _answer(state, set_id, plan, fields.include_measures)


def _plan(fields: GroupIn) -> Plan:
    """Methods, filters and scale: those of the preset, with what the request changes."""
    name = fields.preset or (DEFAULT_PRESET if fields.methods is None else None)
    base = None if name is None else preset(name)
    methods: Sequence[MethodParameters] = () if base is None else base.methods
    if fields.methods is not None:
        methods = [make_parameters(item.method, _given(item, "method")) for item in fields.methods]
    filters = Filters() if base is None else base.filters
    if fields.filters is not None:
        filters = replace(filters, **_given(fields.filters))
    if fields.pixel_size is not None and fields.unit is None:
        raise Problem(422, "invalid_grouping", "a pixel_size needs its unit, such as µm", field="unit")
    scale = Scale(1.0 if fields.pixel_size is None else fields.pixel_size, fields.unit or "px")
    return Plan(tuple(methods), filters, scale)


def _given(model: Any, *without: str) -> dict[str, Any]:
    """What a request set of a model, by name."""
    return {name: getattr(model, name) for name in model.model_fields_set if name not in without}


def _known_set(state: Server, session: Session, search: AutomaticParameters | None) -> str | None:
    """The session's newest mask set that was found with these parameters (with any if None), if there is one."""
    for set_id in reversed(session.mask_sets):
        _, kept = state.sessions.mask_set(set_id)
        assert isinstance(kept, KeptMaskSet)
        if kept.parameters is not None and search in (None, kept.parameters):
            return set_id
    return None


def _answer(state: Server, set_id: str, plan: Plan, with_measures: bool) -> Response:
    with timed("group"):
        session, kept, result = group_set(state, set_id, plan)
    return json_answer(
        {
            **picture_fields(session),
            "mask_set_id": set_id,
            "count": len(kept.measured),
            "parameters": found_with(kept),
            **result.to_dict(),
            "measures": _columns(result.measures) if with_measures else None,
        }
    )


def _columns(measures: Measures) -> dict[str, list[float | None]]:
    """Each measure as a list; null where it is not known."""
    columns: dict[str, list[float | None]] = {}
    for item in fields(measures):
        values: list[float] = getattr(measures, item.name).tolist()
        columns[item.name] = [value if math.isfinite(value) else None for value in values]
    return columns
