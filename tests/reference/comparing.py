"""When two answers count as the same."""

import numpy as np
from torch import Tensor

from sam_server.predictor import Prediction
from sam_server.prompts import Prompt
from tests.reference.reference_models import Answer

# Rewritten operations round otherwise: relative to the largest logit, and of the predicted IoU.
ROUNDING = 2e-5

# With trained weights the reference itself is up to 2e-5 away from its own decoder in float64, and ours less.
ROUNDING_TRAINED = 4e-5

# Share of a mask's pixels that may fall on the other side of the threshold. It takes a logit that is the threshold up
# to rounding: about one pixel in a hundred million with equal low-res logits, one in ten million with rounded ones.
FLIPPED_EQUAL = 1e-6
FLIPPED_CLOSE = 1e-5


def relative_error(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    """Largest difference over the largest value expected."""
    assert found.shape == expected.shape
    return float(abs(found - expected).max() / abs(expected).max())


# The reference places points and the box of a prompt in two matrix products, ours in one. Some libraries sum the two
# terms of each in another order for another number of rows (MKL on AMD's processors): a bit of the last place.
ONE_PRODUCT = 2e-5


def assert_equal(found: Prediction, expected: Answer, prompt: Prompt) -> None:
    """The same low-res logits and IoU bit for bit, and the same masks; nearly so for a prompt of points and a box."""
    if len(prompt.points) and prompt.box is not None:
        assert relative_error(found.logits, expected.low_res) <= ONE_PRODUCT
        np.testing.assert_allclose(found.iou, expected.iou, atol=ONE_PRODUCT, rtol=0)
        assert_same_masks(found, expected, FLIPPED_CLOSE)
        return
    np.testing.assert_array_equal(found.logits, expected.low_res)
    np.testing.assert_array_equal(found.iou, expected.iou)
    assert_same_masks(found, expected, FLIPPED_EQUAL)


def assert_close(found: Prediction, expected: Answer, _: Prompt, rounding: float = ROUNDING) -> None:
    """Whatever the prompt, the same low-res logits up to `rounding`, nearly the same IoU, and the same masks."""
    assert relative_error(found.logits, expected.low_res) <= rounding
    np.testing.assert_allclose(found.iou, expected.iou, atol=ROUNDING, rtol=0)
    assert_same_masks(found, expected, FLIPPED_CLOSE)


def assert_same_masks(found: Prediction, expected: Answer, share: float) -> None:
    """The same masks in every pixel, but for a `share` of them whose logit is the threshold up to rounding."""
    margin = expected.logits - found.spec.mask_threshold
    flipped = found.masks != (margin > 0)
    assert flipped.sum() <= np.ceil(share * flipped.size)
    assert (np.abs(margin[flipped]) <= ROUNDING * np.abs(expected.logits).max()).all()
