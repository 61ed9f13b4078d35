import pytest
import torch
import torch.nn.functional as F

from training.losses import DICE_WEIGHT, FOCAL_WEIGHT, mask_loss, real_iou, round_loss


def plain_loss(logits, target, balanced):
    """The loss of `mask_loss`, written with autograd."""
    t = target[:, None]
    p = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, t.expand_as(logits), reduction="none")
    focal = ((p - t).square() * cross).mean((2, 3))
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)
    positive = t.sum((2, 3))
    negative = t[0].numel() - positive
    even = (cross * t).sum((2, 3)) / positive.clamp(min=1) + (cross * (1 - t)).sum((2, 3)) / negative.clamp(min=1)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * dice + balanced * even / 2


@pytest.mark.parametrize("balanced", [0.0, 3.0])
def test_loss_and_gradient_equal_autograd(balanced):
    torch.manual_seed(0)
    target = (torch.rand(3, 16, 16) * 2 - 0.5).clamp(0, 1)
    weights = torch.rand(3, 4)
    logits = (torch.randn(3, 4, 16, 16) * 3).requires_grad_()
    loss = mask_loss(logits, target, balanced)
    (loss * weights).sum().backward()
    ours, logits.grad = logits.grad, None
    expected = plain_loss(logits, target, balanced)
    (expected * weights).sum().backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, logits.grad)


def test_loss_prefers_the_right_mask():
    target = torch.zeros(1, 16, 16)
    target[:, 4:9, 3:12] = 1
    right, wrong = (target * 2 - 1) * 8, -(target * 2 - 1) * 8
    losses = mask_loss(torch.stack([right, wrong, torch.full_like(right, -8.0)], dim=1), target, 1.0)
    assert losses[0, 0] < 0.05
    assert losses[0, 0] < losses[0, 2] < losses[0, 1]
    assert real_iou(torch.stack([right, wrong], dim=1), target).tolist() == [[1.0, 0.0]]


def test_round_loss_counts_the_best_of_three():
    target = torch.zeros(2, 16, 16)
    target[:, 2:10, 2:10] = 1
    right, wrong = (target * 2 - 1) * 8, -(target * 2 - 1) * 8
    iou = torch.tensor([[1.0, 0.0, 1.0, 0.0]] * 2)
    ambiguous, empty = torch.tensor([True, False]), torch.tensor([False, False])
    good = round_loss(torch.stack([right, wrong, right, wrong], 1), iou, target, ambiguous, empty, 0.0)
    bad = round_loss(torch.stack([right, wrong, wrong, wrong], 1), iou, target, ambiguous, empty, 0.0)
    assert good.loss < bad.loss
    torch.testing.assert_close(good.iou, iou)
    # The wrong ones still count a little, so that no output is left behind.
    assert good.loss > round_loss(torch.stack([right] * 4, 1), torch.ones(2, 4), target, ambiguous, empty, 0.0).loss


def test_bare_ground_asks_for_a_predicted_iou_of_zero_and_for_no_mask():
    target = torch.ones(1, 16, 16)
    logits = torch.full((1, 4, 16, 16), 8.0, requires_grad=True)
    ambiguous, empty = torch.tensor([True]), torch.tensor([True])
    zero, one = torch.zeros(1, 4), torch.ones(1, 4)
    doubted = round_loss(logits, zero, target, ambiguous, empty, 0.0)
    believed = round_loss(logits, one, target, ambiguous, empty, 0.0)
    assert (doubted.loss.item(), believed.loss.item()) == (0.0, 4.0)
    assert not doubted.iou.any()
    doubted.loss.backward()
    assert not logits.grad.any()
