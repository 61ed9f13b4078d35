"""500 droplets with known truth: two sizes, satellites on top, aggregates, some cut by the edge."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sam_server.arrays import ByteArray, FloatArray
from sam_server.masks.crop import CroppedMask
from training.scene_canvas import Canvas
from training.scene_degrade import photograph
from training.scene_micro import droplet_look, lab_background, painter

# (H, W) of the picture and how near its edge a whole droplet may lie, in pixels.
SIZE = (3000, 4000)
MARGIN = 80
# Mean and standard deviation of the radii, in pixels.
LARGE, SMALL = (32, 1.5), (8, 0.6)


@dataclass(frozen=True)
class Disc:
    """A droplet.

    Attributes:
        x, y, radius: in pixels.
        kind: "droplet", "satellite", "small droplet" or "edge", a droplet that the edge cuts.
        host: number of the droplet that a satellite sits on, or that the second of an aggregate lies on; else -1.
    """

    x: float
    y: float
    radius: float
    kind: str
    host: int = -1


class _Drawing:
    """Places discs without overlap, but for those that are meant to."""

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.height, self.width = size
        self.discs: list[Disc] = []

    def place(self, disc: Disc, gap: float = 8) -> bool:
        others = [other for i, other in enumerate(self.discs) if i != disc.host and other.kind != "satellite"]
        siblings = [other for other in self.discs if other.kind == "satellite" and other.host == disc.host]
        for other in others + siblings:
            if np.hypot(other.x - disc.x, other.y - disc.y) < other.radius + disc.radius + gap:
                return False
        self.discs.append(disc)
        return True

    def anywhere(self) -> tuple[float, float]:
        return self.rng.uniform(MARGIN, self.width - MARGIN), self.rng.uniform(MARGIN, self.height - MARGIN)

    def on_edge(self) -> tuple[float, float]:
        along = self.rng.uniform(MARGIN, min(self.height, self.width) - MARGIN)
        places = [(along, 5.0), (along, self.height - 5.0), (5.0, along), (self.width - 5.0, along)]
        return places[self.rng.integers(4)]

    def beside(self, host: int, away: float) -> tuple[float, float]:
        angle = self.rng.uniform(0, 2 * np.pi)
        return self.discs[host].x + away * np.cos(angle), self.discs[host].y + away * np.sin(angle)

    def fill(self, count: int, make: Callable[[], Disc], gap: float = 8) -> None:
        wanted = len(self.discs) + count
        while len(self.discs) < wanted:
            self.place(make(), gap)


def place_droplets(seed: int, size: tuple[int, int] = SIZE) -> list[Disc]:
    """500 droplets: 190 large alone, 15 cut by the edge, 20 grown on another, 175 satellites and 100 small ones.

    Args:
        seed: of the scene.
        size: (H, W) in pixels; below some three megapixels there is no room.
    """
    drawing = _Drawing(seed, size)
    rng = drawing.rng
    drawing.fill(190, lambda: Disc(*drawing.anywhere(), rng.normal(*LARGE), "droplet"))
    drawing.fill(15, lambda: Disc(*drawing.on_edge(), rng.normal(*LARGE), "edge"))
    hosts = iter(np.tile(rng.permutation(40), 100).tolist())
    paired = 0
    while paired < 20:
        host = next(hosts)
        if host not in {disc.host for disc in drawing.discs}:
            place = drawing.beside(host, 2 * LARGE[0] * rng.uniform(0.75, 0.85))
            paired += drawing.place(Disc(*place, rng.normal(*LARGE), "droplet", host))

    def satellite() -> Disc:
        host, radius = int(rng.integers(40, 190)), rng.normal(*SMALL)
        return Disc(*drawing.beside(host, rng.uniform(0, LARGE[0] - 0.8 * radius)), radius, "satellite", host)

    drawing.fill(175, satellite, gap=2)
    drawing.fill(100, lambda: Disc(*drawing.anywhere(), rng.normal(*SMALL), "small droplet"))
    return drawing.discs


def magnify(discs: list[Disc], times: int) -> list[Disc]:
    """The same droplets on a picture that has `times` as many pixels along each side."""
    return [replace(disc, x=disc.x * times, y=disc.y * times, radius=disc.radius * times) for disc in discs]


def paint_droplets(discs: list[Disc], seed: int, size: tuple[int, int] = SIZE) -> ByteArray:
    """(H, W, 3) uint8 RGB picture of the droplets, as a laboratory camera sees them; the seed draws their look."""
    rng = np.random.default_rng([seed, 1])
    canvas = Canvas(lab_background(max(size), rng))
    large, small = (painter(droplet_look(canvas, rng), rng) for _ in range(2))
    for disc in discs:
        paint = small if disc.kind in ("satellite", "small droplet") else large
        paint(canvas, coverage(disc), disc.x, disc.y)
    return photograph(canvas.image[: size[0], : size[1]], rng)


def coverage(disc: Disc) -> FloatArray:
    """How much of each pixel a disc covers, as a patch for `Canvas.paint` at the disc's middle.

    The disc is the truth here, so it is painted where and as large as it is: patches lie on whole pixels, and those of
    `scene_shapes.fill` are 0.6 pixels wider all round than their outline.

    Returns:
        (h, h) float32 in [0, 1], above 0.5 in the pixels of `disc_mask`.
    """
    half = int(np.ceil(disc.radius)) + 2
    x, y = (round(middle - half) - middle + np.arange(2 * half) + 0.5 for middle in (disc.x, disc.y))
    return np.clip(disc.radius + 0.5 - np.hypot(x[None], y[:, None]), 0, 1).astype(np.float32)


def disc_mask(disc: Disc, size: tuple[int, int]) -> CroppedMask:
    """Pixels whose middles lie within the disc, whatever lies in front of it; `size` is (H, W) of the picture."""
    left, right = max(0, int(disc.x - disc.radius)), min(size[1], int(disc.x + disc.radius) + 2)
    top, bottom = max(0, int(disc.y - disc.radius)), min(size[0], int(disc.y + disc.radius) + 2)
    y, x = np.ogrid[top:bottom, left:right]
    return CroppedMask(size, left, top, (x + 0.5 - disc.x) ** 2 + (y + 0.5 - disc.y) ** 2 <= disc.radius**2)
