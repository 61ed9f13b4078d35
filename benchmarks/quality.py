"""How near the results of a side are to the reference's: speed counts at equal quality only."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from benchmarks.results import Measurement
from sam_server.arrays import ByteArray, FloatArray

# Masks of automatic generation are the same from this IoU on (hardly a pixel of a rim in doubt).
SAME_MASK = 0.99


def compare(measurement: Measurement, outcome: Path, reference: Path | None) -> Measurement:
    """The measurement with its errors filled in; the reference's own gets its number of masks only.

    Args:
        measurement: of any part of worker.TASKS.
        outcome: what the side's process wrote.
        reference: what the reference's wrote, or None without one.
    """
    if measurement.part == "automatic":
        return _compare_automatic(measurement, outcome, reference)
    if reference is None or measurement.side.backend == "reference":
        return measurement
    with np.load(outcome) as own, np.load(reference) as other:
        if "embedding" in own:
            return replace(measurement, error=relative_error(own["embedding"], other["embedding"]))
        iou = packed_iou(own["masks"], other["masks"])
        return replace(measurement, mask_iou=(float(iou.mean()), float(iou.min())))


def relative_error(value: FloatArray, expected: FloatArray) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def packed_iou(a: ByteArray, b: ByteArray) -> FloatArray:
    """IoU (N,) of masks (..., H, W / 8) that `np.packbits` packed, N of them; 1 where both are empty."""
    a, b = (masks.reshape(-1, masks.shape[-2] * masks.shape[-1]) for masks in (a, b))
    shared = np.bitwise_count(a & b).sum(axis=1, dtype=np.int64)
    either = np.bitwise_count(a | b).sum(axis=1, dtype=np.int64)
    iou: FloatArray = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
    return iou


def _compare_automatic(measurement: Measurement, outcome: Path, reference: Path | None) -> Measurement:
    own = [record["segmentation"] for record in json.loads(outcome.with_suffix(".json").read_text())]
    measurement = replace(measurement, masks=len(own))
    if reference is None or measurement.side.backend == "reference" or measurement.side.performance_mode:
        return measurement
    other = [record["segmentation"] for record in json.loads(reference.with_suffix(".json").read_text())]
    if not other:
        return measurement
    # Rows are the reference's masks: the best match of each.
    best = np.zeros(len(other))
    if own:
        best = np.asarray(coco.iou(other, own, [0] * len(own))).max(axis=1)
    matched = float((best >= SAME_MASK).mean())
    return replace(measurement, matched=matched, mask_iou=(float(best.mean()), float(best.min())))
