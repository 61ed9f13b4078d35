"""Overlaps and unions against the masks themselves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sam_server.masks import rle
from sam_server.masks.overlaps import find_overlaps, find_reaches, make_run_table

boxes = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.integers(1, 12))
scenes = st.lists(boxes, max_size=8)


def draw(scene: list[tuple[int, int, int, int]]) -> np.ndarray:
    masks = np.zeros((len(scene), 32, 34), np.bool_)
    for mask, (y, x, height, width) in zip(masks, scene, strict=True):
        mask[y : y + height, x : x + width] = True
        mask[y, x] = False
    return masks


@given(scenes)
def test_overlaps_are_the_shared_pixels(scene: list[tuple[int, int, int, int]]) -> None:
    masks = draw(scene)
    found = find_overlaps(rle.encode_batch(masks))
    shared = {(i, j): int((masks[i] & masks[j]).sum()) for i in range(len(masks)) for j in range(i + 1, len(masks))}
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    assert dict(zip(pairs, found.shared.tolist(), strict=True)) == {pair: n for pair, n in shared.items() if n}


@given(scenes, scenes)
def test_reaches_are_the_shared_pixels(scene: list[tuple[int, int, int, int]], other: list[tuple[int, ...]]) -> None:
    masks, regions = draw(scene), draw((other * 8 + scene)[: len(scene)])  # type: ignore[arg-type]
    found = find_reaches(rle.encode_batch(regions), rle.encode_batch(masks))
    count = len(masks)
    shared = {(i, j): int((regions[i] & masks[j]).sum()) for i in range(count) for j in range(count) if i != j}
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    assert dict(zip(pairs, found.shared.tolist(), strict=True)) == {pair: n for pair, n in shared.items() if n}


@given(scenes, st.lists(st.integers(-1, 2), min_size=8, max_size=8))
def test_union_areas(scene: list[tuple[int, int, int, int]], groups: list[int]) -> None:
    masks = draw(scene)
    groups_of = np.array(groups[: len(masks)], np.int64)
    table = make_run_table(rle.encode_batch(masks))
    expected = [masks[groups_of == group].any(axis=0).sum() for group in range(3)]
    assert table.union_areas(groups_of, 3, 32 * 34).tolist() == expected


def test_more_masks_than_a_byte_counts() -> None:
    masks = np.zeros((300, 20, 310), np.bool_)
    for i, mask in enumerate(masks):
        mask[5:15, i : i + 2] = True
    found = find_overlaps(rle.encode_batch(masks))
    np.testing.assert_array_equal(found.second - found.first, np.ones(299))
    np.testing.assert_array_equal(found.shared, np.full(299, 10))
