"""Endless labelled pictures: `draw(kind, seed)` gives the same scene on every machine."""

from collections.abc import Callable

import numpy as np

from training import scene_micro as micro
from training import scene_objects as objects
from training.scene_canvas import Canvas, Scene
from training.scene_degrade import photograph

SCENE_SIZE = 512

# Kind -> (painter, share of the training scenes).
KINDS: dict[str, tuple[Callable[[int, np.random.Generator], Canvas], float]] = {
    "droplets": (micro.droplets, 9),
    "emulsion": (micro.emulsion, 6),
    "bubbles": (micro.bubbles, 8),
    "cells": (micro.cells, 11),
    "fluorescence": (micro.fluorescence, 7),
    "rods": (micro.rods, 5),
    "grains": (micro.grains, 11),
    "fibres": (micro.fibres, 5),
    "coins": (objects.coins, 9),
    "leaves": (lambda size, rng: objects.shapes_scene(size, rng, ("leaf",), 14, 160), 4),
    "rings": (lambda size, rng: objects.shapes_scene(size, rng, ("ring",), 12, 150), 6),
    "polygons": (lambda size, rng: objects.shapes_scene(size, rng, ("polygon",), 8, 170), 3),
    "blobs": (lambda size, rng: objects.shapes_scene(size, rng, ("blob", "ellipse"), 8, 200), 4),
    "letters": (objects.letters, 5),
    "tools": (objects.tools, 5),
    "nested": (objects.nested, 8),
    "photo": (objects.photo, 12),
    "clutter": (objects.clutter, 7),
}

# Scenes with these seeds and above are for evaluation only; training uses seeds below.
HELD_OUT_SEED = 1_000_000_000


def draw(kind: str, seed: int, size: int = SCENE_SIZE) -> Scene:
    """Draw a scene.

    Args:
        kind: a key of KINDS.
        seed: which scene of that kind.
        size: side in pixels.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of scene {kind!r}; known are {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    scene = KINDS[kind][0](size, rng).scene(kind)
    return Scene(photograph(scene.image.astype(np.float32) / 255, rng), scene.labels, scene.parents, kind)


def draw_any(seed: int, size: int = SCENE_SIZE) -> Scene:
    """Draw a scene of a kind that the seed chooses, by the shares in KINDS."""
    names = list(KINDS)
    shares = np.array([KINDS[name][1] for name in names], np.float64)
    kind = names[int(np.random.default_rng([seed, 99]).choice(len(names), p=shares / shares.sum()))]
    return draw(kind, seed, size)
