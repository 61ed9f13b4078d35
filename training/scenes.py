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
    "droplets": (micro.droplets, 20),
    "emulsion": (micro.emulsion, 10),
    "bubbles": (micro.bubbles, 4),
    "cells": (micro.cells, 14),
    "fluorescence": (micro.fluorescence, 8),
    "rods": (micro.rods, 4),
    "grains": (micro.grains, 11),
    "fibres": (micro.fibres, 7),
    "coins": (objects.coins, 6),
    "leaves": (lambda size, rng: objects.shapes_scene(size, rng, ("leaf",), 14, 160), 5),
    "rings": (lambda size, rng: objects.shapes_scene(size, rng, ("ring",), 12, 150), 9),
    "polygons": (lambda size, rng: objects.shapes_scene(size, rng, ("polygon",), 8, 170), 4),
    "blobs": (lambda size, rng: objects.shapes_scene(size, rng, ("blob", "ellipse"), 8, 200), 4),
    "letters": (objects.letters, 7),
    "tools": (objects.tools, 7),
    "nested": (objects.nested, 9),
    "photo": (objects.photo, 17),
    "clutter": (objects.clutter, 9),
    "satellites": (micro.satellites, 26),
}

# Kinds whose ground is bare: what is not labelled there is no object. Elsewhere a click on the ground may well mean it.
BARE_GROUND = frozenset(
    ("droplets", "emulsion", "bubbles", "cells", "fluorescence", "rods", "grains", "fibres", "coins", "satellites")
)

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
