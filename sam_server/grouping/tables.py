"""Masks and groups as tables: CSV and XLSX."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sam_server.grouping.group import GroupResult
from sam_server.grouping.statistics import DESCRIBED, Description
from sam_server.masks.measured_set import MeasuredSet
from sam_server.masks.measures import NAMES

if TYPE_CHECKING:
    from openpyxl import Workbook

Cell = str | int | float | None

# Columns that hold whole numbers, and are written as such.
_WHOLE = ("parts", "touches_edge")
_STATISTICS = tuple(field.name for field in fields(Description))


def mask_columns(result: GroupResult) -> list[str]:
    """Header of the table of masks.

    Measures are in the unit of the last column, areas in its square; bbox is in pixels.
    """
    groups = [f"group_{grouping.method}" for grouping in result.groupings]
    boxes = ["bbox_x", "bbox_y", "bbox_width", "bbox_height"]
    return ["mask", *groups, *NAMES, *boxes, "predicted_iou", "stability_score", "pixel_size", "unit"]


def mask_rows(measured: MeasuredSet, result: GroupResult) -> Iterator[list[Cell]]:
    """Rows of the table of masks, one per kept mask; None where a measure is not known."""
    names = [{mask: group.name for group in g.groups for mask in group.masks} for g in result.groupings]
    columns = [_cells(name, result.measures.column(name).tolist()) for name in NAMES]
    for mask, *values in zip(result.kept, *columns, strict=True):
        record = measured.masks.records[mask]
        groups = [of_mask[mask] for of_mask in names]
        scores = [record.predicted_iou, record.stability_score]
        yield [mask, *groups, *values, *record.bbox, *scores, result.scale.pixel_size, result.scale.unit]


def group_columns() -> list[str]:
    """Header of the table of groups: count, covered share, and each statistic of each measure."""
    statistics = [f"{measure}_{statistic}" for measure in DESCRIBED for statistic in _STATISTICS]
    return ["method", "group", "count", "covered_share", *statistics, "unit"]


def group_rows(result: GroupResult) -> Iterator[list[Cell]]:
    """Rows of the table of groups: the total first, then every group of every method."""
    entries = [("", "total", result.total)]
    entries += [(g.method, group.name, group.statistics) for g in result.groupings for group in g.groups]
    for method, name, entry in entries:
        described = [getattr(entry.measures[measure], statistic) for measure in DESCRIBED for statistic in _STATISTICS]
        yield [method, name, entry.count, entry.covered_share, *described, result.scale.unit]


def to_csv(measured: MeasuredSet, result: GroupResult) -> bytes:
    """The table of masks as CSV (RFC 4180, UTF-8); what is not known is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(mask_columns(result))
    writer.writerows(mask_rows(measured, result))
    return text.getvalue().encode()


def to_xlsx(measured: MeasuredSet, result: GroupResult) -> bytes:
    """A workbook with the sheets masks, groups and filters."""
    # Imported here, for a start would wait for it, and few ask for it.
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    _sheet(book, "masks", mask_columns(result), mask_rows(measured, result))
    _sheet(book, "groups", group_columns(), group_rows(result))
    _sheet(book, "filters", ["filter", "removed"], ([entry.filter, entry.count] for entry in result.removed))
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def _sheet(book: "Workbook", title: str, header: list[str], rows: Iterator[Any]) -> None:
    sheet = book.create_sheet(title)
    sheet.freeze_panes = "B2"
    sheet.append(header)
    for row in rows:
        sheet.append(row)


def _cells(name: str, values: list[float]) -> list[Cell]:
    cells: list[Cell] = [None if math.isnan(value) else value for value in values]
    return [None if cell is None else int(cell) for cell in cells] if name in _WHOLE else cells
