"""A mask set as COCO JSON."""

from typing import Any

import orjson

from sam_server.grouping.errors import GroupingError
from sam_server.grouping.group import Grouping, GroupResult
from sam_server.masks.measured_set import MeasuredSet


def to_coco(measured: MeasuredSet, result: GroupResult, method: str | None = None, file_name: str = "image") -> bytes:
    """The kept masks as a COCO data set of one picture, which pycocotools.coco.COCO loads.

    Annotation ids are mask indices + 1, since COCO counts from 1. Segmentations are compressed RLE, which
    pycocotools decodes whatever `iscrowd` says.

    Args:
        measured: the masks.
        result: which of them are kept, and their groups.
        method: the grouping whose groups become categories; one category "object" if None.
        file_name: of the picture.

    Raises:
        GroupingError: `method` is not among the groupings.
    """
    height, width = measured.masks.size
    grouping = None if method is None else grouping_of(result, method)
    names = ["object"] if grouping is None else [group.name for group in grouping.groups]
    number = {} if grouping is None else grouping.group_of()
    return orjson.dumps(
        {
            "info": {"description": "masks of one picture", "version": "1.0"},
            "images": [{"id": 1, "width": width, "height": height, "file_name": file_name}],
            "categories": [{"id": i + 1, "name": name, "supercategory": method or ""} for i, name in enumerate(names)],
            "annotations": [_annotation(measured, mask, number.get(mask, 0)) for mask in result.kept],
        }
    )


def grouping_of(result: GroupResult, method: str) -> Grouping:
    """The grouping by that method.

    Raises:
        GroupingError: it is not in the result.
    """
    for grouping in result.groupings:
        if grouping.method == method:
            return grouping
    raise GroupingError(f"the masks were not grouped by {method!r}: ask for that method as well", "method")


def _annotation(measured: MeasuredSet, mask: int, category: int) -> dict[str, Any]:
    record = measured.masks.records[mask]
    return {"id": mask + 1, "image_id": 1, "category_id": category + 1, "iscrowd": 0, **record.to_dict("rle")}
