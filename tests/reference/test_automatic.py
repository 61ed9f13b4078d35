"""Automatic masks equal those of SamAutomaticMaskGenerator: the masks, their order, scores and boxes.

With the weights of model/tiny on photographs, and with random weights in the reference's own image encoder.
The plain path follows the reference operation by operation; the fast path is held to IoU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data

from pytorch_sam_wrapper import PyTorchSam
from sam_server.automatic.generate import generate
from sam_server.automatic.output import to_dicts
from sam_server.automatic.parameters import AutomaticParameters
from sam_server.checkpoints.load import load_state_dict
from sam_server.network.sam import load_sam
from sam_server.network.variants import VARIANTS, SamVariant
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt
from tests.reference.comparing import FLIPPED_CLOSE, FLIPPED_EQUAL
from tests.reference.reference_models import reference_sam

from segment_anything import SamAutomaticMaskGenerator  # isort: skip  (after its torchvision functions are supplied)

TINY = Path(__file__).parents[2] / "model" / "tiny" / "sam_tiny.safetensors"

PICTURES = {
    "astronaut": data.astronaut(),  # 512 x 512
    "chelsea": data.chelsea(),  # 300 x 451
    "coffee": np.ascontiguousarray(np.rot90(data.coffee())),  # 600 x 400
    "coins": np.stack([data.coins()] * 3, axis=-1),  # 303 x 384
    "rocket": data.rocket(),  # 427 x 640
}

# Thresholds are low, so that many masks are compared; lower still for crops, whose reference fails without any mask.
LOW = {"pred_iou_thresh": 0.2, "stability_score_thresh": 0.5}
LOWER = {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.2}
RANDOM = np.random.default_rng(0)
PARAMETERS: dict[str, dict[str, Any]] = {
    "grid": {"points_per_side": 4, **LOW},
    "batches": {
        "points_per_side": 4,
        "points_per_batch": 7,
        "stability_score_offset": 0.6,
        "box_nms_thresh": 0.4,
        **LOW,
    },
    "regions": {"points_per_side": 4, "min_mask_region_area": 150, **LOW},
    "crops": {"points_per_side": 3, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2, **LOWER},
    "crops and regions": {
        "points_per_side": None,
        "point_grids": [RANDOM.random((8, 2)), RANDOM.random((3, 2))],
        "crop_n_layers": 1,
        "crop_nms_thresh": 0.5,
        "crop_overlap_ratio": 0.6,
        "min_mask_region_area": 60,
        **LOWER,
    },
    "everything": {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.9},
}

# A picture's crops, of which each is encoded by itself, are searched in one picture of each shape.
CROPPED = ("astronaut", "chelsea", "coffee")
COMPARED = [
    (picture, parameters)
    for parameters, values in PARAMETERS.items()
    for picture in (CROPPED if "crop_n_layers" in values else PICTURES)
]

# The reference's own image encoder, small enough for many masks in little time.
SMALL = SamVariant(
    "small",
    width=32,
    depth=2,
    heads=2,
    window=4,
    global_blocks=(1,),
    image_size=256,
    embedding_channels=32,
    decoder_heads=2,
    decoder_mlp=64,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Both sides round alike whatever the machine's threads do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def weights() -> Mapping[str, torch.Tensor]:
    return load_state_dict(TINY)


@cache
def tiny_reference() -> Any:
    return reference_sam(VARIANTS["tiny"], weights())


@cache
def tiny(plain: bool) -> PyTorchSam:
    sam = load_sam(VARIANTS["tiny"], weights())
    return PyTorchSam(sam, torch.device("cpu"), "fp32", plain=plain)


@cache
def expected(picture: str, parameters: str) -> Sequence[dict[str, Any]]:
    generator = SamAutomaticMaskGenerator(tiny_reference(), **PARAMETERS[parameters])
    return generator.generate(PICTURES[picture])


def found(backend: PyTorchSam, pixels: np.ndarray, values: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return to_dicts(generate(backend, pixels, AutomaticParameters.from_values(values)))


def assert_equal(ours: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> None:
    """The same records, and the same masks but for pixels whose logit is the threshold up to rounding.

    A mask that the model is unsure of has more of these than others: some in one mask, few in all.
    """
    assert len(ours) == len(reference)
    total = pixels = 0
    for mask, other in zip(ours, reference, strict=True):
        flipped = int(np.count_nonzero(mask["segmentation"] != other["segmentation"]))
        total, pixels = total + flipped, pixels + other["segmentation"].size
        assert flipped <= np.ceil(FLIPPED_CLOSE * other["segmentation"].size)
        assert mask["area"] == pytest.approx(other["area"], abs=flipped)
        assert mask["point_coords"] == other["point_coords"]
        assert mask["crop_box"] == other["crop_box"]
        # COCO counts the pixels of a box; the reference takes the last one less the first.
        x, y, width, height = mask["bbox"]
        assert [x, y, max(width - 1, 0), max(height - 1, 0)] == pytest.approx(other["bbox"], abs=flipped)
        assert mask["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-5)
        # A pixel whose logit is one of the two moved thresholds up to rounding may fall on either side of it.
        assert mask["stability_score"] == pytest.approx(other["stability_score"], abs=1e-5 + 1.1 / other["area"])
    assert total <= np.ceil(FLIPPED_EQUAL * pixels)


@pytest.mark.parametrize(("picture", "parameters"), COMPARED)
def test_plain_masks_equal_the_reference(picture: str, parameters: str) -> None:
    ours = found(tiny(plain=True), PICTURES[picture], PARAMETERS[parameters])
    assert_equal(ours, expected(picture, parameters))


def test_enough_masks_were_compared() -> None:
    for name in PARAMETERS:
        assert sum(len(expected(picture, name)) for picture, other in COMPARED if other == name) >= 10, name


@pytest.mark.parametrize("picture", PICTURES)
def test_fast_masks_match_the_reference(picture: str) -> None:
    reference = expected(picture, "grid")
    ours = found(tiny(plain=False), PICTURES[picture], PARAMETERS["grid"])
    assert len(ours) == len(reference)
    for mask, other in zip(ours, reference, strict=True):
        a, b = mask["segmentation"], other["segmentation"]
        assert (a & b).sum() >= 0.99 * (a | b).sum()
        assert mask["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-3)


@pytest.mark.parametrize("crop_n_layers", [0, 1])
@pytest.mark.parametrize("quantile", [0.5, 0.98])
def test_random_weights_in_the_reference_s_own_encoder(crop_n_layers: int, quantile: float) -> None:
    """A high mask threshold leaves islands of few pixels, a middling one masks that fill the picture."""
    reference = reference_sam(SMALL, seed=3)
    pixels = PICTURES["chelsea"]
    sam = load_sam(SMALL, reference.state_dict())
    one = Predictor(PyTorchSam(sam, torch.device("cpu"), "fp32", plain=True))
    logits = one.predict(one.encode(pixels), [make_prompt([[200, 150]])])[0].logits
    reference.mask_threshold = float(np.quantile(logits, quantile))
    sam.variant = replace(SMALL, mask_threshold=reference.mask_threshold)
    backend = PyTorchSam(sam, torch.device("cpu"), "fp32", plain=True)
    values = {
        "points_per_side": 6,
        "pred_iou_thresh": 0.0,
        "stability_score_thresh": 0.1,
        "stability_score_offset": 0.01,
        "crop_n_layers": crop_n_layers,
        "min_mask_region_area": 20,
    }
    masks = SamAutomaticMaskGenerator(reference, **values).generate(pixels)
    assert masks
    assert_equal(found(backend, pixels, values), masks)
