"""Scenes of solid things: coins, letters, tools, leaves, nested parts, and composites in the manner of photographs."""

from dataclasses import replace

import cv2
import numpy as np

from sam_server.arrays import FloatArray
from training.scene_canvas import INSIDE, Canvas
from training.scene_looks import Look, random_look, shade, vary
from training.scene_micro import painter, population, scatter, tessellation
from training.scene_shapes import circle_points, fill, round_outline, shape_patch, tool_patch
from training.scene_textures import background, gradient, other_colour, random_colour, texture

SOLIDS = ("ellipse", "blob", "polygon", "leaf", "tool", "ring", "branch", "letter")
BODIES = ("ellipse", "blob", "blob", "polygon", "leaf")


def relief(alpha: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(h, w) brightness of an embossed face: a raised border, a figure, lettering, wear."""
    height, width = alpha.shape
    field = np.zeros((height, width), np.float32)
    radius, centre = min(height, width) / 2 - 2, (width // 2, height // 2)
    if rng.random() < 0.7:
        cv2.circle(field, centre, max(1, int(radius * rng.uniform(0.78, 0.93))), 1.0, max(1, int(radius * 0.05)))
    for _ in range(int(rng.integers(1, 6))):
        name = str(rng.choice(["blob", "letter", "leaf", "polygon", "branch", "blob"]))
        mark = shape_patch(name, radius * rng.uniform(0.12, 0.5), rng)
        reach, angle = radius * rng.uniform(0, 0.5), rng.uniform(0, 6.3)
        x, y = int(centre[0] + reach * np.cos(angle)), int(centre[1] + reach * np.sin(angle))
        top, left = y - mark.shape[0] // 2, x - mark.shape[1] // 2
        y1, x1 = max(0, top), max(0, left)
        y2, x2 = min(height, top + mark.shape[0]), min(width, left + mark.shape[1])
        if y2 > y1 and x2 > x1:
            view = field[y1:y2, x1:x2]
            np.maximum(view, mark[y1 - top : y2 - top, x1 - left : x2 - left] * rng.uniform(0.4, 1), out=view)
    field = cv2.GaussianBlur(field, (0, 0), max(radius * rng.uniform(0.015, 0.06), 0.5))
    angle = rng.uniform(0, 6.3)
    emboss = cv2.Sobel(field, cv2.CV_32F, 1, 0) * np.cos(angle) + cv2.Sobel(field, cv2.CV_32F, 0, 1) * np.sin(angle)
    emboss = emboss / (np.abs(emboss).max() + 1e-6)
    flat = (field - 0.3) * rng.uniform(-0.3, 0.3)
    wear = texture(height, width, rng, smooth=True) * rng.uniform(0, 0.25)
    return (emboss * rng.uniform(0.3, 1) + flat + wear).astype(np.float32)


def coins(size: int, rng: np.random.Generator) -> Canvas:
    """Discs with relief on an unevenly lit ground, in rows or at random, some darker than the ground on one side."""
    grey = rng.random() < 0.6
    ground = rng.uniform(0.08, 0.65)
    tint = np.zeros(3) if grey else rng.normal(0, 0.08, 3)
    canvas = Canvas(background(size, rng, np.clip(ground + tint, 0.03, 0.9).astype(np.float32), rough=0.08))
    metal = np.clip(ground + rng.choice([-1, 1, 1]) * rng.uniform(0.08, 0.45), 0.05, 0.95)
    metal = np.clip(metal + (np.zeros(3) if grey else rng.normal(0, 0.1, 3)), 0.03, 0.97).astype(np.float32)
    depth, two_metals = rng.uniform(0.08, 0.5), rng.random() < 0.12
    look = Look(
        metal,
        dome=rng.uniform(0, 0.2),
        ramp=rng.uniform(0, 0.25),
        light=rng.uniform(0, 6.3),
        rim=rng.normal(0, 0.2),
        rim_width=rng.uniform(0.04, 0.2),
        grain=rng.uniform(0, 0.1),
    )
    spread = rng.uniform(0.02, 0.14)

    def paint(canvas: Canvas, alpha: FloatArray, x: float, y: float) -> int:
        radius = min(alpha.shape) / 2
        if rng.random() < 0.5:  # contact shadow
            dark = cv2.GaussianBlur(np.pad(alpha, 6), (0, 0), max(1.0, radius * 0.06))
            canvas.tint(
                dark * rng.uniform(0.1, 0.6),
                x + rng.normal(0, radius * 0.06),
                y + rng.normal(0, radius * 0.06),
                np.zeros(3, np.float32),
            )
        colours = shade(alpha, vary(look, rng, spread), rng, canvas.look_under(alpha, x, y))
        colours = np.clip(colours + (relief(alpha, rng) * depth)[..., None] * colours.mean(), 0, 1)
        node = canvas.paint(alpha, x, y, colours.astype(np.float32))
        if two_metals and radius > 10:
            inner = fill([circle_points(64) * np.float32(radius * 0.62)])
            face = np.clip(metal[::-1] + rng.normal(0, 0.12), 0, 1) + (relief(inner, rng) * depth * 0.5)[..., None]
            canvas.paint(inner, x, y, np.clip(face, 0, 1).astype(np.float32), node)
        return node

    if rng.random() < 0.5:
        across = int(rng.integers(2, 9))
        pitch = size / across
        for row in range(across):
            for column in range(across):
                radius = pitch * rng.uniform(0.28, 0.46)
                x, y = (np.array([column, row]) + 0.5) * pitch + rng.normal(0, pitch * 0.03, 2)
                paint(canvas, fill([round_outline(rng, rng.uniform(0.95, 1)) * np.float32(radius)]), x, y)
    else:
        sizes = population(rng, size, 14, 130, (0.15, 0.65))
        scatter(
            canvas,
            rng,
            sizes,
            rng.choice([0.0, 0.0, 0.3]),
            paint,
            lambda r: fill([round_outline(rng, rng.uniform(0.93, 1)) * np.float32(r)]),
        )
    return canvas


def ground(size: int, rng: np.random.Generator) -> FloatArray:
    """A plain, textured or busy background."""
    if rng.random() < 0.35:
        return background(size, rng, rough=0.3)
    return background(size, rng)


def shapes_scene(size: int, rng: np.random.Generator, names: tuple[str, ...], low: float, high: float) -> Canvas:
    """Objects of given shapes, of one look or each of its own, apart or overlapping."""
    canvas = Canvas(ground(size, rng))
    base = canvas.image.reshape(-1, 3).mean(axis=0)
    alike = rng.random() < 0.4
    look = random_look(rng, other_colour(base, rng))
    overlap = rng.choice([0.05, 0.4])
    for radius in population(rng, size, low, high, (0.15, 0.9)):
        own = look if alike else random_look(rng, other_colour(base, rng, 0.1))
        name = str(rng.choice(list(names)))
        scatter(
            canvas,
            rng,
            np.array([radius], np.float32),
            overlap,
            painter(own, rng),
            lambda r, n=name: shape_patch(n, r, rng),
        )  # type: ignore[misc]
    return canvas


def letters(size: int, rng: np.random.Generator) -> Canvas:
    """Letters and digits, some printed on signs."""
    canvas = shapes_scene(size, rng, ("letter",), 12, 110)
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 4))):
            sign = shape_patch(str(rng.choice(["polygon", "ellipse", "blob"])), rng.uniform(50, 150), rng)
            x, y = rng.uniform(0, size, 2)
            look = random_look(rng, None, 0.5)
            node = canvas.paint(sign, x, y, shade(sign, look, rng, canvas.look_under(sign, x, y)))
            mark = shape_patch("letter", min(sign.shape) * rng.uniform(0.12, 0.28), rng)
            canvas.paint(mark, x, y, other_colour(look.colour, rng, 0.3), node)
    return canvas


def tools(size: int, rng: np.random.Generator) -> Canvas:
    """Tools whose head and handle differ: the head is a part of the whole."""
    canvas = Canvas(ground(size, rng))
    base = canvas.image.reshape(-1, 3).mean(axis=0)
    for radius in population(rng, size, 30, 190, (0.3, 1.2))[:25]:
        whole, head = tool_patch(float(radius), rng)
        x, y = rng.uniform(0, size, 2)
        if canvas.covered(whole, x, y) > 0.4:
            continue
        drop_shadow(canvas, whole, x, y, rng)
        look = random_look(rng, other_colour(base, rng))
        node = canvas.paint(whole, x, y, shade(whole, look, rng, canvas.look_under(whole, x, y)))
        if rng.random() < 0.7:
            top = random_look(rng, other_colour(look.colour, rng))
            canvas.paint(head, x, y, shade(head, top, rng, canvas.look_under(head, x, y)), node)
    return canvas


def drop_shadow(canvas: Canvas, alpha: FloatArray, x: float, y: float, rng: np.random.Generator) -> None:
    """A soft shadow beside an object that is painted next."""
    if rng.random() < 0.5:
        return
    pad = 12
    dark = cv2.GaussianBlur(np.pad(alpha, pad), (0, 0), rng.uniform(1.5, 6)) * np.float32(rng.uniform(0.15, 0.6))
    reach = rng.uniform(1, 9)
    angle = rng.uniform(0, 6.3)
    canvas.tint(dark, x + reach * np.cos(angle), y + reach * np.sin(angle), np.zeros(3, np.float32))


def part_of(alpha: FloatArray, rng: np.random.Generator, share: tuple[float, float]) -> tuple[FloatArray, float, float]:
    """A part's patch and its place (dx, dy) from the whole's centre, over a random pixel of the whole."""
    rows, columns = np.nonzero(alpha > INSIDE)
    index = int(rng.integers(len(rows)))
    radius = np.sqrt(len(rows) / np.pi) * rng.uniform(*share)
    patch = shape_patch(str(rng.choice(BODIES)), max(float(radius), 3.0), rng)
    return patch, float(columns[index] - alpha.shape[1] / 2), float(rows[index] - alpha.shape[0] / 2)


def nested(size: int, rng: np.random.Generator) -> Canvas:
    """Wholes with parts and subparts that are each a clear region."""
    canvas = Canvas(ground(size, rng))
    base = canvas.image.reshape(-1, 3).mean(axis=0)
    for radius in population(rng, size, 35, 200, (0.3, 1.0))[:14]:
        name = str(rng.choice(["ellipse", "polygon", "blob", "ring", "leaf"]))
        alpha = shape_patch(name, float(radius), rng)
        x, y = rng.uniform(0, size, 2)
        if canvas.covered(alpha, x, y) > 0.35:
            continue
        drop_shadow(canvas, alpha, x, y, rng)
        look = random_look(rng, other_colour(base, rng))
        node = canvas.paint(alpha, x, y, shade(alpha, look, rng, canvas.look_under(alpha, x, y)))
        if rng.random() < 0.35:  # concentric: a target, an egg, an eye
            for share in (0.62, 0.32):
                inner = shape_patch("ellipse", float(radius) * share, rng)
                look = random_look(rng, other_colour(look.colour, rng))
                node = canvas.paint(inner, x, y, shade(inner, look, rng, canvas.look_under(inner, x, y)), node)
            continue
        for _ in range(int(rng.integers(1, 5))):
            inner, dx, dy = part_of(alpha, rng, (0.2, 0.6))
            mark = random_look(rng, other_colour(look.colour, rng))
            part = canvas.paint(
                inner, x + dx, y + dy, shade(inner, mark, rng, canvas.look_under(inner, x + dx, y + dy)), node
            )
            if rng.random() < 0.5:
                spot, sx, sy = part_of(inner, rng, (0.25, 0.5))
                spot_look = random_look(rng, other_colour(mark.colour, rng))
                sx, sy = x + dx + sx, y + dy + sy
                canvas.paint(spot, sx, sy, shade(spot, spot_look, rng, canvas.look_under(spot, sx, sy)), part)
    return canvas


def landscape(size: int, rng: np.random.Generator) -> Canvas:
    """A background of a few large textured regions: sky, ground, water, wall. Each is a node."""
    canvas = tessellation(size, rng, int(rng.integers(1, 8)), border=False)
    look = random_look(rng)
    for node in range(1, len(canvas.parents)):
        region = canvas.labels == node
        colour = random_colour(rng) if rng.random() < 0.7 else vary(look, rng).colour
        field = texture(size, size, rng) * rng.uniform(0, 0.16) + gradient(size, size, rng) * rng.uniform(0, 0.2)
        fine = texture(size, size, rng)[..., None] * (rng.normal(0, 0.05, 3).astype(np.float32))
        canvas.image[region] = (colour + field[..., None] + fine)[region]
    return canvas


def composite(canvas: Canvas, radius: float, x: float, y: float, rng: np.random.Generator) -> int:
    """An irregular thing of several bodies: an animal, a fruit, a person, a vehicle, seen as one whole with parts."""
    base = random_colour(rng)
    common = replace(random_look(rng, base, 1.2), grain=rng.uniform(0, 0.16), light=rng.uniform(0, 6.3))
    whole = canvas.add_node()
    bodies = int(rng.integers(1, 6))
    alike = rng.uniform(0, 1)
    for index in range(bodies):
        scale = 1.0 if index == 0 else rng.uniform(0.3, 0.8)
        name = str(rng.choice(BODIES)) if index == 0 or rng.random() < 0.6 else "branch"
        alpha = shape_patch(name, radius * scale, rng)
        reach = 0.0 if index == 0 else radius * rng.uniform(0.4, 0.9)
        angle = rng.uniform(0, 6.3)
        px, py = x + reach * np.cos(angle), y + reach * np.sin(angle)
        look = vary(common, rng) if rng.random() < alike else random_look(rng, None, 1.2)
        colours = shade(
            alpha, replace(look, light=common.light, dome=rng.uniform(0, 0.4)), rng, canvas.look_under(alpha, px, py)
        )
        if index == 0 or np.abs(look.colour - base).max() < 0.12:
            canvas.paint(alpha, px, py, colours, node=whole)
            part = whole
        else:
            part = canvas.add_node(whole)
            canvas.paint(alpha, px, py, colours, node=part)
        for _ in range(int(rng.integers(0, 3))):
            mark, dx, dy = part_of(alpha, rng, (0.15, 0.5))
            mark_look = random_look(rng, None, 1.0)
            shown = shade(mark, mark_look, rng, canvas.look_under(mark, px + dx, py + dy))
            if rng.random() < 0.6:
                canvas.paint(mark, px + dx, py + dy, shown, part)
            else:  # a marking that is no part of its own
                rows, columns, patch_rows, patch_columns = canvas.window(mark, px + dx, py + dy)
                inside = np.zeros_like(mark)
                inside[patch_rows, patch_columns] = canvas.labels[rows, columns] == part
                canvas.tint(mark * inside, px + dx, py + dy, shown)
    return whole


def photo(size: int, rng: np.random.Generator) -> Canvas:
    """In the manner of a photograph: composites over large textured regions, far things first."""
    canvas = landscape(size, rng)
    if rng.random() < 0.5:  # distant clutter
        for _ in range(int(rng.integers(3, 20))):
            alpha = shape_patch(str(rng.choice(BODIES)), rng.uniform(10, 60), rng)
            x, y = rng.uniform(0, size, 2)
            canvas.tint(alpha, x, y, shade(alpha, random_look(rng), rng, canvas.look_under(alpha, x, y)))
    if rng.random() < 0.4:  # depth blur of the background
        canvas.image = cv2.GaussianBlur(canvas.image, (0, 0), rng.uniform(1, 6))
    for radius in np.sort(np.exp(rng.uniform(np.log(25), np.log(190), int(rng.integers(1, 8)))))[
        :: rng.choice([-1, 1])
    ]:
        x, y = rng.uniform(0.05, 0.95, 2) * size
        alpha = shape_patch("ellipse", float(radius), rng)
        drop_shadow(canvas, alpha, x, y + radius * 0.4, rng)
        composite(canvas, float(radius), x, y, rng)
    return canvas


def clutter(size: int, rng: np.random.Generator) -> Canvas:
    """A heap of different things that hide one another."""
    canvas = Canvas(ground(size, rng))
    for _ in range(int(rng.integers(15, 90))):
        name = str(rng.choice(SOLIDS))
        alpha = shape_patch(name, float(np.exp(rng.uniform(np.log(9), np.log(110)))), rng)
        x, y = rng.uniform(0, size, 2)
        drop_shadow(canvas, alpha, x, y, rng)
        canvas.paint(alpha, x, y, shade(alpha, random_look(rng), rng, canvas.look_under(alpha, x, y)))
    return canvas
