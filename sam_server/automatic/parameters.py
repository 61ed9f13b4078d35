"""The parameters of automatic mask generation, with the names and defaults of SamAutomaticMaskGenerator."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from sam_server.prompts import FLOAT32_MAX

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
OUTPUT_MODES: tuple[OutputMode, ...] = get_args(OutputMode)

Grid = tuple[tuple[float, float], ...]

# Bounds on the work of one request. Layer n has 4^n crops, each a picture to encode.
MAX_CROP_LAYERS = 4
MAX_POINTS_PER_SIDE = 256
MAX_POINTS = 65_536
MAX_POINTS_PER_BATCH = 1024
MIN_TILE_SIZE, MAX_TILE_SIZE = 128, 8192

# What performance mode puts in place of the defaults, and the most crop layers it runs.
PERFORMANCE_DEFAULTS: dict[str, float] = {"points_per_side": 16, "pred_iou_thresh": 0.8, "min_mask_region_area": 500}
PERFORMANCE_MAX_CROP_LAYERS = 1

# What stands in place of the defaults, performance mode's too, for models that are less sure of themselves than the
# official ones; by model type.
MODEL_DEFAULTS: dict[str, dict[str, float]] = {"tiny": {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.92}}


class ParameterError(ValueError):
    """A parameter that makes no sense; the message says what to change, `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


@dataclass(frozen=True)
class AutomaticParameters:
    """How to find every mask of a picture.

    Attributes:
        points_per_side: points along one side of the grid, 1 to MAX_POINTS_PER_SIDE; None where point_grids is given.
        points_per_batch: most points that go through the model in one call.
        pred_iou_thresh: masks whose predicted IoU is not above it are dropped, 0 to 1; 0 keeps all.
        stability_score_thresh: masks whose stability score is below it are dropped, 0 to 1.
        stability_score_offset: how far the mask threshold moves for the stability score, in logits, >= 0.
        box_nms_thresh: IoU of boxes above which the mask of lower predicted IoU is a duplicate, 0 to 1.
        crop_n_layers: layers of crops that are searched after the whole picture; layer n has 4^n crops.
        crop_nms_thresh: as box_nms_thresh, between masks of different crops.
        crop_overlap_ratio: overlap of the first layer's crops over the picture's shorter side, 0 <= ratio < 1.
        crop_n_points_downscale_factor: points_per_side of layer n is divided by its nth power, >= 1.
        point_grids: for each layer the points x, y in 0..1 of the crop, in place of points_per_side.
        min_mask_region_area: holes and islands smaller than this are removed, in pixels; 0 keeps them.
        output_mode: the form of `segmentation` in `output.to_dicts`.
        tile_size: pictures with a longer side are searched in square tiles of this side, in pixels; None for never.
        tile_overlap: least overlap of neighbouring tiles in pixels; a quarter of tile_size if None. Of its grid
            a tile has the points up to the middle of its overlaps.

    Raises:
        ParameterError: a value is out of range; the message names it.

    Source: segment_anything/automatic_mask_generator.py; tile_size and tile_overlap are our own.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: tuple[Grid, ...] | None = None
    min_mask_region_area: int = 0
    output_mode: OutputMode = "binary_mask"
    tile_size: int | None = None
    tile_overlap: int | None = None

    def __post_init__(self) -> None:
        self._whole("points_per_batch", 1, MAX_POINTS_PER_BATCH)
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            self._number(name, 0, 1)
        self._number("stability_score_offset", 0, FLOAT32_MAX)
        self._whole("crop_n_layers", 0, MAX_CROP_LAYERS)
        self._number("crop_overlap_ratio", 0, 1)
        if self.crop_overlap_ratio == 1:
            raise ParameterError("crop_overlap_ratio", "must be below 1")
        self._whole("crop_n_points_downscale_factor", 1, MAX_POINTS_PER_SIDE)
        self._whole("min_mask_region_area", 0, None)
        if self.output_mode not in OUTPUT_MODES:
            raise ParameterError("output_mode", f"must be one of {', '.join(OUTPUT_MODES)}")
        self._check_points()
        self._check_tiles()

    @classmethod
    def from_values(
        cls, values: Mapping[str, Any], performance_mode: bool = False, model_type: str | None = None
    ) -> "AutomaticParameters":
        """Parameters from what a caller set, where model and performance mode change the defaults of the rest.

        Args:
            values: names and values that the caller set; what is missing keeps its default. point_grids alone take
                the place of points_per_side.
            performance_mode: take PERFORMANCE_DEFAULTS for what is missing, and at most one layer of crops.
            model_type: take MODEL_DEFAULTS of this model for what is missing; the reference's if it has none.

        Raises:
            ParameterError: a name is unknown, or a value out of range.
        """
        names = [item.name for item in fields(cls)]
        for name in values:
            if name not in names:
                raise ParameterError(name, f"is no parameter; known are {', '.join(names)}")
        if values.get("point_grids") is not None:
            values = {"points_per_side": None, **values}
        values = {**MODEL_DEFAULTS.get(model_type or "", {}), **values}
        if not performance_mode:
            return cls(**values)
        parameters = cls(**{**PERFORMANCE_DEFAULTS, **values})
        return replace(parameters, crop_n_layers=min(parameters.crop_n_layers, PERFORMANCE_MAX_CROP_LAYERS))

    @property
    def points(self) -> int:
        """Points of one picture or tile, over all its crops."""
        if self.point_grids is None:
            counts = [side**2 for side in self.sides()]
        else:
            counts = [len(grid) for grid in self.point_grids[: self.crop_n_layers + 1]]
        return sum(4**layer * count for layer, count in enumerate(counts))

    @property
    def overlap(self) -> int:
        """Least overlap of neighbouring tiles in pixels; 0 without tiles."""
        if self.tile_overlap is not None:
            return self.tile_overlap
        return 0 if self.tile_size is None else self.tile_size // 4

    def sides(self) -> list[int]:
        """Points per side of the whole picture and of each layer of crops, where `point_grids` is None."""
        assert self.points_per_side is not None
        factor = self.crop_n_points_downscale_factor
        return [int(self.points_per_side / factor**layer) for layer in range(self.crop_n_layers + 1)]

    def _check_points(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ParameterError("points_per_side", "or point_grids must be given, and the other one must be null")
        if self.point_grids is not None:
            object.__setattr__(self, "point_grids", _read_grids(self.point_grids))
            assert self.point_grids is not None
            if len(self.point_grids) <= self.crop_n_layers:
                wanted = self.crop_n_layers + 1
                raise ParameterError("point_grids", f"must hold {wanted} grids: the picture's, then one a crop layer")
        else:
            self._whole("points_per_side", 1, MAX_POINTS_PER_SIDE)
            if self.sides()[-1] == 0:
                message = "leaves the last crop layer without points: lower it, or raise points_per_side"
                raise ParameterError("crop_n_points_downscale_factor", message)
        if self.points > MAX_POINTS:
            field = "points_per_side" if self.point_grids is None else "point_grids"
            message = f"and crop_n_layers ask for {self.points:,} points in all; at most {MAX_POINTS:,} are searched"
            raise ParameterError(field, message)

    def _check_tiles(self) -> None:
        if self.tile_size is not None:
            self._whole("tile_size", MIN_TILE_SIZE, MAX_TILE_SIZE)
        if self.tile_overlap is None:
            return
        if self.tile_size is None:
            raise ParameterError("tile_overlap", "needs tile_size")
        # More than half, and a pixel would lie in more than two tiles of a row.
        self._whole("tile_overlap", 0, self.tile_size // 2)

    def _whole(self, name: str, low: int, high: int | None) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ParameterError(name, f"must be a whole number, not {value!r}")
        self._number(name, low, high)

    def _number(self, name: str, low: float, high: float | None) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ParameterError(name, f"must be a number, not {value!r}")
        if value < low or (high is not None and value > high):
            limits = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            raise ParameterError(name, f"must be {limits}, not {value!r}")


def _read_grids(grids: Any) -> tuple[Grid, ...]:
    """Nested sequences or arrays as nested tuples, checked."""
    try:
        read = tuple(tuple((float(x), float(y)) for x, y in grid) for grid in grids)
    except (TypeError, ValueError):
        raise ParameterError("point_grids", "must be a list of grids, each a list of pairs [x, y]") from None
    for grid in read:
        if not grid:
            raise ParameterError("point_grids", "must not hold an empty grid")
        if not all(0 <= x <= 1 and 0 <= y <= 1 for x, y in grid):
            raise ParameterError("point_grids", "must hold coordinates between 0 and 1, as shares of the crop's sides")
    return read
