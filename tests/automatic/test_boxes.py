"""Non-maximum suppression and the edges of crops against plain definitions and the reference."""

import numpy as np
import pytest
import torch

from sam_server.automatic.boxes import non_maximum_suppression, touches_crop_edge
from sam_server.automatic.layout import Crop
from tests.reference import torchvision_functions

torchvision_functions.supply()

from segment_anything.utils.amg import is_box_near_crop_edge  # noqa: E402


def random_boxes(seed: int, count: int) -> np.ndarray:
    """Boxes with many overlaps, some of them a pixel wide (area 0 by the reference's count)."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 60, (count, 2))
    return np.concatenate([corners, corners + rng.integers(0, 25, (count, 2))], axis=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_suppression_equals_torchvision(seed: int, threshold: float) -> None:
    boxes = random_boxes(seed, 120)
    scores = np.random.default_rng(seed).integers(0, 20, 120).astype(np.float32) / 20  # many ties
    expected = torchvision_functions.nms(torch.from_numpy(boxes).float(), torch.from_numpy(scores), threshold)
    assert non_maximum_suppression(boxes, scores, threshold) == expected.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_refusing_late_equals_leaving_out_early(seed: int) -> None:
    boxes = random_boxes(seed, 200)
    rng = np.random.default_rng(seed)
    scores, stable = rng.random(200).astype(np.float32), rng.random(200) > 0.4
    asked: list[int] = []

    def accept(index: int) -> bool:
        asked.append(index)
        return bool(stable[index])

    found = non_maximum_suppression(boxes, scores, 0.4, accept)
    rows = np.flatnonzero(stable)
    expected = rows[non_maximum_suppression(boxes[rows], scores[rows], 0.4)]
    assert found == expected.tolist()
    assert len(asked) < 200, "what is suppressed is not asked about"


def test_no_boxes() -> None:
    assert non_maximum_suppression(np.zeros((0, 4), np.int64), np.zeros(0, np.float32), 0.7) == []


def test_crop_edges_equal_the_reference() -> None:
    picture, crop = Crop(0, 0, 400, 300), Crop(100, 0, 300, 200, 1)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 150, (500, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 60, (500, 2))], axis=1)
    box, outer = [crop.x1, crop.y1, crop.x2, crop.y2], [0, 0, 400, 300]
    expected = is_box_near_crop_edge(torch.from_numpy(boxes), box, outer)
    moved = boxes + np.array([100, 0, 100, 0])
    found = [touches_crop_edge(row, crop, picture) for row in moved]
    assert found == expected.tolist()
    assert 0 < sum(found) < 500
