"""How well a mask fits the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.errors import InputError


def iou(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Intersection over union (Jaccard index) of two bool masks of one shape; two empty masks agree fully."""
    a, b = _pair(prediction, truth)
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


def dice(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Dice coefficient (F1 over pixels) of two bool masks of one shape; two empty masks agree fully."""
    a, b = _pair(prediction, truth)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 1.0 if total == 0 else 2 * np.count_nonzero(a & b) / total


def _pair(prediction: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(prediction, bool), np.asarray(truth, bool)
    if a.shape != b.shape:  # numpy would stretch one of them
        raise InputError(f"Masks to compare must have one shape; got {a.shape} and {b.shape}.")
    return a, b
