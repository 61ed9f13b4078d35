"""Masks of overlapping tiles put together: the pieces of an object that tile borders cut become one mask.

Where two tiles overlap both see the same pixels. Two masks belong together if they agree there, so the overlap must
show enough of an object to tell it from its neighbours; it need not hold the whole of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from sam_server.automatic.boxes import box_of, drop_duplicates
from sam_server.automatic.layout import Crop
from sam_server.masks import rle
from sam_server.masks.record import MaskRecord, make_record
from sam_server.masks.rle import Rle

# IoU within the overlap of two tiles from which two masks are the same object.
JOIN_IOU = 0.5

# Share of a cut mask that must lie on a whole one to be its piece.
COVERED = 0.8

# A mask is cut by a tile's border if it comes this near, as a share of the tile's side: two low-res pixels.
CUT_TOLERANCE = 2 / 256


@dataclass(frozen=True)
class Piece:
    """A mask as one tile saw it.

    Attributes:
        record: in the picture's pixels.
        tile: index of the tile.
        cut: whether it reaches a border of the tile to the left, above, to the right, below, where the picture goes on.
    """

    record: MaskRecord
    tile: int
    cut: tuple[bool, bool, bool, bool]

    @property
    def whole(self) -> bool:
        """Whether no border cuts it."""
        return not any(self.cut)


@dataclass(frozen=True)
class Match:
    """Two pieces, by index, that show one object; `iou` within the overlap of their tiles."""

    first: int
    second: int
    iou: float


def join_tiles(
    found: Sequence[Sequence[MaskRecord]], tiles: Sequence[Crop], size: tuple[int, int], nms_threshold: float
) -> list[MaskRecord]:
    """Join the masks of all tiles, each object once.

    A mask that a border cuts and that no other tile continues is dropped, as it is at the edge of a crop.

    Args:
        found: the masks of each tile, in the picture's pixels.
        tiles: in the picture's pixels.
        size: (H, W) of the picture.
        nms_threshold: IoU of boxes above which the mask of lower predicted IoU is a duplicate.

    Returns:
        Whole masks, best predicted IoU first. A joined mask has the points of its pieces, their scores averaged
        by area, and the box around their tiles as its crop box.
    """
    pieces = [
        Piece(record, number, _cut(record, tile, size))
        for number, (records, tile) in enumerate(zip(found, tiles, strict=True))
        for record in records
    ]
    by_tile: list[list[int]] = [[] for _ in tiles]
    for index, piece in enumerate(pieces):
        by_tile[piece.tile].append(index)
    matches = [
        match
        for a, first in enumerate(tiles)
        for b in range(a + 1, len(tiles))
        if (overlap := _intersection(first, tiles[b])) is not None
        for match in _matches(pieces, by_tile[a], by_tile[b], overlap)
    ]
    covered = {index for match in matches for index in _covered(pieces, match)}
    groups = _groups(pieces, [match for match in matches if not {match.first, match.second} & covered])
    records = [
        _join(group)
        for indices in groups
        if not covered.intersection(indices) and _is_complete(group := [pieces[index] for index in indices], tiles)
    ]
    scores = np.array([record.predicted_iou for record in records], np.float32)
    return [records[index] for index in drop_duplicates(records, scores, nms_threshold)]


def _cut(record: MaskRecord, tile: Crop, size: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
    height, width = size
    x1, y1, x2, y2 = box_of(record)
    near = CUT_TOLERANCE * max(tile.size)
    return (
        tile.x1 > 0 and x1 - tile.x1 < near,
        tile.y1 > 0 and y1 - tile.y1 < near,
        tile.x2 < width and tile.x2 - 1 - x2 < near,
        tile.y2 < height and tile.y2 - 1 - y2 < near,
    )


def _intersection(a: Crop, b: Crop) -> Crop | None:
    common = Crop(max(a.x1, b.x1), max(a.y1, b.y1), min(a.x2, b.x2), min(a.y2, b.y2))
    return common if common.x1 < common.x2 and common.y1 < common.y2 else None


def _matches(pieces: Sequence[Piece], first: list[int], second: list[int], overlap: Crop) -> list[Match]:
    """Pairs that are each other's best partner in the overlap of two tiles, at least one of them cut."""
    first, second = (
        [index for index in indices if _area_within(pieces[index].record, overlap)] for indices in (first, second)
    )
    if not first or not second:
        return []
    packed = [[pieces[index].record.segmentation.to_coco() for index in indices] for indices in (first, second)]
    areas = [
        np.array([_area_within(pieces[index].record, overlap) for index in indices]) for indices in (first, second)
    ]
    # With iscrowd the union is the area of the first mask, so share * area is what they share. Two masks of different
    # tiles share pixels in the overlap only.
    share = np.asarray(coco.iou(packed[0], packed[1], [1] * len(second)))
    shared = share * np.array([pieces[index].record.area for index in first])[:, None]
    iou = shared / (areas[0][:, None] + areas[1][None, :] - shared)
    best = iou.argmax(axis=1)
    return [
        Match(first[i], second[j], float(iou[i, j]))
        for i, j in enumerate(best)
        if iou[i, j] >= JOIN_IOU
        and iou[:, j].argmax() == i
        and not (pieces[first[i]].whole and pieces[second[j]].whole)
    ]


def _area_within(record: MaskRecord, area: Crop) -> int:
    """Pixels of the mask within `area`."""
    x1, y1, x2, y2 = box_of(record)
    if x1 >= area.x1 and y1 >= area.y1 and x2 < area.x2 and y2 < area.y2:
        return record.area
    if x2 < area.x1 or y2 < area.y1 or x1 >= area.x2 or y1 >= area.y2:
        return 0
    mask = record.crop()
    rows = slice(max(area.y1 - mask.y, 0), max(area.y2 - mask.y, 0))
    columns = slice(max(area.x1 - mask.x, 0), max(area.x2 - mask.x, 0))
    return int(np.count_nonzero(mask.pixels[rows, columns]))


def _covered(pieces: Sequence[Piece], match: Match) -> list[int]:
    """The piece of a match that shows a part of what the other one shows whole."""
    for cut, other in ((match.first, match.second), (match.second, match.first)):
        if pieces[other].whole:
            pair = [pieces[index].record.segmentation.to_coco() for index in (cut, other)]
            share = float(coco.iou(pair[:1], pair[1:], [1])[0, 0])
            return [cut] if share >= COVERED else []
    return []


def _groups(pieces: Sequence[Piece], matches: Sequence[Match]) -> list[list[int]]:
    """Indices of the pieces of each object; cut pieces are joined, best matches first, never two of one tile."""
    group_of = {index: [index] for index in range(len(pieces))}
    for match in sorted(matches, key=lambda match: -match.iou):
        a, b = group_of[match.first], group_of[match.second]
        tiles = [pieces[index].tile for index in (*a, *b)]
        if a is b or pieces[match.first].whole or pieces[match.second].whole or len(set(tiles)) < len(tiles):
            continue
        a.extend(b)
        for index in b:
            group_of[index] = a
    return [group for index, group in group_of.items() if group[0] == index]


def _is_complete(group: Sequence[Piece], tiles: Sequence[Crop]) -> bool:
    """Whether beyond every border that cuts a piece another piece of the object was seen."""
    seen = [tiles[piece.tile] for piece in group]
    left, top = min(tile.x1 for tile in seen), min(tile.y1 for tile in seen)
    right, bottom = max(tile.x2 for tile in seen), max(tile.y2 for tile in seen)
    for piece, tile in zip(group, seen, strict=True):
        seen_beyond = (left < tile.x1, top < tile.y1, right > tile.x2, bottom > tile.y2)
        if any(cut and not beyond for cut, beyond in zip(piece.cut, seen_beyond, strict=True)):
            return False
    return True


def _join(group: Sequence[Piece]) -> MaskRecord:
    records = [piece.record for piece in group]
    if len(records) == 1:
        return records[0]
    merged = coco.merge([record.segmentation.to_coco() for record in records])
    weights = np.array([record.area for record in records], np.float64)
    boxes = np.array([record.crop_box for record in records])
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(axis=0).tolist()
    return make_record(
        rle.decode_crop(Rle(records[0].size, merged["counts"])),
        float(np.average([record.predicted_iou for record in records], weights=weights)),
        float(np.average([record.stability_score for record in records], weights=weights)),
        tuple(point for record in records for point in record.point_coords),
        (left, top, right - left, bottom - top),
    )
