"""What a caller points at: points with labels, a box, earlier logits. In the picture's own pixels."""

from dataclasses import dataclass

import numpy as np

from sam_server.arrays import CoordArray, FloatArray, IntArray

# Labels of the prompt encoder (segment_anything/modeling/prompt_encoder.py): a box is two labelled
# corners, and a prompt without a box is closed by one padding point.
LABEL_PADDING = -1
LABEL_BACKGROUND = 0
LABEL_FOREGROUND = 1
LABEL_BOX_FIRST = 2
LABEL_BOX_SECOND = 3

# Coordinates end as float32; past its range a finite number would turn into infinity.
FLOAT32_MAX = float(np.finfo(np.float32).max)


class PromptError(ValueError):
    """A prompt that makes no sense; the message says what to change, `field` names where."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Prompt:
    """One prompt, in pixels of the picture after EXIF rotation.

    Attributes:
        points: (P, 2) float64 x, y; P may be 0.
        point_labels: (P,) int64, 1 foreground and 0 background.
        box: (4,) float64 x1, y1, x2, y2, or None.
        mask_input: (L, L) float32 low-res logits of an earlier mask, or None.
    """

    points: CoordArray
    point_labels: IntArray
    box: CoordArray | None = None
    mask_input: FloatArray | None = None

    @property
    def shape(self) -> tuple[int, bool, bool]:
        """(points, has a box, has a mask): prompts of equal shape decode in one batch without padding."""
        return (len(self.points), self.box is not None, self.mask_input is not None)


@dataclass(frozen=True)
class PromptBatch:
    """N prompts of one shape, ready for a backend.

    Attributes:
        point_coords: (N, P, 2) float32 x, y in model input pixels. The box's corners come last; a prompt without
            a box ends with the padding point (0, 0).
        point_labels: (N, P) int64: 1, 0, 2 and 3 for a box's corners, -1 for padding.
        mask_input: (N, 1, L, L) float32 logits, or None.
    """

    point_coords: FloatArray
    point_labels: IntArray
    mask_input: FloatArray | None = None

    def __len__(self) -> int:
        return int(self.point_coords.shape[0])

    def __getitem__(self, rows: slice) -> "PromptBatch":
        """The prompts of `rows`: chunks of a long batch."""
        mask_input = None if self.mask_input is None else self.mask_input[rows]
        return PromptBatch(self.point_coords[rows], self.point_labels[rows], mask_input)


def make_prompt(
    points: object = None,
    point_labels: object = None,
    box: object = None,
    mask_input: FloatArray | None = None,
    *,
    image_size: tuple[int, int] | None = None,
) -> Prompt:
    """Check and build a prompt from plain lists or arrays.

    Args:
        points: P pairs x, y, or None.
        point_labels: P labels, 1 or 0; all foreground if None.
        box: x1, y1, x2, y2, or None. Corners in the wrong order are put right.
        mask_input: (L, L) float32 logits, or None.
        image_size: (H, W) of the picture; where given, points must lie on it and the box must meet it.

    Raises:
        PromptError: nothing was given, shapes do not match, a value is not finite or lies outside the picture.
    """
    if points is None and point_labels is None and box is None and mask_input is None:
        raise PromptError("a prompt needs points, a box or a mask_id", "prompt")
    coords = _points(points)
    labels = _labels(point_labels, len(coords), points is None)
    corners = None if box is None else _box(box)
    if image_size is not None:
        _check_inside(coords, corners, image_size)
    return Prompt(coords, labels, corners, mask_input)


def _points(points: object) -> CoordArray:
    if points is None:
        return np.zeros((0, 2))
    coords = _numbers(points, "points", "pairs [x, y]")
    if coords.ndim != 2 or coords.shape[1] != 2 or len(coords) == 0:
        raise PromptError("points must be a list of one or more pairs [x, y]", "points")
    return coords


def _labels(labels: object, count: int, no_points: bool) -> IntArray:
    if labels is None:
        return np.full(count, LABEL_FOREGROUND, np.int64)
    if no_points:
        raise PromptError("point_labels were given without points", "point_labels")
    values = _numbers(labels, "point_labels", "0 or 1")
    if values.shape != (count,):
        raise PromptError(
            f"point_labels must have one label per point: {count} expected, {values.size} given", "point_labels"
        )
    if not np.isin(values, (LABEL_BACKGROUND, LABEL_FOREGROUND)).all():
        raise PromptError("point_labels must be 1 (foreground) or 0 (background)", "point_labels")
    return values.astype(np.int64)


def _box(box: object) -> CoordArray:
    corners = _numbers(box, "box", "four numbers x1, y1, x2, y2")
    if corners.shape != (4,):
        raise PromptError("box must be four numbers x1, y1, x2, y2", "box")
    x1, y1, x2, y2 = (float(value) for value in corners)
    if x1 == x2 or y1 == y2:
        raise PromptError("box has no area: x1 and x2, y1 and y2 must differ", "box")
    return np.array([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)])


def _numbers(values: object, field: str, expected: str) -> CoordArray:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise PromptError(f"{field} must be {expected}", field) from None
    if not (np.abs(numbers) <= FLOAT32_MAX).all():
        raise PromptError(f"{field} must be finite numbers", field)
    return numbers


def _check_inside(coords: CoordArray, box: CoordArray | None, image_size: tuple[int, int]) -> None:
    height, width = image_size
    outside = (coords < 0).any(axis=1) | (coords[:, 0] > width) | (coords[:, 1] > height)
    if outside.any():
        x, y = coords[int(np.argmax(outside))]
        raise PromptError(
            f"point ({x:g}, {y:g}) lies outside the picture, which is {width} x {height} pixels", "points"
        )
    if box is not None and (box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0):
        raise PromptError(f"box lies outside the picture, which is {width} x {height} pixels", "box")
