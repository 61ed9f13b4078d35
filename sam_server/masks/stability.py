"""Stability score: how little a mask changes when its threshold moves."""

import numpy as np

from sam_server.arrays import FloatArray, IntArray


def stability_score(logits: FloatArray, threshold: float, offset: float) -> FloatArray:
    """Score how little a mask changes when its threshold moves.

    Args:
        logits: (N, H, W) float32 mask logits at full resolution.
        threshold: logit at which a pixel counts as foreground.
        offset: how far the threshold is moved both ways, in logits.

    Returns:
        (N,) float32 in [0, 1]: IoU of the masks at threshold + offset and threshold - offset;
        0 where the lower one is empty.

    Source: Kirillov et al. 2023, Segment Anything, appendix B; segment_anything/utils/amg.py.
    """
    return score_from_counts(*stability_counts(logits, threshold, offset))


def stability_counts(logits: FloatArray, threshold: float, offset: float) -> tuple[IntArray, IntArray]:
    """Pixels above threshold + offset and above threshold - offset.

    Counts of the parts of a mask add up, so that a large mask is scored band by band.

    Args:
        logits: (N, H, W) float32 mask logits, or any part of them.
        threshold: logit at which a pixel counts as foreground.
        offset: how far the threshold is moved both ways, in logits.

    Returns:
        Two (N,) int64 counts, the raised threshold first.
    """
    raised, lowered = np.float32(threshold + offset), np.float32(threshold - offset)
    # One mask at a time: the comparison's temporary is one byte a pixel of one mask.
    inner = [int(np.count_nonzero(mask > raised)) for mask in logits]
    outer = [int(np.count_nonzero(mask > lowered)) for mask in logits]
    return np.array(inner, np.int64), np.array(outer, np.int64)


def score_from_counts(inner: IntArray, outer: IntArray) -> FloatArray:
    """Stability from `stability_counts`. The inner mask lies within the outer one, so IoU = inner / outer.

    Args:
        inner: (N,) pixels above the raised threshold.
        outer: (N,) pixels above the lowered threshold.

    Returns:
        (N,) float32 in [0, 1], 0 where `outer` is 0.
    """
    numerator: FloatArray = inner.astype(np.float32)
    denominator: FloatArray = np.maximum(outer, 1).astype(np.float32)
    return numerator / denominator
