"""Outlines of drawn objects as coverage patches."""

import cv2
import numpy as np

from sam_server.arrays import FloatArray

# Fractional bits of cv2.fillPoly's coordinates.
SHIFT = 4
LETTERS = "ABCDEFGHJKLMNPRSTUVXYZ2345678abdegkmnpqrs&?#"
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX)


def fill(outlines: list[FloatArray], half: int | None = None) -> FloatArray:
    """Coverage patch of closed outlines in pixels around (0, 0); holes by the even-odd rule.

    OpenCV's smooth polygons are some 0.6 pixels wider all round than the outlines: label what the patch covers, not
    what the outline holds.

    Args:
        outlines: (K, 2) points each.
        half: half the side of the patch; just large enough if None.
    """
    if half is None:
        half = int(np.ceil(max(float(np.abs(outline).max()) for outline in outlines))) + 2
    patch = np.zeros((2 * half, 2 * half), np.uint8)
    scale = 1 << SHIFT
    polygons = [np.round((outline + half - 0.5) * scale).astype(np.int32) for outline in outlines]
    cv2.fillPoly(patch, polygons, 255, cv2.LINE_AA, SHIFT)
    return patch.astype(np.float32) / 255


def turn(points: FloatArray, angle: float) -> FloatArray:
    """(K, 2) points rotated by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return (points @ np.array([[c, s], [-s, c]], np.float32)).astype(np.float32)


def circle_points(count: int) -> FloatArray:
    """(count, 2) points of the unit circle."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False, dtype=np.float32)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def round_outline(rng: np.random.Generator, aspect: float = 1.0, wobble: float = 0.0) -> FloatArray:
    """An ellipse of unit long axis whose radius wobbles by low harmonics."""
    points = circle_points(72)
    if wobble:
        t = np.linspace(0, 2 * np.pi, len(points), endpoint=False)
        waves = sum(rng.normal(0, 1 / k) * np.sin(k * t + rng.uniform(0, 6.3)) for k in range(2, 7))
        points = points * (1 + wobble * np.asarray(waves, np.float32))[:, None]
    points = points * np.array([1, aspect], np.float32)
    return turn(points, rng.uniform(0, 2 * np.pi))


def polygon_outline(rng: np.random.Generator) -> FloatArray:
    """A polygon of 3 to 9 corners, convex or star-like."""
    count = int(rng.integers(3, 10))
    t = np.sort((np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count)
    r = rng.uniform(0.75, 1, count)
    if count >= 5 and rng.random() < 0.35:
        t = np.linspace(0, 2 * np.pi, 2 * count, endpoint=False)
        r = np.tile([1.0, rng.uniform(0.35, 0.75)], count)
    points = np.stack([np.cos(t) * r, np.sin(t) * r * rng.uniform(0.5, 1)], axis=1).astype(np.float32)
    return turn(points, rng.uniform(0, 2 * np.pi))


def leaf_outline(rng: np.random.Generator) -> FloatArray:
    """A leaf along its axis, pointed at one or both ends, sometimes serrated."""
    s = np.linspace(0, 1, 40, dtype=np.float32)
    half = np.maximum(np.sin(np.pi * s ** rng.uniform(0.6, 1.6)), 0) ** rng.uniform(0.7, 1.5) * rng.uniform(0.2, 0.5)
    if rng.random() < 0.4:
        half = half * (1 + rng.uniform(0.05, 0.2) * np.sin(s * rng.uniform(40, 90)))
    bend = rng.uniform(-0.3, 0.3) * (s - 0.5) ** 2 * 4
    upper = np.stack([2 * s - 1, bend + half], axis=1)
    lower = np.stack([2 * s - 1, bend - half], axis=1)[::-1]
    return turn(np.concatenate([upper, lower]).astype(np.float32), rng.uniform(0, 2 * np.pi))


def ribbon(path: FloatArray, widths: FloatArray) -> FloatArray:
    """Outline of a band of half width `widths` (K,) along `path` (K, 2)."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-6
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * widths[:, None]
    return np.concatenate([path + normal, (path - normal)[::-1]]).astype(np.float32)


def wavy_path(rng: np.random.Generator, bend: float) -> FloatArray:
    """(48, 2) smooth path from about (-1, 0) to (1, 0), turned at random."""
    s = np.linspace(-1, 1, 48, dtype=np.float32)
    y = sum(rng.normal(0, bend / k) * np.sin(k * np.pi * s / 2 + rng.uniform(0, 6.3)) for k in (1, 2, 3))
    return turn(np.stack([s, np.asarray(y, np.float32)], axis=1), rng.uniform(0, 2 * np.pi))


def ring_outlines(rng: np.random.Generator) -> list[FloatArray]:
    """A ring, washer or frame: an outer and an inner outline."""
    outer = round_outline(rng, rng.uniform(0.6, 1)) if rng.random() < 0.7 else polygon_outline(rng)
    return [outer, outer * np.float32(rng.uniform(0.4, 0.85))]


def letter_patch(radius: float, rng: np.random.Generator) -> FloatArray:
    """Coverage patch of one letter or digit, turned at random."""
    side = 2 * int(radius * 1.5) + 9
    text = str(rng.choice(list(LETTERS)))
    font = int(rng.choice(FONTS))
    scale = radius / 11.0
    thickness = max(1, round(radius * rng.uniform(0.12, 0.45)))
    (width, height), _ = cv2.getTextSize(text, font, scale, thickness)
    patch = np.zeros((side, side), np.uint8)
    origin = ((side - width) // 2, (side + height) // 2)
    cv2.putText(patch, text, origin, font, scale, 255, thickness, cv2.LINE_AA)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), rng.normal(0, 25), 1.0)
    return cv2.warpAffine(patch, matrix, (side, side)).astype(np.float32) / 255


def tool_patch(radius: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Coverage patches (whole, head) of a key, spanner, hammer, spoon or knife, of one shape."""
    width = rng.uniform(0.06, 0.16)
    angle = rng.uniform(0, 2 * np.pi)
    s = np.linspace(-1, 0.75, 20, dtype=np.float32)
    taper = width * (1 + rng.uniform(-0.5, 0.5) * s)
    handle = ribbon(np.stack([s, np.zeros_like(s)], axis=1), taper)
    style = int(rng.integers(4))
    centre = np.array([0.7, 0], np.float32)
    if style == 0:
        head = circle_points(48) * np.array([0.3, rng.uniform(0.18, 0.32)], np.float32) + centre
    elif style == 1:
        head = np.array([[0.5, -0.45], [0.85, -0.45], [0.85, 0.35], [0.5, 0.45]], np.float32)
    elif style == 2:
        head = np.array([[0, -0.06], [0.98, 0], [0.9, 0.2], [0, 0.16]], np.float32) * np.float32(1.02)
    else:
        jaw = [[0.4, -0.12], [0.7, -0.3], [1, -0.28], [0.8, -0.08], [0.8, 0.08], [1, 0.28], [0.7, 0.3], [0.4, 0.12]]
        head = np.array(jaw, np.float32)
    grow = np.float32(radius)
    half = int(radius * 1.1) + 3
    grip = fill([turn(handle * grow, angle)], half)
    outlines = [turn(head * grow, angle)]
    if style == 0 and rng.random() < 0.5:
        hole = turn((circle_points(32) * np.float32(0.12) + centre) * grow, angle)
        outlines.append(hole)
        grip *= 1 - fill([hole], half)
    top = fill(outlines, half)
    return np.maximum(grip, top), top


def shape_patch(name: str, radius: float, rng: np.random.Generator) -> FloatArray:
    """Coverage patch (h, w) float32 of a shape of half-length `radius` pixels.

    Args:
        name: ellipse, blob, polygon, leaf, ring, letter, tool, fibre or branch.
    """
    grow = np.float32(radius)
    if name == "letter":
        return letter_patch(radius, rng)
    if name == "tool":
        return tool_patch(radius, rng)[0]
    if name == "ring":
        return fill([outline * grow for outline in ring_outlines(rng)])
    if name == "fibre":
        widths = np.full(48, rng.uniform(0.02, 0.08), np.float32)
        return fill([ribbon(wavy_path(rng, 0.35), np.maximum(widths, 1.2 / grow)) * grow])
    outlines = {
        "ellipse": lambda: round_outline(rng, rng.uniform(0.45, 1)),
        "blob": lambda: round_outline(rng, rng.uniform(0.5, 1), rng.uniform(0.05, 0.28)),
        "polygon": lambda: polygon_outline(rng),
        "leaf": lambda: leaf_outline(rng),
        "branch": lambda: ribbon(wavy_path(rng, 0.3), np.linspace(0.14, 0.05, 48, dtype=np.float32)),
    }
    return fill([outlines[name]() * grow])
