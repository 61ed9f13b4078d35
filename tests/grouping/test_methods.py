"""Each method, filter and statistic on masks whose answer is plain to see."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from sam_server.grouping import size
from sam_server.grouping.appearance import AppearanceParameters
from sam_server.grouping.droplets import DropletParameters
from sam_server.grouping.errors import GroupingError
from sam_server.grouping.filters import Filters
from sam_server.grouping.group import GroupResult, group_masks
from sam_server.grouping.hierarchy import HierarchyParameters
from sam_server.grouping.overlap import OverlapParameters
from sam_server.grouping.presets import PRESETS, preset
from sam_server.grouping.proximity import ProximityParameters
from sam_server.grouping.registry import METHODS, make_parameters, method_of
from sam_server.grouping.selection import Scale
from sam_server.grouping.shape import ShapeParameters
from sam_server.grouping.size import SizeParameters
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import MeasuredSet, measure_set

MakeSet = Callable[[list[np.ndarray]], MaskSet]
ROWS, COLUMNS = np.ogrid[:120, :160]


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return (COLUMNS - x) ** 2 + (ROWS - y) ** 2 <= radius**2


def box(x: int, y: int, width: int, height: int) -> np.ndarray:
    return (x <= COLUMNS) & (x + width > COLUMNS) & (y <= ROWS) & (y + height > ROWS)


def groups(result: GroupResult) -> dict[str, set[int]]:
    return {group.name: set(group.masks) for group in result.groupings[0].groups}


def test_whole_part_and_subpart(set_of_masks: MakeSet) -> None:
    masks = [box(20, 20, 10, 10), box(10, 10, 80, 60), box(15, 15, 30, 30), box(100, 80, 20, 20), box(85, 60, 10, 15)]
    result = group_masks(measure_set(set_of_masks(masks)), [HierarchyParameters()])
    nodes = {node["mask"]: node for node in result.groupings[0].details["nodes"]}
    assert [nodes[i]["parent"] for i in range(5)] == [2, None, 1, None, None]
    assert [nodes[i]["depth"] for i in range(5)] == [2, 0, 1, 0, 0]
    assert nodes[1]["children"] == [2]
    assert groups(result) == {"whole 1": {0, 1, 2}, "whole 2": {3}, "whole 3": {4}}


def test_doubles_are_no_parts_of_each_other(set_of_masks: MakeSet) -> None:
    masks = [box(10, 10, 50, 50), box(10, 10, 50, 49)]
    measured = measure_set(set_of_masks(masks))
    assert len(groups(group_masks(measured, [HierarchyParameters()]))) == 2
    assert len(groups(group_masks(measured, [HierarchyParameters(max_area_ratio=1)]))) == 1


def test_overlap_by_iou_and_by_the_smaller(set_of_masks: MakeSet) -> None:
    masks = [box(0, 0, 40, 40), box(30, 0, 10, 10), box(39, 35, 40, 40), box(100, 100, 5, 5)]
    measured = measure_set(set_of_masks(masks))
    smaller = group_masks(measured, [OverlapParameters("smaller", 0.5)])
    assert groups(smaller) == {"cluster 1": {0, 1}, "cluster 2": {2}, "cluster 3": {3}}
    iou = group_masks(measured, [OverlapParameters("iou", 0.001)])
    assert groups(iou) == {"cluster 1": {0, 1, 2}, "cluster 2": {3}}
    assert len(groups(group_masks(measured, [OverlapParameters("iou", 0.5)]))) == 4


def test_shapes(set_of_masks: MakeSet) -> None:
    masks = [disc(30, 30, 20), box(60, 10, 40, 40), box(10, 80, 90, 12), box(110, 10, 40, 10) | box(110, 10, 10, 60)]
    result = group_masks(measure_set(set_of_masks(masks)), [ShapeParameters()])
    assert groups(result) == {"round": {0}, "compact": {1}, "elongated": {2}, "irregular": {3}}


def test_proximity_joins_neighbours(set_of_masks: MakeSet) -> None:
    masks = [disc(15 + 24 * i, 20, 10) for i in range(4)] + [disc(30, 90, 10), disc(140, 90, 10)]
    measured = measure_set(set_of_masks(masks))
    result = group_masks(measured, [ProximityParameters()])
    assert groups(result) == {"cluster 1": {0, 1, 2, 3}, "single": {4, 5}}
    assert result.groupings[0].details["max_gap"] == pytest.approx(10, rel=0.02)
    micrometres = group_masks(measured, [ProximityParameters(max_gap=3)], scale=Scale(0.5, "µm"))
    assert groups(micrometres) == groups(result)
    assert groups(group_masks(measured, [ProximityParameters(max_gap=3)])) == {"single": set(range(6))}
    assert len(groups(group_masks(measured, [ProximityParameters(max_gap=3, min_members=1)]))) == 6


diameters = hnp.arrays(np.float64, st.integers(2, 30), elements=st.integers(1, 60).map(float))


@settings(max_examples=50)
@given(diameters, st.integers(2, 4))
def test_size_cuts_are_optimal(values: np.ndarray, classes: int) -> None:
    distinct, weights, position = size._steps(np.log(values))
    if len(distinct) < classes:
        return
    cuts = size._optimal_cuts(distinct, weights, classes)
    assert [len(starts) for starts in cuts] == list(range(1, classes + 1))

    def deviation(labels: np.ndarray) -> float:
        logs = np.log(values)
        return sum(((logs[labels == k] - logs[labels == k].mean()) ** 2).sum() for k in np.unique(labels))

    labels = np.searchsorted(cuts[-1], position, side="right")
    assert len(np.unique(labels)) == classes
    found = KMeans(classes, n_init=5, random_state=0).fit(np.log(values)[:, None]).labels_
    assert deviation(labels) <= deviation(found) + 1e-9
    if classes < len(values):
        expected = silhouette_score(np.log(values)[:, None], labels)
        assert size.silhouette(distinct, weights, cuts[-1]) == pytest.approx(expected, abs=1e-9)


def test_size_classes(set_of_masks: MakeSet) -> None:
    radii = [20, 6, 19.5, 5.8, 6.2, 20.4]
    masks = [disc(25 + 45 * (i % 3), 30 + 55 * (i // 3), radius) for i, radius in enumerate(radii)]
    measured = measure_set(set_of_masks(masks))
    result = group_masks(measured, [SizeParameters()])
    assert groups(result) == {"size class 1": {0, 2, 5}, "size class 2": {1, 3, 4}}
    (limit,) = result.groupings[0].details["limits"]
    assert 12.4 < limit < 39
    assert len(groups(group_masks(measured, [SizeParameters(classes=1)]))) == 1
    assert len(groups(group_masks(measured, [SizeParameters(classes=4)]))) == 4
    assert len(groups(group_masks(measured, [SizeParameters(classes=10)]))) == 6
    large = group_masks(measured, [SizeParameters()], Filters(min_diameter=15))
    assert groups(large) == {"size class 1": {0, 2, 5}}
    assert len(groups(group_masks(measured, [SizeParameters(max_cv=0.001)], Filters(min_diameter=15)))) > 1


def sized(diameters: list[float], **parameters: Any) -> list[int]:
    """Class of each of some masks of these diameters."""
    selection = SimpleNamespace(measures=SimpleNamespace(equivalent_diameter_area=np.array(diameters)))
    return size.group_by_size(selection, SizeParameters(**parameters)).labels.tolist()


def test_one_outlier_makes_no_size_class() -> None:
    kinds = [*np.linspace(39, 41, 12), *np.linspace(19, 21, 12)]
    two = [0] * 12 + [1] * 12
    assert sized(kinds) == two
    assert sized([*kinds, 3.0], max_classes=2) == [*two, 1]
    assert sized([3.0, *kinds, 400.0], max_classes=2) == [1, *two, 0]
    assert sized([*kinds, 3.0], max_classes=2, outlier_share=0.0) == [0] * 24 + [1]
    assert sized([*kinds, 3.0, 3.1], max_classes=2) == [0] * 24 + [1] * 2, "two of a kind are a class"
    assert sized([*kinds, 3.0], classes=2) == [0] * 24 + [1], "who asks for classes gets them"
    assert sized([40.0, 10.0]) == [0, 0]
    assert sized([40.0, 41.0, 39.0, 10.0]) == [0, 0, 0, 1], "one of four is no outlier"


def test_many_sizes_stay_within_memory() -> None:
    values = np.random.default_rng(0).lognormal(3, 0.5, 20_000)
    distinct, weights, position = size._steps(np.log(values))
    assert len(distinct) <= 1024
    assert weights.sum() == len(values)
    np.testing.assert_allclose(distinct[position], np.log(values), atol=0.003)


def coloured(masks: MaskSet, colours: list[tuple[int, int, int]], embeddings: Any = None) -> MeasuredSet:
    return measure_set(replace(masks, colours=np.array(colours, np.float32), embeddings=embeddings))


RED, GREEN, BLUE = (200, 40, 40), (40, 180, 60), (50, 60, 210)


@pytest.mark.parametrize("algorithm", ["hdbscan", "agglomerative"])
def test_looks_by_colour(set_of_masks: MakeSet, algorithm: str) -> None:
    rng = np.random.default_rng(0)
    names = [RED, GREEN, BLUE] * 5
    noisy = [tuple(np.array(colour) + rng.integers(-6, 7, 3)) for colour in names]
    masks = set_of_masks([disc(10 + 10 * i, 60, 4) for i in range(15)])
    result = group_masks(coloured(masks, noisy), [AppearanceParameters("colour", algorithm)])  # type: ignore[arg-type]
    found = {frozenset(members) for members in groups(result).values()}
    assert found == {frozenset(range(start, 15, 3)) for start in range(3)}


def test_looks_by_embedding_and_what_is_like_this_one(set_of_masks: MakeSet) -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.eye(8)[:3], 4, axis=0) * 3 + 5
    embeddings = (kinds + rng.normal(0, 0.1, kinds.shape)).astype(np.float32)
    masks = set_of_masks([disc(10 + 10 * i, 60, 4) for i in range(12)])
    measured = coloured(masks, [RED] * 12, embeddings)
    result = group_masks(measured, [AppearanceParameters("embedding")])
    assert {frozenset(members) for members in groups(result).values()} == {
        frozenset(range(start, start + 4)) for start in (0, 4, 8)
    }
    like = group_masks(measured, [AppearanceParameters("embedding", like=5)])
    assert groups(like) == {"alike": {4, 5, 6, 7}, "other": set(range(12)) - {4, 5, 6, 7}}
    ranking = like.groupings[0].details["similarity"]
    assert ranking[0] == {"mask": 5, "similarity": 1.0}
    assert {entry["mask"] for entry in ranking[:4]} == {4, 5, 6, 7}
    assert group_masks(measured, [AppearanceParameters()]).groupings[0].details["features"] == "both"


def test_looks_need_features(set_of_masks: MakeSet) -> None:
    bare = measure_set(replace(set_of_masks([disc(20, 20, 5)] * 3), colours=None, embeddings=None))
    for features in ("auto", "colour", "embedding"):
        with pytest.raises(GroupingError, match="holds no"):
            group_masks(bare, [AppearanceParameters(features)])
    whole = measure_set(set_of_masks([disc(20, 20, 5)]))
    with pytest.raises(GroupingError, match="mask 7"):
        group_masks(whole, [AppearanceParameters(like=7)])


def test_satellites_and_aggregates(set_of_masks: MakeSet) -> None:
    satellite, host = disc(45, 40, 5), disc(40, 40, 20)
    masks = [satellite, host & ~satellite, disc(90, 40, 20), disc(120, 40, 20), disc(140, 100, 5), disc(62, 40, 5)]
    result = group_masks(measure_set(set_of_masks(masks)), [DropletParameters()])
    assert groups(result) == {"droplet": {1, 2, 3}, "satellite": {0}, "small droplet": {4, 5}}
    details = result.groupings[0].details
    assert {entry["droplet"]: entry["masks"] for entry in details["satellites"]} == {1: [0], 2: [], 3: []}
    assert details["aggregates"] == [[2, 3]]


FILTERED = [
    (Filters(min_pixels=100), "min_pixels", {1}),
    (Filters(min_area=100), "min_area", {1}),
    (Filters(max_area=1000), "max_area", {0, 2, 3}),
    (Filters(min_diameter=12), "min_diameter", {1}),
    (Filters(max_diameter=36), "max_diameter", {0, 2, 3}),
    (Filters(max_picture_share=0.1), "max_picture_share", {3}),
    (Filters(drop_touching_edge=True), "drop_touching_edge", {3}),
    (Filters(min_circularity=0.8), "min_circularity", {2, 3, 4}),
    (Filters(min_filled_circularity=0.8), "min_filled_circularity", {3, 4}),
    (Filters(min_solidity=0.85), "min_solidity", {2, 4}),
    (Filters(max_eccentricity=0.6), "max_eccentricity", {3, 4}),
    (Filters(max_parts=1), "max_parts", {4}),
    (Filters(max_parts_distance=5), "max_parts_distance", {4}),
    (Filters(min_mean_intensity=100), "min_mean_intensity", {0}),
    (Filters(max_mean_intensity=100), "max_mean_intensity", {1, 2, 3, 4}),
    (Filters(min_edge_contrast=3), "min_edge_contrast", {1}),
    (Filters(min_predicted_iou=0.5), "min_predicted_iou", {2}),
    (Filters(min_stability_score=0.5), "min_stability_score", {1}),
    (Filters(max_duplicate_iou=0.5), "max_duplicate_iou", {2}),
    (Filters(max_nested_ratio=0.5), "max_nested_ratio", {2}),
    (Filters(max_nested_ratio=0.95), "max_nested_ratio", set()),
]


@pytest.mark.parametrize(
    ("filters", "name", "gone"), FILTERED, ids=[f"{name} {len(gone)}" for _, name, gone in FILTERED]
)
def test_filters_count_what_they_remove(set_of_masks: MakeSet, filters: Filters, name: str, gone: set[int]) -> None:
    masks = [
        disc(40, 40, 19),
        disc(90, 20, 5),
        disc(40, 40, 20) & ~disc(45, 40, 8),
        box(0, 70, 160, 30),
        box(110, 10, 10, 10) | box(140, 10, 10, 10),
    ]
    stored = set_of_masks(masks)
    records = [replace(record, predicted_iou=0.9, stability_score=0.9) for record in stored.records]
    records[2] = replace(records[2], predicted_iou=0.2)
    records[1] = replace(records[1], stability_score=0.2)
    grey = np.array([[50] * 3] + [[150] * 3] * 4, np.float32)
    contrasts = np.array([20, 1, 20, 20, 20], np.float32)
    stored = replace(stored, records=tuple(records), colours=grey, edge_contrasts=contrasts)
    result = group_masks(measure_set(stored), filters=filters)
    assert [(entry.filter, set(entry.masks), entry.count) for entry in result.removed] == [(name, gone, len(gone))]
    assert set(result.kept) == set(range(5)) - gone


def with_predicted_iou(stored: MaskSet, scores: Sequence[float]) -> MaskSet:
    rows = zip(stored.records, scores, strict=True)
    return replace(stored, records=tuple(replace(record, predicted_iou=score) for record, score in rows))


def test_nested_masks_go_and_satellites_stay(set_of_masks: MakeSet) -> None:
    masks = [disc(40, 40, 30), disc(40, 40, 22), disc(40, 40, 20), disc(45, 45, 6), disc(120, 40, 22)]
    measured = measure_set(with_predicted_iou(set_of_masks(masks), [0.9] * 5))
    assert group_masks(measured, filters=Filters(max_nested_ratio=0.35)).kept == (0, 3, 4)
    # What another filter took away hides nothing.
    alone = group_masks(measured, filters=Filters(max_diameter=50, max_nested_ratio=0.35))
    assert alone.kept == (1, 3, 4)


def test_of_nested_masks_the_outer_one_goes_where_it_is_clearly_worse(set_of_masks: MakeSet) -> None:
    masks = [disc(40, 40, 30), disc(40, 40, 24), disc(40, 40, 20), disc(40, 40, 6)]

    def kept(*scores: float) -> tuple[int, ...]:
        measured = measure_set(with_predicted_iou(set_of_masks(masks), scores))
        return group_masks(measured, filters=Filters(max_nested_ratio=0.3)).kept

    assert kept(0.9, 0.9, 0.9, 0.9) == (0, 3)
    assert kept(0.8, 0.9, 0.9, 0.9) == (0, 3)
    assert kept(0.6, 0.9, 0.9, 0.9) == (1, 3)
    assert kept(0.6, 0.7, 0.9, 0.9) == (2, 3)
    # A mask that is small within the other decides nothing.
    assert kept(0.6, 0.6, 0.6, 0.9) == (0, 3)


def test_filters_act_in_turn_and_in_real_units(set_of_masks: MakeSet) -> None:
    masks = [disc(40, 40, 20), disc(100, 40, 10), box(0, 100, 5, 5)]
    measured = measure_set(set_of_masks(masks))
    filters = Filters(min_diameter=15, drop_touching_edge=True)
    result = group_masks(measured, filters=filters, scale=Scale(0.5, "µm"))
    assert [(entry.filter, entry.masks) for entry in result.removed] == [
        ("min_diameter", (1, 2)),
        ("drop_touching_edge", ()),
    ]
    assert result.measures.equivalent_diameter_area[0] == pytest.approx(20, rel=0.01)


def test_masks_of_an_unknown_picture_are_not_taken_for_nothing(set_of_masks: MakeSet) -> None:
    unknown = measure_set(replace(set_of_masks([disc(30, 30, 9), disc(70, 30, 9)]), edge_contrasts=None))
    assert group_masks(unknown, filters=Filters(min_edge_contrast=2)).kept == (0, 1)


def test_statistics_are_those_of_numpy(set_of_masks: MakeSet) -> None:
    rng = np.random.default_rng(1)
    masks = [disc(x, y, rng.uniform(3, 12)) for x in range(15, 150, 25) for y in range(15, 110, 25)]
    measured = measure_set(set_of_masks(masks))
    result = group_masks(measured, [SizeParameters(classes=3)], scale=Scale(0.25, "mm"))
    edges = np.array(result.histogram_edges)
    entries = [(range(len(masks)), result.total)]
    entries += [(group.masks, group.statistics) for group in result.groupings[0].groups]
    for members, entry in entries:
        rows = np.array(members)
        assert entry.count == len(rows)
        covered = np.any([masks[i] for i in rows], axis=0).mean()
        assert entry.covered_share == pytest.approx(covered)
        for name, described in entry.measures.items():
            values = result.measures.column(name)[rows]
            std = values.std(ddof=1)
            variation = std / values.mean() if values.mean() else None
            expected = (values.mean(), np.median(values), std, variation, values.min(), values.max())
            assert tuple(vars(described).values()) == pytest.approx(expected)
        found = np.histogram(result.measures.equivalent_diameter_area[rows], edges)[0]
        assert list(entry.histogram) == found.tolist()
    assert result.total.measures["area"].mean == pytest.approx(np.mean([mask.sum() for mask in masks]) / 16)


def test_statistics_of_one_mask_and_of_none(set_of_masks: MakeSet) -> None:
    one = group_masks(measure_set(set_of_masks([disc(30, 30, 10)])), [ShapeParameters()])
    described = one.total.measures["area"]
    assert described.mean == described.median == described.min == described.max
    assert described.std is None
    assert described.coefficient_of_variation is None
    assert one.total.histogram == (1,)
    empty = one.groupings[0].groups[3]
    assert (empty.name, empty.statistics.count, empty.statistics.covered_share) == ("irregular", 0, 0.0)
    assert empty.statistics.measures["area"].mean is None
    none = group_masks(measure_set(set_of_masks([])), [ShapeParameters(), SizeParameters()])
    assert (none.kept, none.total.count, none.total.histogram) == ((), 0, ())
    assert not any(math.isnan(value) for value in none.histogram_edges)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Filters(min_area=-1), "filters.min_area must be 0 or more"),
        (lambda: Filters(min_circularity=1.5), "filters.min_circularity must be between 0 and 1"),
        (lambda: Filters(min_solidity=math.nan), "filters.min_solidity"),
        (lambda: Filters(max_parts=0), "filters.max_parts"),
        (lambda: SizeParameters(classes=0), "size.classes must be between 1 and 10"),
        (lambda: OverlapParameters("dice"), "overlap.measure must be one of iou, smaller"),
        (lambda: OverlapParameters(threshold=0), "overlap.threshold"),
        (lambda: HierarchyParameters(0.4), "hierarchy.min_containment"),
        (lambda: ProximityParameters(max_gap=-1), "proximity.max_gap"),
        (lambda: AppearanceParameters("smell"), "appearance.features must be one of"),
        (lambda: DropletParameters(min_satellite_overlap=2), "droplets.min_satellite_overlap"),
        (lambda: Scale(0), "pixel_size must be"),
        (lambda: Scale(1, "=cmd|"), "unit must be a short word"),
        (lambda: Scale(1, "two words"), "unit must be a short word"),
        (lambda: make_parameters("colour"), "method must be one of hierarchy, overlap"),
        (lambda: make_parameters("size", {"k": 2}), "size has no parameter 'k'; it has classes"),
        (lambda: preset("bubbles"), "preset must be one of droplets, cells, parts, everything"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: Callable[[], object], message: str) -> None:
    with pytest.raises(GroupingError, match=message) as caught:
        make()
    assert caught.value.field.split(".")[0] in message or caught.value.field in ("methods", "preset")


def test_a_method_may_be_asked_for_once(set_of_masks: MakeSet) -> None:
    with pytest.raises(GroupingError, match="more than once"):
        group_masks(measure_set(set_of_masks([])), [SizeParameters(), SizeParameters(2)])


def test_registry_and_presets_are_complete() -> None:
    for name, method in METHODS.items():
        assert method_of(make_parameters(name)) is method
        assert method.summary
    for name, entry in PRESETS.items():
        assert (entry.name, preset(name)) == (name, entry)
        assert entry.summary.endswith(".")
