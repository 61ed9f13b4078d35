"""When two answers count as the same."""

import numpy as np
from torch import Tensor

from sam_server.predictor import Prediction
from tests.reference.reference_models import Answer

# Rewritten operations round otherwise: relative to the largest logit, and of the predicted IoU.
ROUNDING = 1e-5

# Share of a mask's pixels that may fall on the other side of the threshold. It takes a logit that is the threshold up
# to rounding: about one pixel in a hundred million with equal low-res logits, one in ten million with rounded ones.
FLIPPED_EQUAL = 1e-6
FLIPPED_CLOSE = 1e-5


def relative_error(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    """Largest difference over the largest value expected."""
    assert found.shape == expected.shape
    return float(abs(found - expected).max() / abs(expected).max())


def assert_equal(found: Prediction, expected: Answer) -> None:
    """The same low-res logits and IoU bit for bit, and the same masks."""
    np.testing.assert_array_equal(found.logits, expected.low_res)
    np.testing.assert_array_equal(found.iou, expected.iou)
    assert_same_masks(found, expected, FLIPPED_EQUAL)


def assert_close(found: Prediction, expected: Answer) -> None:
    """The same low-res logits and IoU up to rounding, and the same masks."""
    assert relative_error(found.logits, expected.low_res) <= ROUNDING
    np.testing.assert_allclose(found.iou, expected.iou, atol=ROUNDING, rtol=0)
    assert_same_masks(found, expected, FLIPPED_CLOSE)


def assert_same_masks(found: Prediction, expected: Answer, share: float) -> None:
    """The same masks in every pixel, but for a `share` of them whose logit is the threshold up to rounding."""
    margin = expected.logits - found.spec.mask_threshold
    flipped = found.masks != (margin > 0)
    assert flipped.sum() <= np.ceil(share * flipped.size)
    assert (np.abs(margin[flipped]) <= ROUNDING * np.abs(expected.logits).max()).all()
