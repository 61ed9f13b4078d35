"""SAM's mask loss with its gradient written out: focal, dice, and a class-balanced cross-entropy that fades."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Weights of focal and dice loss: Kirillov et al. 2023, Segment Anything, section 3.
FOCAL_WEIGHT = 20.0
DICE_WEIGHT = 1.0
# Keeps the dice of an empty mask finite, in pixels.
DICE_SMOOTH = 1.0
# Share of the mean over the three masks that is added to the best one's loss, so that no output is left behind.
RUNNER_UP = 0.05
# Weight of the single-mask output where one click leaves open what is meant.
AMBIGUOUS_SINGLE = 0.3


class _MaskLoss(torch.autograd.Function):
    """Loss per mask; the gradient is made in the same pass, prompt by prompt, while the numbers are in the cache."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, balanced: float) -> Tensor:
        loss = torch.empty(logits.shape[:2], device=logits.device)
        gradient = torch.empty_like(logits)
        pixels = target[0].numel()
        for row in range(len(logits)):
            x = logits[row].float().flatten(1)  # (M, L * L)
            t = target[row].flatten()
            p = torch.sigmoid(x)
            miss = p - t
            cross = F.softplus(x) - x * t
            square = miss * miss
            slope = p * (1 - p)
            both, total = p @ t, p.sum(1) + t.sum() + DICE_SMOOTH  # (M,)
            up = 2 * both + DICE_SMOOTH
            positive = t.sum().clamp(min=1)
            weight = balanced * (t / positive + (1 - t) / (pixels - positive).clamp(min=1)) / 2
            focal = (square * cross).sum(1) * (FOCAL_WEIGHT / pixels)
            loss[row] = focal + DICE_WEIGHT * (1 - up / total) + cross @ weight
            grad = (2 * slope * cross + square) * miss * (FOCAL_WEIGHT / pixels) + miss * weight
            grad += slope * (up / total**2 * DICE_WEIGHT)[:, None]
            grad -= slope * t * (2 * DICE_WEIGHT / total)[:, None]
            gradient[row] = grad.reshape(gradient[row].shape)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0][..., None, None].to(gradient.dtype), None, None


def mask_loss(logits: Tensor, target: Tensor, balanced: float) -> Tensor:
    """Loss of every mask against its prompt's target.

    Args:
        logits: (N, M, L, L) mask logits.
        target: (N, L, L) float32 coverage in [0, 1].
        balanced: weight of the class-balanced cross-entropy: without it training begins by predicting nothing.

    Returns:
        (N, M) float32: 20 focal + dice + balanced cross-entropy. The focal weight is |target - p|^2, which is SAM's
        for targets of 0 and 1 (Li et al. 2020, Generalized Focal Loss).
    """
    out: Tensor = _MaskLoss.apply(logits, target, balanced)
    return out


def real_iou(logits: Tensor, target: Tensor) -> Tensor:
    """(N, M) float32 IoU of thresholded masks (N, M, L, L) with targets (N, L, L)."""
    masks, truth = logits.flatten(2) > 0, target.flatten(1)[:, None] > 0.5
    both = (masks & truth).sum(2)
    return both / (masks | truth).sum(2).clamp(min=1)


@dataclass(frozen=True)
class RoundLoss:
    """Loss of one round of prompts and what it was like.

    Attributes:
        loss: scalar to be minimised.
        iou: (N, 4) real IoU of the single mask and the three.
        predicted: (N, 4) predicted IoU.
        empty: (N,) bool, prompts of bare ground, whose IoU is 0 whatever mask they give.
    """

    loss: Tensor
    iou: Tensor
    predicted: Tensor
    empty: Tensor


def round_loss(
    logits: Tensor, predicted: Tensor, target: Tensor, ambiguous: Tensor, empty: Tensor, balanced: float
) -> RoundLoss:
    """Loss of all four outputs of N prompts.

    Args:
        logits: (N, 4, L, L): the single mask, then the three.
        predicted: (N, 4) predicted IoU.
        target: (N, L, L) coverage in [0, 1].
        ambiguous: (N,) bool, prompts of one click, for which the single-mask output counts little.
        empty: (N,) bool, prompts of bare ground: no mask is right, and none is asked for.
        balanced: see `mask_loss`.
    """
    losses = mask_loss(logits, target, balanced) * ~empty[:, None]
    three = losses[:, 1:]
    best = three.min(dim=1).values + RUNNER_UP * three.mean(dim=1)
    single = losses[:, 0] * torch.where(ambiguous, AMBIGUOUS_SINGLE, 1.0)
    with torch.no_grad():
        iou = real_iou(logits, target) * ~empty[:, None]
    head = (predicted.float() - iou).square().sum(dim=1)
    return RoundLoss((best + single + head).mean(), iou, predicted.detach().float(), empty)
