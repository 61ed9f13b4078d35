"""Drawn scenes with known truth, and small random mask sets."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st

from sam_server.masks.crop import CroppedMask
from sam_server.masks.mask_set import MaskSet
from sam_server.masks.record import make_record

SIZE = (3000, 4000)
MARGIN = 80


@dataclass(frozen=True)
class Disc:
    x: float
    y: float
    radius: float
    kind: str  # "droplet", "satellite", "small droplet" or "edge"
    host: int = -1  # the droplet that a satellite sits on, or that the second of an aggregate lies on


@dataclass(frozen=True)
class DropletScene:
    """Droplets as true masks, without a model; mask i shows disc i."""

    discs: list[Disc]
    masks: MaskSet

    def of_kind(self, *kinds: str) -> list[int]:
        return [i for i, disc in enumerate(self.discs) if disc.kind in kinds]


class _Drawing:
    """Places discs without overlap, but for those that are meant to."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
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
        return self.rng.uniform(MARGIN, SIZE[1] - MARGIN), self.rng.uniform(MARGIN, SIZE[0] - MARGIN)

    def on_edge(self) -> tuple[float, float]:
        along = self.rng.uniform(MARGIN, SIZE[0] - MARGIN)
        return [(along, 5.0), (along, SIZE[0] - 5.0), (5.0, along), (SIZE[1] - 5.0, along)][self.rng.integers(4)]

    def beside(self, host: int, away: float) -> tuple[float, float]:
        angle = self.rng.uniform(0, 2 * np.pi)
        return self.discs[host].x + away * np.cos(angle), self.discs[host].y + away * np.sin(angle)

    def fill(self, count: int, make: Callable[[], Disc], gap: float = 8) -> None:
        wanted = len(self.discs) + count
        while len(self.discs) < wanted:
            self.place(make(), gap)


def _draw_droplets(seed: int, carved: bool) -> DropletScene:
    """500 droplets on 12 megapixels: 190 large alone, 15 cut by the edge, 20 grown on another, 175 satellites and
    100 small ones. Where `carved`, a mask shows only what is visible: what lies in front is cut out."""
    drawing = _Drawing(seed)
    rng = drawing.rng

    def large() -> float:
        return rng.normal(32, 1.5)

    def small() -> float:
        return rng.normal(8, 0.6)

    drawing.fill(190, lambda: Disc(*drawing.anywhere(), large(), "droplet"))
    drawing.fill(15, lambda: Disc(*drawing.on_edge(), large(), "edge"))
    hosts = iter(np.tile(rng.permutation(40), 100).tolist())
    paired = 0
    while paired < 20:
        host = next(hosts)
        if host not in {disc.host for disc in drawing.discs}:
            place = drawing.beside(host, 64 * rng.uniform(0.75, 0.85))
            paired += drawing.place(Disc(*place, large(), "droplet", host))

    def satellite() -> Disc:
        host, radius = int(rng.integers(40, 190)), small()
        return Disc(*drawing.beside(host, rng.uniform(0, 32 - 0.8 * radius)), radius, "satellite", host)

    drawing.fill(175, satellite, gap=2)
    drawing.fill(100, lambda: Disc(*drawing.anywhere(), small(), "small droplet"))
    masks = [_disc_mask(disc) for disc in drawing.discs]
    if carved:
        for front, disc in enumerate(drawing.discs):
            if disc.host >= 0:
                masks[disc.host] = _subtract(masks[disc.host], masks[front])
    return DropletScene(drawing.discs, MaskSet(SIZE, tuple(make_record(mask, 0.9, 0.95) for mask in masks)))


def _disc_mask(disc: Disc) -> CroppedMask:
    left, right = max(0, int(disc.x - disc.radius)), min(SIZE[1], int(disc.x + disc.radius) + 2)
    top, bottom = max(0, int(disc.y - disc.radius)), min(SIZE[0], int(disc.y + disc.radius) + 2)
    y, x = np.ogrid[top:bottom, left:right]
    return CroppedMask(SIZE, left, top, (x + 0.5 - disc.x) ** 2 + (y + 0.5 - disc.y) ** 2 <= disc.radius**2)


def _subtract(mask: CroppedMask, other: CroppedMask) -> CroppedMask:
    pixels = mask.pixels.copy()
    top, left = max(mask.y, other.y), max(mask.x, other.x)
    bottom = min(mask.y + mask.pixels.shape[0], other.y + other.pixels.shape[0])
    right = min(mask.x + mask.pixels.shape[1], other.x + other.pixels.shape[1])
    if top < bottom and left < right:
        part = other.pixels[top - other.y : bottom - other.y, left - other.x : right - other.x]
        pixels[top - mask.y : bottom - mask.y, left - mask.x : right - mask.x] &= ~part
    return CroppedMask(mask.size, mask.x, mask.y, pixels)


@pytest.fixture(scope="session")
def draw_droplets() -> Callable[[int, bool], DropletScene]:
    return _draw_droplets


def _set_of_masks(masks: list[np.ndarray]) -> MaskSet:
    records, colours, embeddings = [], [], []
    for mask in masks:
        own = np.random.default_rng(np.packbits(mask).tolist())
        records.append(make_record(CroppedMask.from_mask(mask), own.random(), own.random()))
        colours.append(own.uniform(0, 255, 3))
        embeddings.append(own.normal(size=6))
    return MaskSet(
        masks[0].shape if masks else (24, 26),
        tuple(records),
        np.array(colours, np.float32).reshape(-1, 3),
        np.array(embeddings, np.float32).reshape(-1, 6),
    )


@pytest.fixture(scope="session")
def set_of_masks() -> Callable[[list[np.ndarray]], MaskSet]:
    """Makes a mask set of whole masks, with made-up scores, colours and embeddings that hang on the mask alone."""
    return _set_of_masks


def _ellipse(x: int, y: int, a: int, b: int, hole: bool) -> np.ndarray:
    rows, columns = np.ogrid[:24, :26]
    distance = ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2
    return (distance <= 1) & ~(hole & (distance <= 0.2))


@pytest.fixture(scope="session")
def mask_lists() -> st.SearchStrategy[list[np.ndarray]]:
    """Lists of up to 12 masks of 24 x 26 pixels: nested, overlapping, apart, equal, and now and then empty."""
    side = st.integers(1, 12)
    ellipses = st.builds(_ellipse, st.integers(0, 25), st.integers(0, 23), side, side, st.booleans())
    empty = st.just(np.zeros((24, 26), np.bool_))
    return st.lists(st.one_of(ellipses, ellipses, ellipses, empty), max_size=12)
