"""POST /mask_sets: masks that the caller has, such as those of clicks, as a set to measure, group and export."""

from typing import Annotated, ClassVar

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import Field, StrictStr

from sam_server import images
from sam_server.masks import features
from sam_server.masks.mask_set import MAX_MASKS, MaskSet
from sam_server.masks.measured_set import measure_set
from sam_server.masks.record import make_record
from sam_server.masks.rle import Rle, RleError, decode_crop
from sam_server.sessions.kept import Session
from sam_server.sessions.mask_sets import KeptMaskSet
from sam_server.web.access import own_session
from sam_server.web.answers import json_answer
from sam_server.web.hooks import timed
from sam_server.web.mask_sets import mask_set_fields
from sam_server.web.openapi import body, responses
from sam_server.web.problems import Problem
from sam_server.web.reading import read_request
from sam_server.web.schemas import In, MaskSetOut, Number, Whole
from sam_server.web.state import server

Score = Annotated[Number, Field(ge=0)]

blueprint = APIBlueprint("collect", __name__, abp_tags=[Tag(name="mask sets", description="every mask of a picture")])


class RleIn(In):
    """COCO run-length encoding, compressed or as a list of counts."""

    size: tuple[Whole, Whole] = Field(description="height, width")
    counts: StrictStr | list[Whole]


class OneMaskIn(In):
    """A mask of the session's picture."""

    segmentation: RleIn
    predicted_iou: Score = Field(1.0, description="as POST /segment gave it; decides between duplicates")
    stability_score: Score = 1.0


class CollectIn(In):
    """Masks of one picture."""

    TEXT_FIELDS: ClassVar[frozenset[str]] = frozenset({"session_id"})

    session_id: StrictStr = Field(description="of POST /sessions or of an earlier answer")
    masks: list[OneMaskIn] = Field(min_length=1, max_length=MAX_MASKS)


@blueprint.post(
    "/mask_sets",
    summary="Keep masks as a mask set",
    responses=responses({201: MaskSetOut}, 400, 404, 410, 413, 415, 422, 503),
    openapi_extensions=body(
        blueprint,
        CollectIn,
        {
            "session_id": "0123456789abcdef0123456789abcdef",
            "masks": [{"segmentation": {"size": [2, 3], "counts": [2, 2, 2]}}],
        },
        picture=False,
    ),
)
def collect_masks() -> Response:
    """No model runs. The set is measured, grouped and exported like one of POST /generate_masks."""
    fields, source = read_request(CollectIn)
    if source is not None:
        raise Problem(422, "ambiguous_picture", "masks belong to a session: send no picture", field="image")
    with timed("cache"):
        session = own_session(fields.session_id)
    with timed("mask"):
        kept = KeptMaskSet(measure_set(_mask_set(session, fields)), None)
    set_id = server().sessions.keep_mask_set(session.id, kept)
    headers = {"Location": f"/mask_sets/{set_id}"}
    return json_answer(mask_set_fields(session, set_id, kept, "rle"), 201, headers)


def _mask_set(session: Session, fields: CollectIn) -> MaskSet:
    embedding = session.image.embedding
    backend = server().model().backend
    records = []
    for number, mask in enumerate(fields.masks):
        try:
            rle = Rle.from_dict(mask.segmentation.model_dump())
        except RleError as error:
            field = f"masks[{number}].segmentation"
            raise Problem(422, "invalid_mask", f"{field}: {error}", field=field) from None
        if rle.size != embedding.original_size:
            wanted = "height {}, width {}".format(*embedding.original_size)
            field = f"masks[{number}].segmentation.size"
            raise Problem(422, "invalid_mask", f"{field} must be that of the picture, {wanted}", field=field)
        records.append(make_record(decode_crop(rle), mask.predicted_iou, mask.stability_score))
    pixels = images.read(session.image.source, server().settings.image_limits).pixels
    pooled = features.pooled_embeddings(
        backend.embedding_array(embedding), embedding.input_size, backend.spec.image_size, records
    )
    # Edge contrasts tell what a search took for a thing; who brings masks knows what they show.
    return MaskSet(embedding.original_size, tuple(records), features.mean_colours(pixels, records), pooled)
