"""Pictures drawn by code, the same ones in every run."""

import cv2
import numpy as np

from sam_server.arrays import ByteArray

# Pixels a drawn thing takes on average, and the range of its radius over the picture's height.
AREA_PER_THING = 26_000
RADII = (0.02, 0.075)
NOISE = 6.0


def draw_picture(width: int, height: int, seed: int = 0) -> ByteArray:
    """Discs, ellipses and boxes with rims and shading on an uneven ground.

    Args:
        width, height: of the picture in pixels.
        seed: of everything that is drawn.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.uniform(90, 170, (4, 6, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(ground, 0, 255).astype(np.uint8)
    for _ in range(max(4, width * height // AREA_PER_THING)):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(radius * height) + 2 for radius in rng.uniform(*RADII, size=2))
        colour = tuple(int(value) for value in rng.integers(20, 236, size=3))
        rim = tuple(value // 2 for value in colour)
        angle = float(rng.uniform(0, 180))
        kind = rng.integers(3)
        if kind == 0:
            axes = (axes[0], axes[0])
        if kind < 2:
            cv2.ellipse(picture, centre, axes, angle, 0, 360, colour, cv2.FILLED, cv2.LINE_AA)
            cv2.ellipse(picture, centre, axes, angle, 0, 360, rim, 2, cv2.LINE_AA)
        else:
            corners = cv2.boxPoints((centre, (2 * axes[0], 2 * axes[1]), angle)).astype(np.int32)
            cv2.fillPoly(picture, [corners], colour, cv2.LINE_AA)
            cv2.polylines(picture, [corners], True, rim, 2, cv2.LINE_AA)
    noisy = cv2.GaussianBlur(picture, (0, 0), 0.8) + rng.normal(0, NOISE, picture.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def grid_points(width: int, height: int, count: int) -> np.ndarray:
    """`count` points x, y (count, 2) float64 on a square grid over the picture; count is a square number."""
    side = round(count**0.5)
    steps = (np.arange(side) + 0.5) / side
    rows, columns = np.meshgrid(steps * height, steps * width, indexing="ij")
    return np.stack([columns.ravel(), rows.ravel()], axis=-1)
