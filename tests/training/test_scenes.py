import json

import cv2
import numpy as np
import pytest

from training.samples import GROUND_MARGIN, MIN_AREA, make_sample
from training.scene_canvas import Scene, family, node_areas
from training.scene_store import SceneStore, draw_shard, draw_store
from training.scenes import HELD_OUT_SEED, KINDS, draw, draw_any

SIZE = 192


@pytest.mark.parametrize("kind", KINDS)
class TestKinds:
    def test_same_seed_same_scene(self, kind):
        first, second, other = draw(kind, 5, SIZE), draw(kind, 5, SIZE), draw(kind, 6, SIZE)
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.labels, second.labels)
        np.testing.assert_array_equal(first.parents, second.parents)
        assert not np.array_equal(first.image, other.image)

    def test_masks_are_valid(self, kind):
        scene = draw(kind, 7, SIZE)
        assert scene.image.shape == (SIZE, SIZE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.labels.max() < len(scene.parents)
        nodes = scene.nodes(20)
        assert nodes
        areas = node_areas(scene.labels, scene.parents)
        for node in nodes:
            mask = scene.mask(node)
            assert np.count_nonzero(mask) == areas[node]
            parent = int(scene.parents[node])
            assert parent < node
            if parent:
                assert scene.mask(parent)[mask].all()

    def test_objects_can_be_seen(self, kind):
        # Somewhere in a few scenes the objects differ from what surrounds them.
        contrast = []
        for seed in range(3):
            scene = draw(kind, seed, SIZE)
            inside = scene.labels > 0
            image = scene.image.astype(np.float32).mean(axis=2)
            if 0 < inside.sum() < inside.size:
                contrast.append(abs(image[inside].mean() - image[~inside].mean()) + image[inside].std())
            else:
                contrast.append(image.std())
        assert max(contrast) > 5


def test_hierarchy():
    parents = np.array([0, 0, 1, 2, 0], np.int32)
    labels = np.array([[1, 2, 3, 4, 0]], np.uint16)
    scene = Scene(np.zeros((1, 5, 3), np.uint8), labels, parents, "by hand")
    assert family(parents, 1).tolist() == [False, True, True, True, False]
    assert scene.mask(1).tolist() == [[True, True, True, False, False]]
    assert scene.mask(2).tolist() == [[False, True, True, False, False]]
    assert node_areas(labels, parents).tolist() == [1, 3, 2, 1, 1]


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match="unknown kind of scene 'clouds'"):
        draw("clouds", 0)


def test_samples_are_deterministic_and_fit():
    scene = draw("nested", 2, SIZE)
    first = make_sample(scene, 128, 4, np.random.default_rng(1))
    second = make_sample(scene, 128, 4, np.random.default_rng(1))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.targets, second.targets)
    assert first.image.shape == (128, 128, 3)
    assert first.targets.shape == (4, 64, 64)
    # Coverage sums to the area: 255 a pixel of half the resolution, which stands for four.
    assert (first.targets.sum(axis=(1, 2)) / 255 * 4 >= MIN_AREA - 1).all()


def test_a_window_shows_things_as_large_as_the_frame_does():
    """A window of a quarter of the frame shows some objects whole, not all objects at half their size."""
    scene = draw("coins", 3, 256)
    sides = {0: [], 256: []}
    for frame, found in sides.items():
        for seed in range(20):
            sample = make_sample(scene, 128, 4, np.random.default_rng(seed), frame=frame)
            found += [] if sample is None else list((sample.targets > 127).sum(axis=(1, 2)))
    assert np.median(sides[256]) > 1.5 * np.median(sides[0])


def test_ground_is_what_shows_no_object():
    scene = draw("droplets", 3, 256)
    sample = make_sample(scene, 256, 4, np.random.default_rng(0), augment=False, ground=True)
    assert sample is not None
    assert sample.empty.tolist() == [False, False, False, True]
    labels = cv2.resize((scene.labels > 0).astype(np.uint8), (128, 128), interpolation=cv2.INTER_NEAREST)
    away = cv2.distanceTransform(1 - labels, cv2.DIST_L2, 5)
    ground = sample.targets[-1] == 255
    assert ground.any()
    assert away[ground].min() > GROUND_MARGIN - 1
    assert ground[away > 2 * GROUND_MARGIN].all()
    # The other masks are objects, as without.
    without = make_sample(scene, 256, 4, np.random.default_rng(0), augment=False)
    assert without is not None
    np.testing.assert_array_equal(sample.targets[:3], without.targets[:3])


def test_plain_sample_is_the_scene():
    scene = draw("polygons", 1, 128)
    sample = make_sample(scene, 128, 2, np.random.default_rng(0), augment=False)
    assert sample is not None
    np.testing.assert_array_equal(sample.image, scene.image)


def test_store_keeps_what_was_drawn(tmp_path):
    draw_store(tmp_path, 3, workers=1, size=96)
    store = SceneStore(tmp_path, 3)
    assert len(store) == 3
    expected = draw_any(2, 96)
    np.testing.assert_array_equal(store[2].image, expected.image)
    np.testing.assert_array_equal(store[2].labels, expected.labels)
    np.testing.assert_array_equal(store[2].parents, expected.parents)
    assert store[2].kind == expected.kind
    assert json.loads((tmp_path / "shard_00000" / "kinds.json").read_text())[2] == expected.kind
    with pytest.raises(IndexError):
        store[3]
    with pytest.raises(ValueError, match="holds 3 scenes"):
        SceneStore(tmp_path, 4)


def test_a_store_may_begin_with_later_scenes(tmp_path):
    draw_store(tmp_path, 2, workers=1, size=96, first=3)
    np.testing.assert_array_equal(SceneStore(tmp_path, 2)[1].image, draw_any(751, 96).image)
    drawn = (tmp_path / "shard_00003" / "images.npy").stat().st_mtime_ns
    draw_store(tmp_path, 2, workers=1, size=96, first=3)
    assert [path.name for path in tmp_path.iterdir()] == ["shard_00003"]
    assert (tmp_path / "shard_00003" / "images.npy").stat().st_mtime_ns == drawn


def test_store_takes_in_what_is_drawn_meanwhile(tmp_path):
    draw_shard(tmp_path, 0, 2, size=96)
    store = SceneStore(tmp_path)
    assert len(store) == 2
    draw_shard(tmp_path, 1, 1, size=96)
    store.refresh()
    assert len(store) == 3
    np.testing.assert_array_equal(store[2].image, draw_any(250, 96).image)


def test_held_out_seeds_are_far_from_training():
    from training.config import TrainConfig
    from training.protocol import held_out

    picture = next(iter(held_out(["coins"], 1)))
    np.testing.assert_array_equal(picture.image, draw("coins", HELD_OUT_SEED).image)
    assert TrainConfig.__dataclass_fields__["scenes"].default < HELD_OUT_SEED
