"""Parameters of automatic masks: the reference's names and defaults, bounds, performance mode."""

import inspect
import math

import numpy as np
import pytest

from sam_server.automatic.parameters import MAX_POINTS, MODEL_DEFAULTS, AutomaticParameters, ParameterError
from sam_server.network.variants import VARIANTS
from tests.reference import torchvision_functions

torchvision_functions.supply()

from segment_anything import SamAutomaticMaskGenerator  # noqa: E402


def test_names_and_defaults_are_the_reference_s() -> None:
    ours = AutomaticParameters()
    reference = inspect.signature(SamAutomaticMaskGenerator).parameters
    names = [name for name in reference if name != "model"]
    assert {name: getattr(ours, name) for name in names} == {name: reference[name].default for name in names}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("points_per_side", 0),
        ("points_per_side", 257),
        ("points_per_side", 8.0),
        ("points_per_side", True),
        ("points_per_batch", 0),
        ("pred_iou_thresh", -0.1),
        ("pred_iou_thresh", math.nan),
        ("pred_iou_thresh", "0.9"),
        ("stability_score_thresh", 1.1),
        ("stability_score_offset", -1),
        ("stability_score_offset", math.inf),
        ("box_nms_thresh", 2),
        ("crop_n_layers", 5),
        ("crop_nms_thresh", -1),
        ("crop_overlap_ratio", 1),
        ("crop_n_points_downscale_factor", 0),
        ("min_mask_region_area", -1),
        ("output_mode", "png"),
        ("tile_size", 64),
        ("tile_overlap", 10),
    ],
)
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ParameterError, match=field) as caught:
        AutomaticParameters.from_values({field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"points_per_side": None}, "points_per_side"),
        ({"points_per_side": 32, "point_grids": [[[0.5, 0.5]]]}, "points_per_side"),
        ({"points_per_side": None, "point_grids": [[[0.5, 1.5]]]}, "point_grids"),
        ({"points_per_side": None, "point_grids": [[0.5, 0.5]]}, "point_grids"),
        ({"points_per_side": None, "point_grids": [[]]}, "point_grids"),
        ({"points_per_side": None, "point_grids": [[[0.5, 0.5]]], "crop_n_layers": 1}, "point_grids"),
        ({"points_per_side": 4, "crop_n_layers": 2, "crop_n_points_downscale_factor": 3}, "crop_n_points_downscale"),
        ({"points_per_side": 64, "crop_n_layers": 4}, "points_per_side"),
        ({"tile_size": 512, "tile_overlap": 300}, "tile_overlap"),
        ({"points_per_sides": 3}, "points_per_sides"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, object], field: str) -> None:
    with pytest.raises(ParameterError, match=field):
        AutomaticParameters.from_values(values)


def test_the_number_of_points_counts_every_crop() -> None:
    parameters = AutomaticParameters(points_per_side=32, crop_n_layers=2, crop_n_points_downscale_factor=2)
    assert parameters.sides() == [32, 16, 8]
    assert parameters.points == 32**2 + 4 * 16**2 + 16 * 8**2 <= MAX_POINTS


def test_arrays_are_taken_as_grids() -> None:
    grid = np.array([[0.25, 0.5], [0.75, 0.5]])
    parameters = AutomaticParameters(points_per_side=None, point_grids=[grid])  # type: ignore[arg-type]
    assert parameters.point_grids == (((0.25, 0.5), (0.75, 0.5)),)


def test_performance_mode_changes_what_the_caller_left_open() -> None:
    parameters = AutomaticParameters.from_values({}, performance_mode=True)
    assert (parameters.points_per_side, parameters.pred_iou_thresh, parameters.min_mask_region_area) == (16, 0.8, 500)
    chosen = {"points_per_side": 20, "pred_iou_thresh": 0.88, "min_mask_region_area": 0}
    asked = AutomaticParameters.from_values({**chosen, "crop_n_layers": 3}, performance_mode=True)
    assert {name: getattr(asked, name) for name in chosen} == chosen
    assert asked.crop_n_layers == 1


@pytest.mark.parametrize("performance_mode", [True, False])
def test_point_grids_alone_take_the_place_of_points_per_side(performance_mode: bool) -> None:
    parameters = AutomaticParameters.from_values({"point_grids": [[[0.5, 0.5]]]}, performance_mode)
    assert (parameters.points_per_side, parameters.points) == (None, 1)


@pytest.mark.parametrize("performance_mode", [False, True])
def test_a_small_model_has_thresholds_of_its_own(performance_mode: bool) -> None:
    tiny = AutomaticParameters.from_values({}, performance_mode, "tiny")
    assert {name: getattr(tiny, name) for name in MODEL_DEFAULTS["tiny"]} == MODEL_DEFAULTS["tiny"]
    assert tiny.points_per_side == AutomaticParameters.from_values({}, performance_mode).points_per_side
    asked = AutomaticParameters.from_values({"pred_iou_thresh": 0.9}, performance_mode, "tiny")
    assert asked.pred_iou_thresh == 0.9


def test_official_models_keep_the_reference_s_thresholds() -> None:
    assert MODEL_DEFAULTS.keys() <= VARIANTS.keys()
    for model_type in ("vit_b", "vit_l", "vit_h"):
        assert AutomaticParameters.from_values({}, model_type=model_type) == AutomaticParameters()
