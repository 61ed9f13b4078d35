"""How a drawn object looks: colour, shading, rim, highlight, texture, transparency."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from sam_server.arrays import FloatArray
from training.scene_canvas import edge_distance
from training.scene_textures import gradient, random_colour, texture


@dataclass(frozen=True)
class Look:
    """Appearance of one object; brightness in units of the full range, lengths as shares of the object's radius.

    Attributes:
        colour: (3,) RGB in [0, 1].
        opacity: how much of the background is hidden.
        ramp: brightness change along a random direction.
        dome: brightness of the side towards the light, as on a rounded solid.
        light: direction of the light in radians.
        rim: brightness added along the edge; negative for a dark rim.
        rim_width: width of that rim.
        core: brightness added towards the centre.
        highlight: opacity of a small bright spot towards the light.
        grain: amplitude of the texture.
        second: another colour that the texture mixes in, or None.
    """

    colour: FloatArray
    opacity: float = 1.0
    ramp: float = 0.0
    dome: float = 0.0
    light: float = 0.0
    rim: float = 0.0
    rim_width: float = 0.15
    core: float = 0.0
    highlight: float = 0.0
    grain: float = 0.0
    second: FloatArray | None = None


def random_look(rng: np.random.Generator, colour: FloatArray | None = None, rich: float = 1.0) -> Look:
    """A random appearance; `rich` scales shading and texture."""
    return Look(
        colour=random_colour(rng) if colour is None else colour,
        ramp=rng.uniform(0, 0.2) * rich,
        dome=rng.uniform(0, 0.35) * rich if rng.random() < 0.5 else 0.0,
        light=rng.uniform(0, 2 * np.pi),
        rim=rng.normal(0, 0.2) * rich if rng.random() < 0.4 else 0.0,
        rim_width=rng.uniform(0.04, 0.3),
        highlight=rng.uniform(0.2, 0.9) if rng.random() < 0.15 * rich else 0.0,
        grain=rng.uniform(0, 0.12) * rich if rng.random() < 0.7 else 0.0,
        second=random_colour(rng) if rng.random() < 0.12 * rich else None,
    )


def vary(look: Look, rng: np.random.Generator, amount: float = 0.06) -> Look:
    """The same look on another individual: a little brighter or darker, of other texture."""
    shift = rng.normal(0, amount) + rng.normal(0, amount / 3, 3)
    return replace(look, colour=np.clip(look.colour + shift, 0.01, 0.99).astype(np.float32))


def shade(alpha: FloatArray, look: Look, rng: np.random.Generator, under: FloatArray) -> FloatArray:
    """Colours (h, w, 3) float32 of an object.

    Args:
        alpha: (h, w) coverage patch.
        look: appearance.
        rng: draws texture and ramp.
        under: (h, w, 3) what lies behind, for transparent objects.
    """
    height, width = alpha.shape
    distance = edge_distance(alpha)
    radius = max(float(distance.max()), 1.0)
    light = np.zeros((height, width), np.float32)
    if look.ramp:
        light += gradient(height, width, rng) * look.ramp
    if look.dome:
        light += _dome(distance, radius, look.light) * look.dome
    if look.rim:
        light += np.exp(-(((distance - 1) / max(look.rim_width * radius, 0.8)) ** 2)) * look.rim
    if look.core:
        light += (distance / radius) ** 1.5 * look.core
    out = np.empty((height, width, 3), np.float32)
    out[:] = look.colour
    if look.second is not None:
        mix = np.clip(texture(height, width, rng) * 0.7 + 0.3, 0, 1)[..., None]
        out += mix * (look.second - out)
    out += light[..., None]
    if look.grain:
        out += (texture(height, width, rng) * look.grain)[..., None]
    if look.opacity < 1:
        opacity = np.clip(look.opacity + np.abs(light) * 1.5, 0, 1)[..., None]
        out = under + opacity * (out - under)
    if look.highlight:
        out = _highlight(out, alpha, look, rng)
    return np.clip(out, 0, 1)


def _dome(distance: FloatArray, radius: float, light: float) -> FloatArray:
    """Lambertian shading of a solid whose height is a quarter circle of the distance to its edge."""
    share = np.clip(distance / radius, 0, 1)
    height = cv2.GaussianBlur(np.sqrt(1 - (1 - share) ** 2) * radius, (0, 0), max(radius * 0.08, 0.6))
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    return np.clip(slope_x * np.cos(light) + slope_y * np.sin(light), -1.2, 1.2).astype(np.float32)


def _highlight(colour: FloatArray, alpha: FloatArray, look: Look, rng: np.random.Generator) -> FloatArray:
    height, width = alpha.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    reach = rng.uniform(0.1, 0.28)
    x0 = width / 2 - np.cos(look.light) * reach * width
    y0 = height / 2 - np.sin(look.light) * reach * height
    spread = max(min(height, width) * rng.uniform(0.03, 0.1), 0.8)
    spot = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * spread**2)) * look.highlight
    return colour + spot[..., None] * (1 - colour)
