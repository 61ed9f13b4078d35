"""Bring the logits of a trained model to the scale that SAM's users count on.

Stability scores move the threshold of a mask by one logit both ways. A small model's logits are flat: the same shift
moves the edges of its good masks by pixels, and thresholds made for the official models drop them all. Multiplying
every logit by one constant changes no mask, for a mask is where its logit is above 0. The constant is folded into the
weights, and its inverse into those that read logits as a mask input.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from sam_server.arrays import FloatArray
from sam_server.masks.stability import stability_score
from sam_server.network.mask_decoder import MASK_TOKENS
from sam_server.predictor import Predictor
from sam_server.prompts import LABEL_FOREGROUND, make_prompt
from training.prompting import pick
from training.protocol import LabelledPicture, iou, to_picture
from training.scenes import HELD_OUT_SEED, KINDS, draw

# What is multiplied, and what is divided: the last layer of the masks' kernels, the first that reads a mask.
KERNELS = tuple(f"mask_decoder.output_hypernetworks_mlps.{token}.layers.2." for token in range(MASK_TOKENS))
READER = "prompt_encoder.mask_downscaling.0.weight"
# Powers of two: weights in float16 keep every bit.
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# What the logits of a variant that ships were multiplied by. Fine-tuning divides by it first, since steep logits learn
# slowly, and multiplies again at the end.
SHIPPED_SCALES = {"tiny": 2.0}

# The scale is the least at which this share of good masks, those above GOOD_IOU, has at least this stability.
GOOD_SHARE = 0.9
GOOD_IOU = 0.85
GOOD_STABILITY = 0.9
STABILITY_OFFSET = 1.0
# Scenes that neither training nor `training.evaluate` draws.
FIRST_SEED = HELD_OUT_SEED + 500_000
SCENES_OF_A_KIND = 2


def scale_logits(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Weights whose logits are `scale` times as large, and which read logits of that size.

    Identity: (scale w) . x = scale (w . x), and (v / scale) . (scale y) = v . y.

    Args:
        weights: by SAM's key names.
        scale: above 0.
    """
    if not scale > 0:
        raise ValueError(f"scale of logits must be above 0, not {scale}")
    out = dict(weights)
    for key, value in weights.items():
        if key.startswith(KERNELS):
            out[key] = value * scale
    out[READER] = weights[READER] / scale
    return out


def calibration_pictures() -> Iterable[LabelledPicture]:
    """Scenes to fit the scale on."""
    pictures = (to_picture(draw(kind, FIRST_SEED + number)) for kind in KINDS for number in range(SCENES_OF_A_KIND))
    return (picture for picture in pictures if picture.masks)


def good_logits(predictor: Predictor, pictures: Iterable[LabelledPicture]) -> list[FloatArray]:
    """Low-res logits of all masks above GOOD_IOU that one click in the middle of each object gives."""
    rng = np.random.default_rng(0)
    good = []
    for picture in pictures:
        embedding = predictor.encode(picture.image)
        prompts = [make_prompt([pick(mask, rng, centre=True)], [LABEL_FOREGROUND]) for mask in picture.masks]
        for truth, found in zip(picture.masks, predictor.predict(embedding, prompts), strict=True):
            masks = zip(found.logits, found.masks, strict=True)
            good += [logits for logits, mask in masks if iou(mask, truth) >= GOOD_IOU]
    return good


def fit_scale(good: Sequence[FloatArray]) -> float:
    """The least of SCALES at which good masks are stable; the largest where none is enough.

    Args:
        good: (L, L) logits of masks known to be good.

    Raises:
        ValueError: there is none.
    """
    if not good:
        raise ValueError("no good mask to fit the scale of logits on: train the model first")
    for scale in SCALES:
        scores = [stability_score(logits[None], 0.0, STABILITY_OFFSET / scale)[0] for logits in good]
        if np.quantile(scores, 1 - GOOD_SHARE) >= GOOD_STABILITY:
            return scale
    return SCALES[-1]
