"""Prompts are checked where they are made, and every message says what to change."""

import numpy as np
import pytest

from sam_server.prompts import PromptError, make_prompt


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({}, "prompt", "needs points, a box or a mask_id"),
        ({"points": []}, "points", "one or more pairs"),
        ({"points": [[1, 2, 3]]}, "points", "pairs"),
        ({"points": [1, 2]}, "points", "pairs"),
        ({"points": "here"}, "points", "pairs"),
        ({"points": [[1, 2], [3]]}, "points", "pairs"),
        ({"points": [[1, float("nan")]]}, "points", "finite"),
        ({"points": [[1e39, 0]]}, "points", "finite"),
        ({"points": [[1, 2]], "point_labels": [1, 0]}, "point_labels", "1 expected, 2 given"),
        ({"points": [[1, 2]], "point_labels": [2]}, "point_labels", "1 (foreground) or 0"),
        ({"points": [[1, 2]], "point_labels": [0.5]}, "point_labels", "1 (foreground) or 0"),
        ({"point_labels": [1], "box": [0, 0, 5, 5]}, "point_labels", "without points"),
        ({"box": [0, 0, 5]}, "box", "four numbers"),
        ({"box": [3, 0, 3, 5]}, "box", "no area"),
        ({"points": [[201, 50]], "image_size": (100, 200)}, "points", "200 x 100"),
        ({"points": [[-1, 50]], "image_size": (100, 200)}, "points", "outside"),
        ({"box": [200, 0, 300, 50], "image_size": (100, 200)}, "box", "outside"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_refused(arguments: dict, field: str, message: str) -> None:
    with pytest.raises(PromptError, match=r".") as caught:
        make_prompt(**arguments)
    assert caught.value.field == field
    assert message in str(caught.value)


def test_labels_default_to_foreground_and_corners_are_put_in_order() -> None:
    prompt = make_prompt([[1, 2], [3, 4]], box=[50, 40, 10, 20], image_size=(100, 200))
    assert prompt.point_labels.tolist() == [1, 1]
    assert prompt.box is not None
    assert prompt.box.tolist() == [10, 20, 50, 40]
    assert prompt.shape == (2, True, False)


def test_a_mask_alone_is_a_prompt() -> None:
    prompt = make_prompt(mask_input=np.zeros((128, 128), np.float32))
    assert prompt.shape == (0, False, True)
