"""Losses of masks and of the predicted IoU; each follows its paper's formula.

Masks come as (N, H, W) logits and (N, H, W) targets from 0 to 1 (a cell that is half covered is 0.5), with (N, H, W)
weights that are 0 where a pixel does not count, and above 1 where it stands for others. Every loss gives one value a
mask, (N,), so that the best of several candidates can be chosen. But for those of :data:`NEEDS_NEIGHBOURS`, H and W may
be any two axes over which the cells are laid out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MaskLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

NEEDS_NEIGHBOURS = frozenset({"boundary"})
"""Losses that look at the cells around a cell."""

_EPSILON = 1.0
"""Added above and below in ratios of areas, in cells: an empty prediction of an empty target is right."""


def dice(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 − (2 |P ∩ T| + 1) / (|P| + |T| + 1), with sums of probabilities as areas; Milletari et al., 3DV 2016."""
    p = logits.sigmoid()
    both = (weight * p * target).sum((-2, -1))
    total = (weight * (p + target)).sum((-2, -1))
    return 1 - (2 * both + _EPSILON) / (total + _EPSILON)


def bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels that count."""
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(losses, weight)


def focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Mean of (1 − p_t)^γ · BCE, balanced by α where it is given; Lin et al., ICCV 2017, equations 4 and 5."""
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    right = p * target + (1 - p) * (1 - target)
    losses = (1 - right) ** gamma * losses
    if alpha is not None:
        losses = (alpha * target + (1 - alpha) * (1 - target)) * losses
    return _mean(losses, weight)


def tversky(logits: Tensor, target: Tensor, weight: Tensor, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
    """1 − (TP + 1) / (TP + α FP + β FN + 1); with β > α what is missed weighs more; Salehi et al., MLMI 2017."""
    p = logits.sigmoid()
    both = (weight * p * target).sum((-2, -1))
    false_positive = (weight * p * (1 - target)).sum((-2, -1))
    false_negative = (weight * (1 - p) * target).sum((-2, -1))
    return 1 - (both + _EPSILON) / (both + alpha * false_positive + beta * false_negative + _EPSILON)


def boundary(logits: Tensor, target: Tensor, weight: Tensor, width: int = 3, reach: int = 5) -> Tensor:
    """1 − F1 of the borders; Bokhovkin and Burnaev, ISNN 2019.

    A border is what a mask loses by erosion of `width` cells (max pooling of the complement); precision and recall are
    taken with borders that are widened to `reach` cells.
    """
    p = logits.sigmoid() * weight
    target = target * weight
    drawn, true = border_of(p, width), border_of(target, width)
    near_true, near_drawn = _widened(true, reach), _widened(drawn, reach)
    precision = ((drawn * near_true).sum((-2, -1)) + _EPSILON) / (drawn.sum((-2, -1)) + _EPSILON)
    recall = ((true * near_drawn).sum((-2, -1)) + _EPSILON) / (true.sum((-2, -1)) + _EPSILON)
    return 1 - 2 * precision * recall / (precision + recall)


def mask_loss(name: str) -> MaskLoss:
    """The loss of a configuration: "dice", "dice_bce", "dice_focal", "tversky" or "boundary" (Dice + BCE + borders)."""
    return _LOSSES[name]


def measured_iou(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """IoU of the masks as they would be drawn (logit above 0) with the target's cells above one half, (N,)."""
    drawn, true = logits > 0, target > 0.5
    both = (weight * (drawn & true)).sum((-2, -1))
    either = (weight * (drawn | true)).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(either))


def iou_loss(predicted: Tensor, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error of the predicted IoU, (N,); the masks themselves get no gradient from it."""
    with torch.no_grad():
        measured = measured_iou(logits, target, weight)
    return (predicted.float() - measured) ** 2


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    return (weight * losses).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1)


def border_of(mask: Tensor, width: int) -> Tensor:
    """What (N, H, W) masks lose by erosion with a square of odd `width`."""
    return F.max_pool2d(1 - mask[:, None], width, 1, (width - 1) // 2)[:, 0] - (1 - mask)


def _widened(mask: Tensor, reach: int) -> Tensor:
    return F.max_pool2d(mask[:, None], reach, 1, (reach - 1) // 2)[:, 0]


_LOSSES: dict[str, MaskLoss] = {
    "dice": dice,
    "dice_bce": lambda logits, target, weight: dice(logits, target, weight) + bce(logits, target, weight),
    "dice_focal": lambda logits, target, weight: dice(logits, target, weight) + focal(logits, target, weight),
    "tversky": tversky,
    "boundary": lambda logits, target, weight: (
        dice(logits, target, weight) + bce(logits, target, weight) + boundary(logits, target, weight)
    ),
}
