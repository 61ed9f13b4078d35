"""What holds of every method on any masks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_server.grouping.appearance import AppearanceParameters
from sam_server.grouping.filters import Filters
from sam_server.grouping.group import GroupResult, group_masks
from sam_server.grouping.hierarchy import HierarchyParameters
from sam_server.grouping.overlap import OverlapParameters
from sam_server.grouping.presets import PRESETS
from sam_server.grouping.registry import METHODS
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.measured_set import measure_set

# Each example runs whole groupings.
few = settings(max_examples=25)

MaskLists = st.SearchStrategy[list[np.ndarray]]
MakeSet = Callable[[list[np.ndarray]], MaskSet]

EVERY_METHOD = [
    *(method.parameters() for method in METHODS.values()),
    AppearanceParameters(algorithm="agglomerative"),
    AppearanceParameters(algorithm="agglomerative", groups=2, features="colour"),
    OverlapParameters("iou", 0.3),
    METHODS["size"].parameters(classes=3),  # type: ignore[call-arg]
]


def run_all(masks: MaskSet) -> list[GroupResult]:
    measured = measure_set(masks)
    return [group_masks(measured, [parameters]) for parameters in EVERY_METHOD]


@few
@given(data=st.data())
def test_every_mask_is_in_exactly_one_group(mask_lists: MaskLists, set_of_masks: MakeSet, data: st.DataObject) -> None:
    masks = data.draw(mask_lists)
    for result in run_all(set_of_masks(masks)):
        (grouping,) = result.groupings
        members = [mask for group in grouping.groups for mask in group.masks]
        assert sorted(members) == list(result.kept)
        assert sum(group.statistics.count for group in grouping.groups) == len(result.kept)
        assert sum(entry.count for entry in result.removed) + len(result.kept) == len(masks)
        assert set(result.kept) == {i for i, mask in enumerate(masks) if mask.any()}
        assert len({group.name for group in grouping.groups}) == len(grouping.groups)


@few
@given(data=st.data())
def test_groups_do_not_depend_on_the_order_of_masks(
    mask_lists: MaskLists, set_of_masks: MakeSet, data: st.DataObject
) -> None:
    masks = data.draw(mask_lists)
    # Equal masks cannot be told apart, so that either may stand for the other.
    masks = list({mask.tobytes(): mask for mask in masks}.values())
    order = data.draw(st.permutations(range(len(masks))))

    def named(result: GroupResult, name: Callable[[int], int]) -> list[tuple[str, set[int]]]:
        return [(group.name, {name(mask) for mask in group.masks}) for group in result.groupings[0].groups]

    plain, mixed = run_all(set_of_masks(masks)), run_all(set_of_masks([masks[i] for i in order]))
    for one, other in zip(plain, mixed, strict=True):
        assert named(one, int) == named(other, order.__getitem__)


@few
@given(data=st.data())
def test_hierarchy_is_a_forest(mask_lists: MaskLists, set_of_masks: MakeSet, data: st.DataObject) -> None:
    masks = data.draw(mask_lists)
    containment, ratio = data.draw(st.floats(0.51, 1)), data.draw(st.floats(0, 1))
    result = group_masks(measure_set(set_of_masks(masks)), [HierarchyParameters(containment, ratio)])
    (grouping,) = result.groupings
    nodes = {node["mask"]: node for node in grouping.details["nodes"]}
    assert set(nodes) == set(result.kept)
    group_of = grouping.group_of()
    for mask, node in nodes.items():
        above, seen = mask, set()
        while nodes[above]["parent"] is not None:
            assert above not in seen
            seen.add(above)
            above = nodes[above]["parent"]
        assert node["depth"] == len(seen)
        assert group_of[mask] == group_of[above]
        assert all(nodes[child]["parent"] == mask for child in node["children"])
        if node["parent"] is not None:
            part, whole = masks[mask], masks[node["parent"]]
            assert (part & whole).sum() >= containment * part.sum()
            assert part.sum() <= ratio * whole.sum()
    roots = [mask for mask, node in nodes.items() if node["parent"] is None]
    assert len(roots) == len(grouping.groups)


@few
@given(data=st.data())
def test_overlap_groups_are_the_components(mask_lists: MaskLists, set_of_masks: MakeSet, data: st.DataObject) -> None:
    masks = data.draw(mask_lists)
    measure, threshold = data.draw(st.sampled_from(["iou", "smaller"])), data.draw(st.floats(0.01, 1))
    result = group_masks(measure_set(set_of_masks(masks)), [OverlapParameters(measure, threshold)])
    group_of = result.groupings[0].group_of()
    reached = {mask: {mask} for mask in result.kept}
    for _ in result.kept:
        for one in result.kept:
            for other in result.kept:
                shared = (masks[one] & masks[other]).sum()
                sizes = masks[one].sum(), masks[other].sum()
                whole = min(sizes) if measure == "smaller" else sum(sizes) - shared
                if shared and shared >= threshold * whole:
                    reached[one] |= reached[other]
    for one in result.kept:
        assert {other for other in result.kept if group_of[other] == group_of[one]} == reached[one]


@few
@given(data=st.data())
def test_presets_run_on_anything(mask_lists: MaskLists, set_of_masks: MakeSet, data: st.DataObject) -> None:
    measured = measure_set(set_of_masks(data.draw(mask_lists)))
    for preset in PRESETS.values():
        result = group_masks(measured, preset.methods, preset.filters)
        assert [grouping.method for grouping in result.groupings]
        assert result.to_dict()["kept"] == list(result.kept)


@few
@given(data=st.data())
def test_duplicates_leave_no_pair_above_the_limit(
    mask_lists: MaskLists, set_of_masks: MakeSet, data: st.DataObject
) -> None:
    masks, limit = data.draw(mask_lists), data.draw(st.floats(0, 1))
    stored = set_of_masks(masks)
    result = group_masks(measure_set(stored), filters=Filters(max_duplicate_iou=limit))

    def iou(one: int, other: int) -> float:
        return float((masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum())

    kept = result.kept
    assert all(iou(one, other) <= limit for one in kept for other in kept if one < other)
    (gone,) = [entry.masks for entry in result.removed if entry.filter == "max_duplicate_iou"]
    scores = [record.predicted_iou for record in stored.records]
    for mask in gone:
        assert any(iou(mask, other) > limit and scores[other] >= scores[mask] for other in kept)


@few
@given(data=st.data())
def test_a_filter_twice_removes_nothing_more(mask_lists: MaskLists, set_of_masks: MakeSet, data: st.DataObject) -> None:
    measured = measure_set(set_of_masks(data.draw(mask_lists)))
    filters = Filters(min_area=data.draw(st.floats(0, 60)), max_parts=1, min_solidity=data.draw(st.floats(0, 1)))
    once = group_masks(measured, filters=filters)
    kept = MaskSet(measured.masks.size, tuple(measured.masks.records[i] for i in once.kept))
    again = group_masks(measure_set(kept), filters=replace(filters))
    assert len(again.kept) == len(once.kept)
