"""POST /segment: prompts in, masks out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from sam_server.automatic.candidate import Candidate, Frame
from sam_server.masks.record import MaskRecord, make_record
from sam_server.predictor import Prediction
from sam_server.prompts import Prompt, PromptError, make_prompt
from sam_server.sessions.kept import Session
from sam_server.web.answers import json_answer, picture_fields
from sam_server.web.hooks import timed
from sam_server.web.openapi import body, responses
from sam_server.web.pictures import session_of
from sam_server.web.problems import Problem, from_prompt
from sam_server.web.reading import read_request
from sam_server.web.schemas import PromptIn, SegmentIn, SegmentOut
from sam_server.web.state import server

# How far the threshold is moved for `stability_score`, in logits: the default of SamAutomaticMaskGenerator.
STABILITY_OFFSET = 1.0

blueprint = APIBlueprint("segment", __name__, abp_tags=[Tag(name="masks", description="masks by prompt")])


@blueprint.post(
    "/segment",
    summary="Masks of what the prompts point at",
    responses=responses({200: SegmentOut}, 400, 404, 410, 413, 415, 422, 503),
    openapi_extensions=body(
        blueprint, SegmentIn, {"session_id": "0123456789abcdef0123456789abcdef", "points": [[120, 80]]}
    ),
)
def segment() -> Response:
    """On a session, or on a picture sent along, which becomes a session."""
    fields, source = read_request(SegmentIn)
    asked = _prompts_of(fields)
    model = server().model()
    session = session_of(fields.session_id, source)
    prompts = [_make_prompt(session, prompt, _place(fields, number)) for number, prompt in enumerate(asked)]
    with timed("predict"):
        predictions = model.predictor.predict(session.image.embedding, prompts, fields.multimask_output)
    with timed("mask"):
        results = _results(session, prompts, predictions)
        answer = {**picture_fields(session), "results": [_answer(masks, fields) for masks in results]}
    return json_answer(answer)


def _prompts_of(fields: SegmentIn) -> list[PromptIn]:
    """The prompts of a request, within the server's limits."""
    settings = server().settings
    if fields.prompts is not None and not fields.is_empty:
        raise Problem(
            422, "ambiguous_prompt", "give either prompts or the fields of one prompt, not both", field="prompts"
        )
    prompts: list[PromptIn] = [fields] if fields.prompts is None else list(fields.prompts)
    if len(prompts) > settings.max_prompts:
        detail = f"{len(prompts)} prompts in one call: send at most {settings.max_prompts}"
        raise Problem(422, "too_many_prompts", detail, field="prompts")
    for number, prompt in enumerate(prompts):
        if prompt.points is not None and len(prompt.points) > settings.max_points:
            detail = f"{len(prompt.points)} points in one prompt: send at most {settings.max_points}"
            raise Problem(422, "too_many_points", detail, field=f"{_place(fields, number)}.points".removeprefix("."))
    return prompts


def _place(fields: SegmentIn, number: int) -> str:
    """Where a prompt stands in the request."""
    return "" if fields.prompts is None else f"prompts[{number}]"


def _make_prompt(session: Session, prompt: PromptIn, place: str) -> Prompt:
    logits = None
    if prompt.mask_id is not None:
        with timed("cache"):
            logits = server().sessions.mask_logits(session.id, prompt.mask_id)
    try:
        return make_prompt(
            prompt.points,
            prompt.point_labels,
            prompt.box,
            logits,
            image_size=session.image.embedding.original_size,
        )
    except PromptError as error:
        raise from_prompt(error, place) from None


def _results(
    session: Session, prompts: Sequence[Prompt], predictions: Sequence[Prediction]
) -> list[list[tuple[str, MaskRecord]]]:
    """Per prompt its masks with their ids, best predicted IoU first; their logits are kept for refinement."""
    orders = [np.argsort(-prediction.iou, kind="stable") for prediction in predictions]
    logits = [p.logits[index] for p, order in zip(predictions, orders, strict=True) for index in order]
    ids = iter(server().sessions.keep_masks(session.id, logits))
    results = []
    for prompt, prediction, order in zip(prompts, predictions, orders, strict=True):
        results.append([(next(ids), _record(prompt, prediction, int(index))) for index in order])
    return results


def _record(prompt: Prompt, prediction: Prediction, index: int) -> MaskRecord:
    # The candidate's way, for no array of the picture's size is made and only what may be on the mask is upscaled.
    frame = Frame.of(prediction.spec, prediction.input_size, prediction.original_size, STABILITY_OFFSET)
    mask, stability = Candidate.cut(prediction.logits[index], frame).finish()
    return make_record(
        mask,
        float(prediction.iou[index]),
        stability,
        tuple((float(x), float(y)) for x, y in prompt.points),
    )


def _answer(masks: Sequence[tuple[str, MaskRecord]], fields: SegmentIn) -> dict[str, Any]:
    return {"masks": [{"mask_id": name, **record.to_dict(fields.mask_format)} for name, record in masks]}
