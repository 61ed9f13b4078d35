"""From stored scenes to training samples: cut, turned, recoloured, with a few masks each."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sam_server.arrays import BoolArray, ByteArray, FloatArray
from training.dense import node_maps
from training.scene_canvas import Scene, family, node_areas

# Smallest area of a mask, in pixels of the sample, and largest, as a share of it.
MIN_AREA = 24
MAX_SHARE = 0.95
# Ground nearer to an object than this is not asked for: a click there may mean the object. In pixels of a target.
GROUND_MARGIN = 3
# Colour of padding: the pixel mean of SAM, which normalises to zero.
PADDING = (124, 116, 104)
# Range of zoom from scene pixels to sample pixels, beside the zoom that fits the whole scene into the frame.
ZOOM = (0.7, 1.8)


@dataclass(frozen=True)
class Sample:
    """One training picture.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        targets: (P, S / 2, S / 2) uint8 coverage of the masks, 255 inside.
        nodes: (2, S / 4, S / 4) uint16, which part and which whole object is seen where (see `dense`).
        empty: (P,) bool, which of the masks are bare ground: a click there shows nothing.
    """

    image: ByteArray
    targets: ByteArray
    nodes: npt.NDArray[np.uint16]
    empty: BoolArray


def make_sample(
    scene: Scene,
    size: int,
    masks: int,
    rng: np.random.Generator,
    augment: bool = True,
    frame: int = 0,
    ground: bool = False,
) -> Sample | None:
    """Cut a sample out of a scene.

    Args:
        scene: any size.
        size: side of the sample, in pixels.
        masks: how many masks to draw.
        rng: draws everything.
        augment: if false, the scene is only scaled to fit.
        frame: the sample is a window of a picture of this side, in pixels; 0 for a whole picture.
        ground: the last of several masks is the bare ground, where the cut shows any.

    Returns:
        The sample; None where the cut shows nothing large enough.
    """
    matrix = _affine(scene.labels.shape, size, frame or size, rng, augment)
    shrink = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    image = scene.image
    if shrink < 0.7:  # linear interpolation would skip pixels
        image = cv2.GaussianBlur(image, (0, 0), 0.45 / float(shrink))
    image = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=PADDING)
    labels = cv2.warpAffine(scene.labels, matrix, (size, size), flags=cv2.INTER_NEAREST)
    if augment:
        image = recolour(image, rng)
        if rng.random() < 0.25:
            _pad_side(image, labels, rng)
    nodes = choose_nodes(labels, scene.parents, masks, rng)
    if nodes is None:
        return None
    low = (size // 2, size // 2)
    targets = [_coverage(labels, scene.parents, node, low) for node in nodes]
    empty = np.zeros(masks, bool)
    bare = _ground(labels, low) if ground and masks > 1 else None
    if bare is not None and bare.any():
        targets[-1], empty[-1] = bare, True
    return Sample(np.asarray(image, np.uint8), np.stack(targets), node_maps(labels, scene.parents), empty)


def _ground(labels: npt.NDArray[np.uint16], low: tuple[int, int]) -> ByteArray:
    """What shows no object and does not touch one, as `_coverage`."""
    bare = cv2.resize((labels == 0).astype(np.uint8) * np.uint8(255), low, interpolation=cv2.INTER_AREA)
    side = 2 * GROUND_MARGIN + 1
    return np.asarray(cv2.erode((bare == 255).astype(np.uint8) * 255, np.ones((side, side), np.uint8)), np.uint8)


def _coverage(
    labels: npt.NDArray[np.uint16], parents: npt.NDArray[np.int32], node: int, low: tuple[int, int]
) -> ByteArray:
    table = family(parents, node).astype(np.uint8) * np.uint8(255)
    return np.asarray(cv2.resize(table[labels], low, interpolation=cv2.INTER_AREA), np.uint8)


def choose_nodes(
    labels: npt.NDArray[np.uint16], parents: npt.NDArray[np.int32], count: int, rng: np.random.Generator
) -> list[int] | None:
    """Draw nodes to be prompted for, half of them evenly, half with a preference for the large ones."""
    areas = node_areas(labels, parents)
    fit = np.flatnonzero((areas >= MIN_AREA) & (areas <= MAX_SHARE * labels.size))
    fit = fit[fit > 0]
    if not len(fit):
        return None
    weights = np.sqrt(areas[fit])
    even = rng.choice(fit, count - count // 2)
    large = rng.choice(fit, count // 2, p=weights / weights.sum())
    return [int(node) for node in (*even, *large)]


def _affine(shape: tuple[int, ...], size: int, frame: int, rng: np.random.Generator, augment: bool) -> FloatArray:
    """(2, 3) matrix from scene pixels to sample pixels."""
    height, width = shape
    fit = frame / max(height, width)
    if not augment:
        return np.array([[fit, 0, (fit - 1) / 2], [0, fit, (fit - 1) / 2]], np.float32)
    whole = rng.random() < 0.4
    zoom = fit * rng.uniform(0.9, 1.2) if whole else np.exp(rng.uniform(*np.log(ZOOM))) * max(fit, 0.6)
    angle = rng.choice([0.0, 0.5, 1.0, 1.5]) * np.pi + (rng.uniform(-0.8, 0.8) if rng.random() < 0.4 else 0.0)
    squeeze = np.exp(rng.normal(0, 0.08, 2)) * (rng.choice([-1, 1]), 1)
    c, s = np.cos(angle), np.sin(angle)
    linear = np.array([[c, -s], [s, c]]) * zoom * squeeze
    # How far the middle of the sample may lie from the middle of the scene, in scene pixels.
    slack = max(0.0, max(height, width) - size / zoom) / 2 + 8
    middle = np.array([width, height]) / 2 + rng.uniform(-slack, slack, 2)
    shift = size / 2 - linear @ middle
    return np.hstack([linear, shift[:, None]]).astype(np.float32)


def _pad_side(image: ByteArray, labels: npt.NDArray[np.uint16], rng: np.random.Generator) -> None:
    """Blank the right or lower part, as for pictures that are not square."""
    keep = int(image.shape[0] * rng.uniform(0.5, 0.95))
    if rng.random() < 0.5:
        image[keep:], labels[keep:] = PADDING, 0
    else:
        image[:, keep:], labels[:, keep:] = PADDING, 0


def recolour(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Change brightness, contrast, gamma, hue; make grey, invert, add noise."""
    if rng.random() < 0.5:
        mix = np.eye(3) + rng.normal(0, 0.12, (3, 3))
        if rng.random() < 0.4:
            mix = mix[rng.permutation(3)]
        if rng.random() < 0.25:
            mix = np.full((3, 3), 1 / 3)
        image = cv2.transform(image, mix.astype(np.float32))
    if rng.random() < 0.6:
        values = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.3))
        if rng.random() < 0.12:
            values = 1 - values
        values = (values - 0.5) * np.exp(rng.normal(0, 0.25)) + 0.5 + rng.normal(0, 0.08)
        image = cv2.LUT(image, np.clip(values * 255, 0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        noise = rng.integers(-128, 128, (*image.shape[:2], 1), dtype=np.int16) * int(rng.integers(5, 30)) // 128
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return np.asarray(image, np.uint8)
