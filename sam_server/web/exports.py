"""GET /mask_sets/ID: a kept mask set as JSON, COCO JSON, a table, a label map or an overlay."""

from collections.abc import Callable
from dataclasses import dataclass, field

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from sam_server import images
from sam_server.grouping.coco import grouping_of, to_coco
from sam_server.grouping.group import GroupResult, group_masks, restrict
from sam_server.grouping.label_map import LabelMap, make_label_map
from sam_server.grouping.overlay import draw_overlay, to_png
from sam_server.grouping.tables import to_csv, to_xlsx
from sam_server.masks.measured_set import MeasuredSet
from sam_server.sessions.kept import Session
from sam_server.sessions.mask_sets import KeptMaskSet
from sam_server.web.access import own_mask_set
from sam_server.web.answers import json_answer
from sam_server.web.group_schemas import KeptMaskSetOut, MaskSetPath, MaskSetQuery
from sam_server.web.hooks import timed
from sam_server.web.mask_sets import mask_set_fields
from sam_server.web.openapi import document_or_file, responses
from sam_server.web.problems import Problem
from sam_server.web.state import server

blueprint = APIBlueprint("exports", __name__, abp_tags=[Tag(name="mask sets", description="every mask of a picture")])


@dataclass(frozen=True, eq=False)
class Export:
    """What an export is made from.

    Attributes:
        session: the owner, which has the picture.
        measured: all masks.
        result: the last grouping; all masks without groups where there was none.
        method: whose groups are wanted, or None.
    """

    session: Session
    measured: MeasuredSet
    result: GroupResult
    method: str | None

    @property
    def group_of(self) -> dict[int, int] | None:
        """Number of each mask's group, or None where the masks themselves are wanted."""
        return None if self.method is None else grouping_of(self.result, self.method).group_of()


@dataclass(frozen=True)
class File:
    """A file to send, with headers of its own."""

    data: bytes
    headers: dict[str, str] = field(default_factory=dict)


def _coco(export: Export) -> File:
    return File(to_coco(export.measured, export.result, export.method, f"{export.session.id}.png"))


def _csv(export: Export) -> File:
    return File(to_csv(export.measured, export.result))


def _xlsx(export: Export) -> File:
    return File(to_xlsx(export.measured, export.result))


def _labels_png(export: Export) -> File:
    labels = _labels(export)
    return File(labels.to_png(), _overlaps(labels))


def _labels_tiff(export: Export) -> File:
    labels = _labels(export)
    return File(labels.to_tiff(), _overlaps(labels))


def _overlay(export: Export) -> File:
    picture = images.read(export.session.image.source, server().settings.image_limits)
    return File(to_png(draw_overlay(export.measured, export.result.kept, export.group_of, picture.pixels)))


def _labels(export: Export) -> LabelMap:
    groups = export.group_of
    label_of = None if groups is None else {mask: group + 1 for mask, group in groups.items()}
    return make_label_map(export.measured, export.result.kept, label_of)


def _overlaps(labels: LabelMap) -> dict[str, str]:
    """What the label map cannot show: where masks overlap it shows the smallest."""
    return {"X-Overlapping-Pixels": str(labels.overlapping_pixels), "X-Covered-Masks": str(len(labels.hidden))}


@dataclass(frozen=True)
class Format:
    """One way to write a mask set: what writes it, its media type, and the ending of the file's name."""

    write: Callable[[Export], File]
    mimetype: str
    ending: str


FORMATS = {
    "coco": Format(_coco, "application/json", "coco.json"),
    "csv": Format(_csv, "text/csv", "csv"),
    "xlsx": Format(_xlsx, "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
    "labels_png": Format(_labels_png, "image/png", "labels.png"),
    "labels_tiff": Format(_labels_tiff, "image/tiff", "labels.tiff"),
    "overlay": Format(_overlay, "image/png", "overlay.png"),
}


# What every reader of COCO JSON counts on.
COCO = {"type": "object", "required": ["images", "annotations", "categories"]}


@blueprint.get(
    "/mask_sets/<mask_set_id>",
    summary="A kept mask set, in many formats",
    responses={
        **responses({}, 404, 410, 422, 503),
        200: document_or_file(blueprint, KeptMaskSetOut, {format.mimetype for format in FORMATS.values()}, COCO),
    },
)
def look_at_mask_set(path: MaskSetPath, query: MaskSetQuery) -> Response:
    """JSON holds all masks; the other formats hold those that passed the filters of the last POST /group_masks."""
    session, kept = own_mask_set(path.mask_set_id)
    assert isinstance(kept, KeptMaskSet)
    if query.format == "json":
        grouping = None if kept.grouping is None else kept.grouping.to_dict()
        fields = mask_set_fields(session, path.mask_set_id, kept, query.mask_format)
        return json_answer({**fields, "grouping": grouping})
    result = _wanted(kept.measured, kept.grouping or group_masks(kept.measured), query)
    written = FORMATS[query.format]
    with timed("export"):
        file = written.write(Export(session, kept.measured, result, query.method))
    answer = Response(file.data, mimetype=written.mimetype, headers=file.headers)
    name = f"mask_set_{path.mask_set_id}.{written.ending}"
    answer.headers["Content-Disposition"] = (
        f'{"inline" if query.format == "overlay" else "attachment"}; filename="{name}"'
    )
    return answer


def _wanted(measured: MeasuredSet, result: GroupResult, query: MaskSetQuery) -> GroupResult:
    """The masks that the query asks for: all that are kept, those of one group, or those it names."""
    if query.group is None and query.masks is None:
        return result
    if query.group is not None and query.masks is not None:
        raise Problem(422, "invalid_field", "give either group or masks, not both", field="group")
    if query.masks is not None:
        return restrict(measured, result, [int(number) for number in query.masks.split(",")])
    if query.method is None:
        raise Problem(422, "invalid_field", "group needs the method that made it", field="method")
    groups = {group.name: group for group in grouping_of(result, query.method).groups}
    if query.group not in groups:
        raise Problem(422, "invalid_field", f"group must be one of {', '.join(groups)}", field="group")
    return restrict(measured, result, groups[query.group].masks)
