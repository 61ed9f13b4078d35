from dataclasses import replace

import numpy as np
import pytest

from training.close_up import DIAMETERS, ZOOM, close_up
from training.scene_canvas import Scene, node_areas
from training.scenes import draw

SIZE = 192


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Small droplets, on a picture whose colours say where a pixel lies."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.uint8) + 30
    return replace(draw("satellites", 1, SIZE), image=np.stack([x, y, np.zeros_like(x)], axis=2))


def test_the_window_is_cut_out_of_picture_and_labels_alike(scene):
    diameters = 2 * np.sqrt(node_areas(scene.labels, scene.parents) / np.pi)
    sides = []
    for seed in range(40):
        window = close_up(scene, np.random.default_rng(seed))
        side = len(window.labels)
        # The mean colour says which window it is, to a pixel: blur and noise shift it a little.
        left, top = np.round(window.image[..., :2].mean(axis=(0, 1)) - 30 - (side - 1) / 2).astype(int)
        places = [(y, x) for y in range(top - 1, top + 2) for x in range(left - 1, left + 2)]
        assert any(np.array_equal(scene.labels[y : y + side, x : x + side], window.labels) for y, x in places)
        assert window.image.shape == (side, side, 3)
        shown = diameters[np.unique(window.labels[window.labels > 0])]
        assert ((shown >= DIAMETERS[0]) & (shown <= DIAMETERS[1])).any()
        sides.append(side)
    assert min(sides) >= round(SIZE / ZOOM[1])
    assert max(sides) <= SIZE
    assert len(set(sides)) > 20


def test_some_windows_are_out_of_focus():
    scene = draw("satellites", 1, SIZE)
    steep = [steepest(close_up(scene, np.random.default_rng(seed))) for seed in range(60)]
    assert 0.1 < np.mean(np.array(steep) < 0.6 * steepest(scene)) < 0.6


def steepest(scene: Scene) -> float:
    """Grey levels from a pixel to the next at the sharpest edges."""
    return float(np.percentile(np.abs(np.diff(scene.image.mean(axis=2), axis=1)), 98))


def test_a_scene_without_small_objects_stays_whole():
    labels = np.zeros((SIZE, SIZE), np.uint16)
    labels[40:150, 40:150] = 1
    large = Scene(np.zeros((SIZE, SIZE, 3), np.uint8), labels, np.zeros(2, np.int32), "by hand")
    assert close_up(large, np.random.default_rng(0)) is large
