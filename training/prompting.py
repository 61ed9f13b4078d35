"""Prompts as SAM is trained on them: a click or a noisy box, then clicks where the last mask was wrong."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from sam_server.arrays import BoolArray, FloatArray, IntArray
from sam_server.network.fast_decoder import FastDecoder
from sam_server.network.mask_decoder import MASK_TOKENS
from sam_server.network.sam import Sam
from sam_server.prompts import (
    LABEL_BACKGROUND,
    LABEL_BOX_FIRST,
    LABEL_BOX_SECOND,
    LABEL_FOREGROUND,
    LABEL_PADDING,
)
from training.losses import RoundLoss, round_loss

# Noise of a training box: deviation as a share of its side, and the most, in pixels (Kirillov et al. 2023, A).
BOX_NOISE = 0.1
BOX_NOISE_MAX = 20.0
# Share of prompts that begin with a box, and share of clicks that go for the middle of what is meant.
BOX_SHARE = 0.5
CENTRE_SHARE = 0.5
# Chance that a round after the first gives no new click, only the last mask.
REPEAT_CHANCE = 0.12
# Logits of the mask input are kept within what a mask decoder gives; exported ones are scaled (see `logit_scale`).
LOGIT_LIMIT = 160.0


@dataclass
class Clicks:
    """Prompts of N masks that grow by a click a round.

    Attributes:
        coords: (N, P, 2) float32 in pixels of the sample; the last two are a box or padding (one place if no box).
        labels: (N, P) int64.
        boxed: (N,) bool, which prompts began with a box.
    """

    coords: FloatArray
    labels: IntArray
    boxed: BoolArray


def pick(region: BoolArray, rng: np.random.Generator, centre: bool) -> tuple[float, float]:
    """A pixel (x, y) of a region: any, or one farthest from its edge."""
    if centre:
        padded = np.pad(region, 1).astype(np.uint8)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
        index = int(distance.argmax())
    else:
        places = np.flatnonzero(region)
        index = int(places[rng.integers(len(places))])
    return float(index % region.shape[1]), float(index // region.shape[1])


def box_of(region: BoolArray) -> FloatArray:
    """(4,) x1, y1, x2, y2 of a region, edges included."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _inside(target: FloatArray) -> BoolArray:
    """Pixels of the object; of a thing thinner than half a pixel, its densest ones."""
    return target > min(0.5, float(target.max()) * 0.99)


def first_prompts(targets: FloatArray, empty: BoolArray, stride: float, rng: np.random.Generator) -> Clicks:
    """One click or one noisy box for each of the targets (N, L, L); `stride` sample pixels to a target pixel.

    Bare ground, `empty` (N,), is only clicked.
    """
    count = len(targets)
    coords = np.zeros((count, 2, 2), np.float32)
    labels = np.tile(np.array([LABEL_FOREGROUND, LABEL_PADDING], np.int64), (count, 1))
    boxed = (rng.random(count) < BOX_SHARE) & ~empty
    for row, target in enumerate(targets):
        inside = _inside(target)
        if boxed[row]:
            box = box_of(inside) * stride
            side = np.array([box[2] - box[0], box[3] - box[1]] * 2)
            noise = np.clip(rng.normal(0, BOX_NOISE, 4) * side, -BOX_NOISE_MAX, BOX_NOISE_MAX)
            noise *= rng.random() ** 2  # most boxes are drawn with care, or come from a detector
            coords[row] = (box + noise).reshape(2, 2)
            labels[row] = (LABEL_BOX_FIRST, LABEL_BOX_SECOND)
        else:
            x, y = pick(inside, rng, rng.random() < CENTRE_SHARE)
            coords[row, 0] = (x + rng.random()) * stride, (y + rng.random()) * stride
    return Clicks(coords, labels, boxed)


def add_clicks(
    clicks: Clicks, masks: BoolArray, targets: FloatArray, stride: float, rng: np.random.Generator
) -> Clicks:
    """One more click each, where mask (N, L, L) and target differ; anywhere on the object where they agree."""
    count = len(targets)
    coords, labels = np.empty((count, 1, 2), np.float32), np.empty((count, 1), np.int64)
    for row, (mask, target) in enumerate(zip(masks, targets, strict=True)):
        inside = _inside(target)
        wrong = mask != inside
        x, y = pick(wrong if wrong.any() else inside, rng, rng.random() < CENTRE_SHARE)
        coords[row, 0] = (x + rng.random()) * stride, (y + rng.random()) * stride
        labels[row, 0] = LABEL_FOREGROUND if inside[int(y), int(x)] else LABEL_BACKGROUND
    return Clicks(
        np.concatenate([coords, clicks.coords], axis=1), np.concatenate([labels, clicks.labels], axis=1), clicks.boxed
    )


def interactive_rounds(
    sam: Sam,
    embeddings: Tensor,
    targets: Tensor,
    empty: BoolArray,
    image_size: int,
    rounds: int,
    balanced: float,
    rng: np.random.Generator,
) -> list[RoundLoss]:
    """Prompt, decode and correct.

    Pictures smaller than the variant's are taken for a window of a picture of full size, at a random place: so the
    positions that the decoder learns are those that it will meet.

    Args:
        sam: prompt encoder and mask decoder are run; the image encoder has run already.
        embeddings: (B, C, E, E) image embeddings.
        targets: (B, P, L, L) float32 coverage in [0, 1], L = 4E.
        empty: (B, P) bool, which of them are bare ground, to which an IoU of 0 shall be predicted.
        image_size: side of the pictures, in pixels.
        rounds: prompts a mask: the first and the corrections.
        balanced: weight of the balanced cross-entropy.
        rng: draws the prompts.

    Returns:
        The loss of each round.
    """
    per_picture = targets.shape[1]
    truth = targets.flatten(0, 1)  # (N, L, L)
    numbers = truth.cpu().numpy()
    stride = image_size / truth.shape[-1]
    dtype = embeddings.dtype
    size = embeddings.shape[-1]
    frame = max(image_size, sam.variant.image_size)
    left, top = (int(offset) for offset in rng.integers(0, frame * size // image_size - size + 1, 2))
    pe = sam.prompt_encoder.dense_pe(frame * size // image_size)[..., top : top + size, left : left + size]
    # Made anew every time: it holds what it derives from the weights.
    decoder = FastDecoder(sam.mask_decoder, pe, dtype)
    every_mask = slice(0, MASK_TOKENS)
    shift = np.array([left, top], np.float32) * (image_size // size) - 0.5
    pictures = embeddings.repeat_interleave(per_picture, dim=0)  # (N, C, E, E)
    clicks = first_prompts(numbers, empty.ravel(), stride, rng)
    mask_input: Tensor | None = None
    nothing = torch.from_numpy(empty.ravel()).to(truth.device)
    done: list[RoundLoss] = []
    for number in range(rounds):
        coords = torch.from_numpy(clicks.coords + shift).to(truth.device)
        labels = torch.from_numpy(clicks.labels).to(truth.device)
        sparse = sam.prompt_encoder.embed_points(coords, labels, frame).to(dtype)
        dense = sam.prompt_encoder.no_mask() if mask_input is None else sam.prompt_encoder.embed_masks(mask_input)
        tokens, cells = decoder.attend(pictures, sparse, dense)
        logits, predicted = decoder.masks(tokens, cells, every_mask), decoder.iou(tokens, every_mask)
        ambiguous = torch.from_numpy((number == 0) & ~clicks.boxed).to(truth.device)
        done.append(round_loss(logits, predicted, truth, ambiguous, nothing, balanced))
        if number + 1 < rounds:
            shown = _choose(logits.detach(), done[-1].predicted, ambiguous, rng)
            mask_input = shown.float().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)[:, None]
            if rng.random() >= REPEAT_CHANCE or number == 0:
                clicks = add_clicks(clicks, (shown > 0).cpu().numpy(), numbers, stride, rng)
    return done


def _choose(logits: Tensor, predicted: Tensor, ambiguous: Tensor, rng: np.random.Generator) -> Tensor:
    """(N, L, L) logits that a user would go on with: the best predicted of three, or the single mask."""
    best = predicted[:, 1:].argmax(dim=1) + 1
    single = torch.from_numpy(rng.random(len(logits)) < 0.5).to(logits.device) & ~ambiguous
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, torch.where(single, 0, best)]
