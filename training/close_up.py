"""Small objects seen from near: what a search in tiles or crops sends through the model."""

from dataclasses import replace

import cv2
import numpy as np

from training.scene_canvas import Scene, node_areas

# Diameters in scene pixels of what is looked at: below the first the pixels hold no outline, above the last a whole
# picture shows it well.
DIAMETERS = (7.0, 40.0)
# How many times smaller than the scene's the side of the window is.
ZOOM = (1.0, 2.8)
# Share of windows out of focus, and the standard deviation of that blur in radii of the object.
BLURRED = 0.45
BLUR = (0.15, 0.6)
# Share of windows with more noise, and its standard deviation in grey levels.
NOISY = 0.4
NOISE = (2.0, 14.0)


def close_up(scene: Scene, rng: np.random.Generator) -> Scene:
    """A square window of a scene around a small object, some out of focus for its size.

    Lenses are out of focus by as many pixels whatever the object's size, so drawn scenes have few small objects that
    are blurred as much as small ones often are.

    Args:
        scene: any size.
        rng: draws everything.

    Returns:
        The window; the scene as it is if it shows nothing small.
    """
    diameters = 2 * np.sqrt(node_areas(scene.labels, scene.parents) / np.pi)
    small = np.flatnonzero((diameters >= DIAMETERS[0]) & (diameters <= DIAMETERS[1]))
    small = small[small > 0]
    if not len(small):
        return scene
    node = int(rng.choice(small))
    height, width = scene.labels.shape
    side = round(min(height, width) / float(np.exp(rng.uniform(*np.log(ZOOM)))))
    y, x = np.argwhere(scene.mask(node)).mean(axis=0) - side / 2 + rng.uniform(-side / 3, side / 3, 2)
    top, left = int(np.clip(y, 0, height - side)), int(np.clip(x, 0, width - side))
    image, labels = (each[top : top + side, left : left + side] for each in (scene.image, scene.labels))
    if rng.random() < BLURRED:
        image = cv2.GaussianBlur(image, (0, 0), float(diameters[node]) / 2 * rng.uniform(*BLUR))
    if rng.random() < NOISY:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*NOISE))
        image = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    return replace(scene, image=image, labels=labels)
