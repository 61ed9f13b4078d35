"""Scenes as a microscope or a laboratory camera sees them: droplets, bubbles, cells, grains."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from sam_server.arrays import FloatArray
from training.scene_canvas import Canvas
from training.scene_looks import Look, random_look, shade, vary
from training.scene_shapes import circle_points, fill, round_outline, shape_patch, turn
from training.scene_textures import background, noise_field, normalised, random_colour, texture

Painter = Callable[[Canvas, FloatArray, float, float], int]


def radii(rng: np.random.Generator, low: float, high: float, count: int) -> FloatArray:
    """Radii of one population, large first: all alike, or log-uniformly spread."""
    middle = np.exp(rng.uniform(np.log(low), np.log(high)))
    spread = rng.choice([0.03, 0.15, 0.45])
    return np.sort(np.clip(middle * np.exp(rng.normal(0, spread, count)), low, high))[::-1].astype(np.float32)


def scatter(
    canvas: Canvas,
    rng: np.random.Generator,
    sizes: FloatArray,
    overlap: float,
    paint: Painter,
    outline: Callable[[float], FloatArray],
) -> None:
    """Paint objects at random places where at most `overlap` of them would cover others."""
    for radius in sizes:
        alpha = outline(float(radius))
        for _ in range(8):
            x, y = rng.uniform(0, canvas.size, 2)
            if canvas.covered(alpha, x, y) <= overlap + (
                0.4 if min(x, y) < radius or max(x, y) > canvas.size - radius else 0
            ):
                paint(canvas, alpha, x, y)
                break


def how_many(rng: np.random.Generator, size: int, radius: float, cover: tuple[float, float] = (0.1, 0.7)) -> int:
    """Objects of a radius that would cover a random share of the canvas, 4 to 350."""
    return int(np.clip(rng.uniform(*cover) * size**2 / (np.pi * radius**2), 4, 350))


def population(
    rng: np.random.Generator, size: int, low: float, high: float, cover: tuple[float, float] = (0.1, 0.7)
) -> FloatArray:
    """Radii of as many objects as cover a share of the canvas."""
    sizes = radii(rng, low, high, 350)
    count = how_many(rng, size, float(np.sqrt((sizes**2).mean())), cover)
    return np.sort(rng.permutation(sizes)[:count])[::-1]


def lab_background(size: int, rng: np.random.Generator) -> FloatArray:
    """An even bright, grey or dark field with little texture, grey or tinted."""
    grey = rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.7), rng.uniform(0.6, 0.92)])
    tint = rng.normal(0, 0.06, 3) if rng.random() < 0.5 else np.zeros(3)
    return background(size, rng, np.clip(grey + tint, 0.02, 0.95).astype(np.float32), rough=0.035)


def droplet_look(canvas: Canvas, rng: np.random.Generator) -> Look:
    """Transparent, with a dark or bright rim; or dyed and opaque."""
    base = canvas.image.reshape(-1, 3).mean(axis=0)
    dyed = rng.random() < 0.35
    sign = -1 if base.mean() > rng.uniform(0.25, 0.75) else 1
    rim = sign * rng.uniform(0.12, 0.6)
    return Look(
        colour=random_colour(rng) if dyed else np.clip(base + rng.normal(0, 0.07), 0.02, 0.98).astype(np.float32),
        opacity=rng.uniform(0.4, 1) if dyed else rng.uniform(0.2, 0.7),
        rim=rim * (0.5 if dyed and rng.random() < 0.5 else 1),
        rim_width=rng.uniform(0.03, 0.35),
        core=rng.normal(0, 0.15) if rng.random() < 0.5 else 0.0,
        dome=rng.uniform(0, 0.3) if rng.random() < 0.4 else 0.0,
        light=rng.uniform(0, 2 * np.pi),
        highlight=rng.uniform(0.3, 1) if rng.random() < 0.5 else 0.0,
        grain=rng.uniform(0, 0.04),
    )


def painter(look: Look, rng: np.random.Generator, spread: float = 0.03) -> Painter:
    """Paints each object with its own variation of one look."""

    def paint(canvas: Canvas, alpha: FloatArray, x: float, y: float) -> int:
        colours = shade(alpha, vary(look, rng, spread), rng, canvas.look_under(alpha, x, y))
        return canvas.paint(alpha, x, y, colours)

    return paint


def paint_part(
    canvas: Canvas, part: FloatArray, x: float, y: float, look: Look, node: int, rng: np.random.Generator
) -> int:
    """Paint a part of a node, in a variation of a look; the part's own node."""
    return canvas.paint(part, x, y, shade(part, vary(look, rng), rng, canvas.look_under(part, x, y)), node)


def droplets(size: int, rng: np.random.Generator) -> Canvas:
    """Separate or touching round droplets of one or two populations, from about 8 pixels across."""
    canvas = Canvas(lab_background(size, rng))
    for _ in range(1 if rng.random() < 0.7 else 2):
        sizes = population(rng, size, 4, 70 if rng.random() < 0.8 else 140)
        aspect = rng.uniform(0.8, 1) if rng.random() < 0.2 else rng.uniform(0.96, 1)
        paint = painter(droplet_look(canvas, rng), rng)
        scatter(
            canvas,
            rng,
            sizes,
            rng.choice([0.0, 0.02, 0.15]),
            paint,
            lambda r, a=aspect: fill([round_outline(rng, a) * np.float32(r)]),
        )  # type: ignore[misc]
    return canvas


def satellites(size: int, rng: np.random.Generator) -> Canvas:
    """Large droplets with small ones on them, which are their parts, and small ones between them."""
    canvas = Canvas(lab_background(size, rng))
    paint = painter(droplet_look(canvas, rng), rng)
    look = droplet_look(canvas, rng)
    small = float(np.exp(rng.uniform(np.log(3.5), np.log(12))))
    large = small * float(rng.uniform(2.5, 6))
    most = int(rng.integers(1, 5))

    def small_one() -> FloatArray:
        return fill([circle_points(48) * np.float32(max(3.0, small * rng.normal(1, 0.08)))])

    def with_satellites(canvas: Canvas, alpha: FloatArray, x: float, y: float) -> int:
        node = paint(canvas, alpha, x, y)
        for _ in range(int(rng.integers(0, most + 1))):
            part = small_one()
            reach, angle = (min(alpha.shape) / 2 - 0.8 * small) * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
            px, py = x + reach * np.cos(angle), y + reach * np.sin(angle)
            paint_part(canvas, part, px, py, look, node, rng)
        return node

    sizes = large * rng.normal(1, 0.05, how_many(rng, size, large, (0.1, 0.5)))
    scatter(canvas, rng, sizes.astype(np.float32), 0.02, with_satellites, lambda r: fill([circle_points(96) * r]))
    alone = np.full(int(rng.integers(0, 40)), small, np.float32)
    scatter(canvas, rng, alone, 0.0, painter(look, rng), lambda _: small_one())
    return canvas


def emulsion(size: int, rng: np.random.Generator) -> Canvas:
    """Crowded droplets, in rows or at random, some with droplets inside them."""
    canvas = Canvas(lab_background(size, rng))
    look = droplet_look(canvas, rng)
    inner = droplet_look(canvas, rng)
    double = rng.random() < 0.5
    plain = painter(look, rng)

    def paint(canvas: Canvas, alpha: FloatArray, x: float, y: float) -> int:
        node = plain(canvas, alpha, x, y)
        radius = min(alpha.shape) / 2 - 2
        if double and radius > 12 and rng.random() < 0.8:
            for _ in range(int(rng.integers(1, 4))):
                part = fill([circle_points(48) * np.float32(radius * rng.uniform(0.2, 0.55))])
                reach, angle = radius * rng.uniform(0, 0.4), rng.uniform(0, 6.3)
                px, py = x + reach * np.cos(angle), y + reach * np.sin(angle)
                paint_part(canvas, part, px, py, inner, node, rng)
        return node

    radius = float(np.exp(rng.uniform(np.log(7), np.log(60))))
    if rng.random() < 0.5:  # a monolayer packed in a hexagonal lattice
        pitch = radius * rng.uniform(2.0, 2.5)
        for row in range(-1, int(size / (pitch * 0.87)) + 2):
            for column in range(-1, int(size / pitch) + 2):
                if len(canvas.parents) < 900 and rng.random() < 0.95:
                    r = radius * rng.normal(1, 0.02)
                    x = (column + 0.5 * (row % 2)) * pitch + rng.normal(0, 0.04 * radius)
                    y = row * pitch * 0.87 + rng.normal(0, 0.04 * radius)
                    if -r < x < size + r and -r < y < size + r:
                        paint(canvas, fill([circle_points(64) * np.float32(r)]), x, y)
    else:
        sizes = population(rng, size, 6, 70, (0.5, 1.1))
        scatter(canvas, rng, sizes, 0.05, paint, lambda r: fill([circle_points(64) * np.float32(r)]))
    return canvas


def bubbles(size: int, rng: np.random.Generator) -> Canvas:
    """Bubbles: dark ring, bright heart or empty, overlapping; over an even or a textured ground."""
    canvas = Canvas(lab_background(size, rng) if rng.random() < 0.7 else background(size, rng))
    base = canvas.image.reshape(-1, 3).mean(axis=0)
    look = Look(
        colour=np.clip(base + rng.normal(0, 0.04), 0, 1).astype(np.float32),
        opacity=rng.uniform(0.05, 0.4),
        rim=rng.choice([-1, -1, 1]) * rng.uniform(0.2, 0.7),
        rim_width=rng.uniform(0.05, 0.6),
        core=rng.uniform(0, 0.4) if rng.random() < 0.6 else 0.0,
        light=rng.uniform(0, 6.3),
        highlight=rng.uniform(0.4, 1) if rng.random() < 0.7 else 0.0,
    )
    sizes = population(rng, size, 5, 110, (0.1, 0.6))
    aspect = rng.uniform(0.75, 1)
    scatter(
        canvas,
        rng,
        sizes,
        rng.choice([0.02, 0.3]),
        painter(look, rng),
        lambda r: fill([round_outline(rng, aspect, 0.02) * np.float32(r)]),
    )
    return canvas


def cells(size: int, rng: np.random.Generator) -> Canvas:
    """Stained or phase-contrast cells: cytoplasm, nucleus, nucleolus as whole, part and subpart."""
    canvas = Canvas(lab_background(size, rng))
    ground = canvas.image.reshape(-1, 3).mean(axis=0)
    body_colour = np.clip(ground + rng.choice([-1, 1]) * rng.uniform(0.06, 0.35, 3), 0.02, 0.98).astype(np.float32)
    body = replace(
        random_look(rng, body_colour, 0.6),
        highlight=0.0,
        second=None,
        opacity=rng.uniform(0.6, 1),
        rim=rng.normal(0, 0.22),
    )
    core_colour = np.clip(body_colour + rng.choice([-1, -1, 1]) * rng.uniform(0.1, 0.45, 3), 0.02, 0.98).astype(
        np.float32
    )
    core = replace(random_look(rng, core_colour, 0.6), highlight=0.0, second=None)
    share, nucleated = rng.uniform(0.25, 0.6), rng.random() < 0.85
    wobble, plain = rng.uniform(0, 0.25), painter(body, rng, 0.05)

    def paint(canvas: Canvas, alpha: FloatArray, x: float, y: float) -> int:
        node = plain(canvas, alpha, x, y)
        radius = min(alpha.shape) / 2 - 2
        if nucleated and radius > 7 and rng.random() < 0.95:
            part = fill([round_outline(rng, rng.uniform(0.7, 1), 0.06) * np.float32(radius * share)])
            px, py = x + rng.normal(0, 0.1) * radius, y + rng.normal(0, 0.1) * radius
            nucleus = paint_part(canvas, part, px, py, core, node, rng)
            if radius * share > 12 and rng.random() < 0.5:
                spot = fill([circle_points(24) * np.float32(radius * share * rng.uniform(0.2, 0.35))])
                canvas.paint(
                    spot, px + rng.normal(0, 2), py + rng.normal(0, 2), np.clip(core_colour - 0.15, 0, 1), nucleus
                )
        return node

    sizes = population(rng, size, 9, 100, (0.15, 0.8))
    scatter(
        canvas,
        rng,
        sizes,
        rng.choice([0.02, 0.2]),
        paint,
        lambda r: fill([round_outline(rng, rng.uniform(0.6, 1), wobble) * np.float32(r)]),
    )
    return canvas


def fluorescence(size: int, rng: np.random.Generator) -> Canvas:
    """Bright nuclei or beads on a dark ground, of uneven brightness, touching, with glow and out-of-focus light."""
    ground = rng.uniform(0.0, 0.12)
    colour = random_colour(rng, 0.4, 1) if rng.random() < 0.4 else np.ones(3, np.float32)
    canvas = Canvas(np.full((size, size, 3), ground, np.float32))
    haze = cv2.GaussianBlur(rng.random((16, 16)).astype(np.float32), (0, 0), 2)
    haze = cv2.resize(haze, (size, size), interpolation=cv2.INTER_CUBIC) - haze.min()
    canvas.image += (haze * rng.uniform(0, 0.4))[..., None] * colour
    sizes = population(rng, size, 5, 60, (0.05, 0.6))
    wobble, spread = rng.uniform(0, 0.12), rng.uniform(0.05, 0.5)
    level, grain = rng.uniform(0.25, 0.9), rng.uniform(0.02, 0.22)
    soft = rng.uniform(0, 1.5)

    def paint(canvas: Canvas, alpha: FloatArray, x: float, y: float) -> int:
        bright = float(np.clip(level * np.exp(rng.normal(0, spread)), ground + 0.08, 1))
        look = Look(
            colour=(bright * colour).astype(np.float32),
            grain=grain * bright,
            core=rng.uniform(-0.1, 0.3) * bright,
            ramp=rng.uniform(0, 0.15) * bright,
        )
        colours = shade(alpha, look, rng, canvas.look_under(alpha, x, y))
        return canvas.paint(alpha, x, y, colours)

    scatter(
        canvas,
        rng,
        sizes,
        rng.choice([0.0, 0.05, 0.15]),
        paint,
        lambda r: fill([round_outline(rng, rng.uniform(0.6, 1), wobble) * np.float32(r)]),
    )
    if soft > 0.4:
        canvas.image = cv2.GaussianBlur(canvas.image, (0, 0), soft)
    glow = cv2.GaussianBlur(cv2.resize(canvas.image, None, fx=0.25, fy=0.25), (0, 0), rng.uniform(2, 10))
    canvas.image += cv2.resize(glow, (size, size)) * np.float32(rng.uniform(0, 0.35))
    return canvas


def grains(size: int, rng: np.random.Generator) -> Canvas:
    """A polycrystal or cobbles that fill the picture, or loose grains such as rice and sand."""
    if rng.random() < 0.4:
        canvas = Canvas(background(size, rng, rough=0.06))
        look, name = random_look(rng), str(rng.choice(["blob", "ellipse", "polygon"]))
        sizes = population(rng, size, 6, 60, (0.2, 0.8))
        paint = painter(look, rng, rng.uniform(0.03, 0.12))
        scatter(canvas, rng, sizes, rng.choice([0.02, 0.3]), paint, lambda r: shape_patch(name, r, rng))
        return canvas
    return tessellation(size, rng, int(np.exp(rng.uniform(np.log(8), np.log(350)))), border=True)


def tessellation(size: int, rng: np.random.Generator, count: int, border: bool) -> Canvas:
    """Voronoi cells with bent edges; with a border between them, or meeting each other."""
    canvas = Canvas(background(size, rng, rough=0.05))
    sites = np.ones((size, size), np.uint8)
    sites[rng.integers(0, size, count), rng.integers(0, size, count)] = 0
    _, raw = cv2.distanceTransformWithLabels(sites, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    pitch = size / np.sqrt(count)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    bend = np.float32(pitch * rng.uniform(0, 0.25))
    dx, dy = (normalised(cv2.GaussianBlur(noise_field(size, rng), (0, 0), max(pitch / 6, 1))) for _ in range(2))
    labels = cv2.remap(
        raw.astype(np.float32), x + dx * bend, y + dy * bend, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
    ).astype(np.int32)
    kinds = int(labels.max()) + 1
    look = random_look(rng)
    spread = rng.uniform(0.02, 0.2)
    colours = np.clip(
        look.colour + rng.normal(0, spread, (kinds, 1)) + rng.normal(0, spread / 4, (kinds, 3)), 0.02, 0.98
    )
    shift = rng.uniform(-1, 1, kinds)[labels] * rng.uniform(0, 0.06)
    paint = colours[labels] + (texture(size, size, rng) * rng.uniform(0, 0.08) + shift)[..., None]
    change = (cv2.morphologyEx(labels.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2))) > 0).astype(np.uint8)
    if border:
        far = cv2.distanceTransform(1 - change, cv2.DIST_L2, 3)
        gap = max(0.8, pitch * rng.uniform(0.01, 0.1))
        inside = np.clip((far - gap + 0.5), 0, 1).astype(np.float32)
        paint = paint + (np.exp(-((far / (gap * 2.5)) ** 2)) * rng.normal(0, 0.15))[..., None]
        seam = np.clip(look.colour + rng.choice([-1, 1]) * rng.uniform(0.1, 0.5), 0.02, 0.98)
        canvas.image = seam + (canvas.image - canvas.image.mean()) * 0.5
    else:
        inside = np.ones((size, size), np.float32)
    canvas.image = (canvas.image + inside[..., None] * (paint - canvas.image)).astype(np.float32)
    names = np.unique(labels)
    order = np.zeros(kinds, np.uint16)
    order[names] = [canvas.add_node() for _ in names]
    canvas.labels[:] = np.where(inside > 0.5, order[labels], 0)
    return canvas


def fibres(size: int, rng: np.random.Generator) -> Canvas:
    """Fibres, hairs or filaments that cross each other."""
    canvas = Canvas(lab_background(size, rng) if rng.random() < 0.5 else background(size, rng))
    look = random_look(rng, None, 0.6)
    for _ in range(int(rng.integers(3, 22))):
        alpha = shape_patch("fibre" if rng.random() < 0.7 else "branch", rng.uniform(0.12, 0.6) * size, rng)
        x, y = rng.uniform(0, size, 2)
        painter(look, rng, 0.08)(canvas, alpha, x, y)
    return canvas


def rods(size: int, rng: np.random.Generator) -> Canvas:
    """Rod-shaped bacteria, crystals or grains of rice."""
    canvas = Canvas(lab_background(size, rng))
    sizes = population(rng, size, 9, 60, (0.05, 0.5))
    base = canvas.image.reshape(-1, 3).mean(axis=0)
    shift = rng.choice([-1, 1]) * rng.uniform(0.1, 0.45)
    look = replace(random_look(rng, np.clip(base + shift, 0.02, 0.98).astype(np.float32), 0.6), second=None)
    aspect = rng.uniform(0.15, 0.45)

    def outline(radius: float) -> FloatArray:
        points = circle_points(48) * np.float32(aspect) + np.sign(circle_points(48)) * np.array(
            [1 - aspect, 0], np.float32
        )
        return fill([turn(points, rng.uniform(0, 6.3)) * np.float32(radius)])

    scatter(canvas, rng, sizes, 0.03, painter(look, rng, 0.05), outline)
    return canvas
