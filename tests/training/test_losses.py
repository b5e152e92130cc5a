"""Losses against their formulas, written out by loops in NumPy, and against MONAI's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_zeroseg.training import losses

N, H, W = 3, 9, 11


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((N, H, W), generator=generator, dtype=torch.float64) * 2
    target = torch.rand((N, H, W), generator=generator, dtype=torch.float64).round(decimals=1)
    weight = (torch.rand((N, H, W), generator=generator) > 0.2).double()
    return logits, target, weight


def by_pixel(given: tuple[torch.Tensor, ...], n: int) -> list[tuple[float, float]]:
    """(probability, target) of the pixels of mask `n` that count."""
    logits, target, weight = (part[n].flatten().tolist() for part in given)
    return [(1 / (1 + math.exp(-x)), t) for x, t, w in zip(logits, target, weight, strict=True) if w]


def dice_of(pairs: list[tuple[float, float]]) -> float:
    return 1 - (2 * sum(p * t for p, t in pairs) + 1) / (sum(p + t for p, t in pairs) + 1)


def bce_of(pairs: list[tuple[float, float]]) -> float:
    return -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in pairs) / len(pairs)


def focal_of(pairs: list[tuple[float, float]]) -> float:
    total = 0.0
    for p, t in pairs:
        right = p * t + (1 - p) * (1 - t)
        total -= (1 - right) ** 2 * (t * math.log(p) + (1 - t) * math.log(1 - p))
    return total / len(pairs)


def tversky_of(pairs: list[tuple[float, float]]) -> float:
    both = sum(p * t for p, t in pairs)
    return 1 - (both + 1) / (
        both + 0.3 * sum(p * (1 - t) for p, t in pairs) + 0.7 * sum((1 - p) * t for p, t in pairs) + 1
    )


@pytest.mark.parametrize(
    ("loss", "oracle"),
    [
        (losses.dice, dice_of),
        (losses.bce, bce_of),
        (losses.focal, focal_of),
        (losses.tversky, tversky_of),
        (losses.mask_loss("dice"), dice_of),
        (losses.mask_loss("dice_bce"), lambda pairs: dice_of(pairs) + bce_of(pairs)),
        (losses.mask_loss("dice_focal"), lambda pairs: dice_of(pairs) + focal_of(pairs)),
        (losses.mask_loss("tversky"), tversky_of),
    ],
)
def test_losses_follow_their_formulas(given, loss, oracle) -> None:
    found = loss(*given)
    assert found.shape == (N,)
    np.testing.assert_allclose(found, [oracle(by_pixel(given, n)) for n in range(N)], rtol=1e-10)


def test_losses_are_those_of_monai(given) -> None:
    """The published reference, where every pixel counts; it has no weights."""
    monai = pytest.importorskip("monai.losses")
    logits, target, _ = given
    everywhere = torch.ones_like(target)
    batch, true = logits[:, None], target[:, None]
    sums = {"sigmoid": True, "reduction": "none", "smooth_nr": 1.0, "smooth_dr": 1.0}
    for ours, theirs in (
        (losses.dice, monai.DiceLoss(**sums)),
        (losses.tversky, monai.TverskyLoss(**sums, alpha=0.3, beta=0.7)),
    ):
        torch.testing.assert_close(ours(logits, target, everywhere), theirs(batch, true).reshape(N))
    hard = (true > 0.5).double()
    focal = monai.FocalLoss(gamma=2.0, reduction="none")(batch, hard).mean((1, 2, 3))
    torch.testing.assert_close(losses.focal(logits, hard[:, 0], everywhere), focal, check_dtype=False)


def test_focal_with_gamma_0_is_half_of_bce_at_alpha_half(given) -> None:
    torch.testing.assert_close(losses.focal(*given, gamma=0.0, alpha=0.5), losses.bce(*given) / 2)


def test_boundary_loss_is_the_f1_of_borders() -> None:
    target, drawn = np.zeros((20, 20)), np.zeros((20, 20))
    target[5:12, 5:12] = 1
    drawn[6:14, 4:12] = 1
    square = np.ones((3, 3), bool)
    borders = [mask - ndimage.binary_erosion(mask, square) for mask in (target, drawn)]
    wide = [ndimage.binary_dilation(border, np.ones((5, 5), bool)) for border in borders]
    precision = ((borders[1] * wide[0]).sum() + 1) / (borders[1].sum() + 1)
    recall = ((borders[0] * wide[1]).sum() + 1) / (borders[0].sum() + 1)
    logits = torch.from_numpy((drawn * 2 - 1) * 50)[None]
    found = losses.boundary(logits, torch.from_numpy(target)[None], torch.ones((1, 20, 20)))
    assert float(found) == pytest.approx(1 - 2 * precision * recall / (precision + recall), rel=1e-9)


@pytest.mark.parametrize("name", ["dice", "dice_bce", "dice_focal", "tversky", "boundary"])
def test_a_right_answer_costs_least_and_gradients_lead_there(name: str) -> None:
    target = torch.zeros((1, 16, 16))
    target[0, 4:10, 5:12] = 1
    weight = torch.ones_like(target)
    loss = losses.mask_loss(name)
    assert float(loss((target * 2 - 1) * 30, target, weight)) < 1e-3
    logits = torch.zeros_like(target, requires_grad=True)
    before = loss(logits, target, weight)
    before.sum().backward()
    assert logits.grad is not None
    after = loss(logits.detach() - 5 * logits.grad, target, weight)
    assert float(after) < float(before.detach())


def test_pixels_without_weight_do_not_count(given) -> None:
    logits, target, weight = given
    for name in ("dice", "dice_bce", "dice_focal", "tversky"):
        loss = losses.mask_loss(name)
        changed = torch.where(weight > 0, logits, logits + 7)
        torch.testing.assert_close(loss(changed, target, weight), loss(logits, target, weight))


def test_the_iou_head_is_taught_the_measured_iou_alone() -> None:
    logits = torch.full((1, 4, 4), -1.0)
    logits[0, :2] = 1
    target = torch.zeros((1, 4, 4))
    target[0, 1:3] = 1
    weight = torch.ones_like(target)
    assert float(losses.measured_iou(logits, target, weight)) == pytest.approx(4 / 12)
    logits.requires_grad_(True)
    predicted = torch.tensor([0.8], requires_grad=True)
    loss = losses.iou_loss(predicted, logits, target, weight)
    assert float(loss.detach()) == pytest.approx((0.8 - 1 / 3) ** 2)
    loss.sum().backward()
    assert predicted.grad is not None
    assert logits.grad is None
    empty = torch.zeros_like(target)
    assert float(losses.measured_iou(empty - 1, empty, weight)) == 1
