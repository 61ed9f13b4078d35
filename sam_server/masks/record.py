"""The record of one mask, with the field names of SA-1B."""

import base64
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sam_server.arrays import BoolArray
from sam_server.masks import png, polygons, rle
from sam_server.masks.crop import CroppedMask
from sam_server.masks.rle import Rle

MaskFormat = Literal["rle", "polygon", "png", "none"]
MASK_FORMATS: tuple[MaskFormat, ...] = get_args(MaskFormat)

PointCoords = tuple[tuple[float, float], ...]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class MaskRecord:
    """One mask of a picture, in the picture's own pixels.

    Attributes:
        segmentation: the mask; other formats are made from it when it is sent.
        bbox: x, y, width, height as in COCO.
        area: pixels on the mask.
        predicted_iou: the model's own estimate of the mask's quality.
        stability_score: IoU of the masks at a raised and a lowered threshold, 0 to 1.
        crop_box: x, y, width, height of the crop the mask was found in.
        point_coords: the points x, y that asked for the mask.
    """

    segmentation: Rle
    bbox: Box
    area: int
    predicted_iou: float
    stability_score: float
    crop_box: Box
    point_coords: PointCoords = ()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self.segmentation.size

    @property
    def nbytes(self) -> int:
        """Memory that the record holds, in bytes, near enough for a budget."""
        return len(self.segmentation.counts) + _OBJECT_BYTES + 64 * len(self.point_coords)

    def crop(self) -> CroppedMask:
        """The mask's pixels in their smallest rectangle."""
        return rle.decode_crop(self.segmentation)

    def to_mask(self) -> BoolArray:
        """The whole mask, (H, W) bool."""
        return rle.decode(self.segmentation)

    def to_dict(self, mask_format: MaskFormat = "rle") -> dict[str, Any]:
        """The record as JSON values.

        Args:
            mask_format: "rle" (COCO RLE), "polygon" (a GeoJSON MultiPolygon, see masks/polygons.py),
                "png" (base64 of a 1-bit PNG of the picture's size) or "none" (no `segmentation` at all).

        Raises:
            ValueError: mask_format is none of these.
        """
        fields: dict[str, Any] = {
            "bbox": list(self.bbox),
            "area": self.area,
            "predicted_iou": self.predicted_iou,
            "stability_score": self.stability_score,
            "crop_box": list(self.crop_box),
            "point_coords": [list(point) for point in self.point_coords],
        }
        if mask_format == "none":
            return fields
        return {"segmentation": _segmentation(self.segmentation, mask_format), **fields}


# A record without its RLE string and points, measured with pympler on CPython 3.11 and rounded up.
_OBJECT_BYTES = 1000


def make_record(
    mask: CroppedMask,
    predicted_iou: float,
    stability_score: float,
    point_coords: PointCoords = (),
    crop_box: Box | None = None,
) -> MaskRecord:
    """Make the record of a mask.

    Args:
        mask: the mask; `CroppedMask.from_mask` takes a whole one.
        predicted_iou: the model's estimate of the mask's quality.
        stability_score: see masks/stability.py.
        point_coords: the points x, y that asked for the mask.
        crop_box: x, y, width, height of the crop it was found in; the whole picture if None.
    """
    mask = mask.trimmed()
    height, width = mask.size
    return MaskRecord(
        segmentation=rle.encode_crop(mask),
        bbox=mask.bbox,
        area=mask.area,
        predicted_iou=float(predicted_iou),
        stability_score=float(stability_score),
        crop_box=(0, 0, width, height) if crop_box is None else crop_box,
        point_coords=point_coords,
    )


def _segmentation(segmentation: Rle, mask_format: MaskFormat) -> dict[str, Any] | str:
    if mask_format == "rle":
        return segmentation.to_dict()
    if mask_format == "polygon":
        return polygons.to_geojson(polygons.from_crop(rle.decode_crop(segmentation)))
    if mask_format == "png":
        return base64.b64encode(png.encode(rle.decode(segmentation))).decode("ascii")
    raise ValueError(f"mask_format must be one of {', '.join(MASK_FORMATS)}, not {mask_format!r}")
