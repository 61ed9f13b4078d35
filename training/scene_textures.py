"""Colours and natural textures made by code: 1/f noise, cells, stripes, gradients."""

from functools import cache

import cv2
import numpy as np

from sam_server.arrays import FloatArray

# Side of the fields kept in the pool, in pixels, and how many of them; fields are cut, flipped and scaled when used.
POOL_SIDE = 1024
POOL_COUNT = 40
POOL_SEED = 20231
# Range of the exponents of the amplitude spectrum: natural pictures fall like 1 / f (Field 1987).
EXPONENTS = (0.5, 1.9)


@cache
def pool() -> tuple[FloatArray, ...]:
    """Texture fields (S, S) float32, zero mean and unit deviation, the same in every process."""
    rng = np.random.default_rng(POOL_SEED)
    makers = (noise_field, noise_field, noise_field, voronoi_field, stripe_field)
    return tuple(normalised(makers[i % len(makers)](POOL_SIDE, rng)) for i in range(POOL_COUNT))


def normalised(field: FloatArray) -> FloatArray:
    """A field shifted and scaled to zero mean and unit deviation."""
    return ((field - field.mean()) / (field.std() + 1e-6)).astype(np.float32)


def noise_field(side: int, rng: np.random.Generator) -> FloatArray:
    """Noise whose spectrum falls like 1 / f^a, a drawn from EXPONENTS; sometimes stretched one way."""
    exponent = rng.uniform(*EXPONENTS)
    stretch = np.exp(rng.normal(0, 0.6)) if rng.random() < 0.4 else 1.0
    fy = np.fft.fftfreq(side)[:, None] * stretch
    fx = np.fft.rfftfreq(side)[None] / stretch
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
    spectrum /= np.maximum(np.hypot(fy, fx), 1.0 / side) ** exponent
    return np.fft.irfft2(spectrum, (side, side)).astype(np.float32)


def voronoi_field(side: int, rng: np.random.Generator) -> FloatArray:
    """Distance to the nearest of scattered points, with a random shade for each cell."""
    sites = np.ones((side, side), np.uint8)
    count = int(np.exp(rng.uniform(np.log(100), np.log(6000))))
    sites[rng.integers(0, side, count), rng.integers(0, side, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(sites, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    shade = rng.normal(0, 1, int(labels.max()) + 1).astype(np.float32)[labels]
    return normalised(distance) * rng.uniform(0, 1) + shade * rng.uniform(0, 1)


def stripe_field(side: int, rng: np.random.Generator) -> FloatArray:
    """Wavy stripes or a check pattern."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    wave = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), 30)
    wave *= rng.uniform(0, 12) / (wave.std() + 1e-6)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    field = np.sin((x * np.cos(angle) + y * np.sin(angle) + wave) * (2 * np.pi / period))
    if rng.random() < 0.4:
        field = field * np.sin((x * np.sin(angle) - y * np.cos(angle) + wave) * (2 * np.pi / period))
    return np.tanh(field * rng.uniform(0.8, 4)).astype(np.float32)


def texture(height: int, width: int, rng: np.random.Generator, smooth: bool = False) -> FloatArray:
    """(height, width) float32 texture, about zero mean and unit deviation, cut from the pool.

    Args:
        smooth: only 1/f noise, no cells and stripes.
    """
    fields = pool()
    index = int(rng.integers(len(fields)))
    if smooth and index % 5 > 2:
        index -= 3
    field = fields[index]
    zoom = float(np.exp(rng.uniform(-0.7, 0.9)))
    cut_h, cut_w = (min(POOL_SIDE, max(2, round(side / zoom))) for side in (height, width))
    top, left = rng.integers(POOL_SIDE - cut_h + 1), rng.integers(POOL_SIDE - cut_w + 1)
    cut = field[top : top + cut_h, left : left + cut_w]
    if rng.random() < 0.5:
        cut = cut[::-1]
    return cv2.resize(np.ascontiguousarray(cut), (width, height), interpolation=cv2.INTER_LINEAR)


def gradient(height: int, width: int, rng: np.random.Generator) -> FloatArray:
    """(height, width) float32 smooth ramp in [-1, 1] in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    return ((x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)).astype(np.float32)


def random_colour(rng: np.random.Generator, low: float = 0.05, high: float = 0.95) -> FloatArray:
    """(3,) RGB in [low, high], mostly of natural, low saturation."""
    value = rng.uniform(low, high)
    saturation = rng.beta(1.2, 1.8)
    hue = rng.random(3)
    hue = (hue - hue.min()) / (np.ptp(hue) + 1e-6)
    return np.clip(value * (1 - saturation + saturation * hue * 1.3), low, high).astype(np.float32)


def other_colour(colour: FloatArray, rng: np.random.Generator, contrast: float = 0.15) -> FloatArray:
    """A colour at least `contrast` away from `colour` in one channel."""
    for _ in range(20):
        new = random_colour(rng)
        if np.abs(new - colour).max() >= contrast:
            return new
    return np.clip(1 - colour, 0.05, 0.95).astype(np.float32)


def background(
    size: int, rng: np.random.Generator, colour: FloatArray | None = None, rough: float = 0.08
) -> FloatArray:
    """(size, size, 3) float32 background: a colour with a ramp, texture and uneven light."""
    base = random_colour(rng) if colour is None else colour
    image = np.empty((size, size, 3), np.float32)
    image[:] = base
    image += (texture(size, size, rng, smooth=rng.random() < 0.7) * rng.uniform(0, rough))[..., None]
    image += gradient(size, size, rng)[..., None] * (rng.uniform(0, 0.25) * rng.normal(0.7, 0.3, 3).astype(np.float32))
    return np.clip(image, 0, 1)
