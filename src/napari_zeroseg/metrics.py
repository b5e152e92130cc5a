"""How well a mask fits the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def iou(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Intersection over union (Jaccard index) of two bool masks of one shape; two empty masks agree fully."""
    a, b = np.asarray(prediction, bool), np.asarray(truth, bool)
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


def dice(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Dice coefficient (F1 over pixels) of two bool masks of one shape; two empty masks agree fully."""
    a, b = np.asarray(prediction, bool), np.asarray(truth, bool)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 1.0 if total == 0 else 2 * np.count_nonzero(a & b) / total
