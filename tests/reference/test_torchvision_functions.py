"""The stand-ins do what torchvision's documentation says of the functions they stand for."""

import numpy as np
import pytest
import torch

from tests.reference.torchvision_functions import batched_nms, box_area, nms, resize, to_pil_image

# IoU of the first two is 1/3, of the first and third 1/2, of the second and third 1/5, of the last with any other 0.
BOXES = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 5], [50, 50, 60, 70]])
SCORES = torch.tensor([0.5, 0.9, 0.4, 0.7])


def test_box_area() -> None:
    assert box_area(BOXES).tolist() == [100, 100, 50, 200]


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        (0.1, [1, 3]),
        (0.3, [1, 3, 2]),
        (0.4, [1, 3, 0]),
        (0.5, [1, 3, 0, 2]),
    ],  # the third's IoU of 0.5 is not larger than 0.5
)
def test_nms_keeps_the_best_of_boxes_that_overlap(threshold: float, kept: list[int]) -> None:
    assert nms(BOXES, SCORES, threshold).tolist() == kept


def test_categories_leave_each_other_alone() -> None:
    same = torch.tensor([[0.0, 0, 10, 10]] * 4)
    categories = torch.tensor([0, 1, 0, 1])
    assert batched_nms(same, SCORES, categories, 0.5).tolist() == [1, 0]
    assert batched_nms(same, SCORES, torch.zeros(4), 0.5).tolist() == [1]
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).tolist() == []


def test_resize_antialiases() -> None:
    """Stripes of one pixel become their mean; without antialiasing some would be left out."""
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.array(resize(to_pil_image(stripes), (4, 8)))
    assert small.shape == (4, 8, 3)
    assert np.abs(small.astype(int) - 128).max() < 25
