"""Mask sets as the list of dictionaries that SamAutomaticMaskGenerator.generate returns."""

from typing import Any

import numpy as np

from sam_server.automatic.parameters import OUTPUT_MODES, OutputMode
from sam_server.masks import rle
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.rle import Rle


def to_dicts(masks: MaskSet, output_mode: OutputMode = "binary_mask") -> list[dict[str, Any]]:
    """The records as dictionaries with SA-1B's keys.

    Args:
        masks: of one picture.
        output_mode: `segmentation` is a (H, W) bool array ("binary_mask"), `{"size": [H, W], "counts": [...]}`
            ("uncompressed_rle") or the same with pycocotools' string ("coco_rle").

    Raises:
        ValueError: output_mode is none of these.
    """
    if output_mode not in OUTPUT_MODES:
        raise ValueError(f"output_mode must be one of {', '.join(OUTPUT_MODES)}, not {output_mode!r}")
    return [
        {"segmentation": _segmentation(record.segmentation, output_mode), **record.to_dict("none")}
        for record in masks.records
    ]


def _segmentation(mask: Rle, output_mode: OutputMode) -> Any:
    if output_mode == "binary_mask":
        return rle.decode(mask)
    if output_mode == "coco_rle":
        return mask.to_dict()
    starts, ends = rle.runs(mask)
    # Joined where a run goes on at the top of the next column.
    counts = np.diff(np.stack([starts, ends], axis=1).ravel(), prepend=0, append=mask.size[0] * mask.size[1])
    return {"size": list(mask.size), "counts": counts[: None if counts[-1] else -1].tolist()}
