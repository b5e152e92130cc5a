"""How well a mask fits the truth, and which labels share which pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.errors import InputError

Ids = NDArray[np.int64]

# Pairs of labels are counted in a table up to this many cells, which fits a processor's cache; beyond, by sorting.
_TABLE = 1 << 20
_MOST = int(np.iinfo(np.int64).max)


def iou(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Intersection over union (Jaccard index) of two bool masks of one shape; two empty masks agree fully."""
    return _counted(prediction, truth).iou


def dice(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Dice coefficient (F1 over pixels) of two bool masks of one shape; two empty masks agree fully."""
    return _counted(prediction, truth).dice


def _counted(prediction: ArrayLike, truth: ArrayLike) -> Counts:
    a, b = np.asarray(prediction, bool), np.asarray(truth, bool)
    if a.shape != b.shape:  # numpy would stretch one of them
        raise InputError(f"Masks to compare must have one shape; got {a.shape} and {b.shape}.")
    return Counts(*(int(np.count_nonzero(mask)) for mask in (a & b, a, b)))


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels of a predicted and of a true mask, from which the scores of their overlap follow.

    Two empty masks agree fully: every score is 1. Where only one of them is empty, IoU, Dice and the score that divides
    by the other one are 0, and the score that would divide by the empty one is not defined (nan).

    Parameters
    ----------
    both : int
        Pixels of both masks (true positives).
    prediction, truth : int
        Pixels of each.
    """

    both: int
    prediction: int
    truth: int

    @property
    def iou(self) -> float:
        """Intersection over union: both / (prediction + truth − both)."""
        union = self.prediction + self.truth - self.both
        return self.both / union if union else 1.0

    @property
    def dice(self) -> float:
        """Dice coefficient: 2 both / (prediction + truth)."""
        total = self.prediction + self.truth
        return 2 * self.both / total if total else 1.0

    @property
    def precision(self) -> float:
        """Share of the predicted pixels that are true."""
        return self._share(self.prediction)

    @property
    def recall(self) -> float:
        """Share of the true pixels that are predicted."""
        return self._share(self.truth)

    def _share(self, of: int) -> float:
        if of:
            return self.both / of
        return math.nan if self.prediction or self.truth else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """How many pixels each pair of labels shares: the contingency table of two label pictures, without its zeros.

    Parameters
    ----------
    first, second : (N,) int64
        Labels of each pair in the one and in the other picture, sorted by both; 0, the background, is a label too.
    count : (N,) int64
        Pixels of the pair, at least 1.
    """

    first: Ids
    second: Ids
    count: Ids

    def of_objects(self) -> Overlaps:
        """Leave out the pairs with background."""
        kept = (self.first != 0) & (self.second != 0)
        return Overlaps(self.first[kept], self.second[kept], self.count[kept])


def overlaps(first: NDArray[np.integer], second: NDArray[np.integer]) -> Overlaps:
    """Count the pixels of each pair of labels.

    Parameters
    ----------
    first, second : integer arrays of one shape
        Labels from 0.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    if first.shape != second.shape:
        raise InputError(f"Labels to compare must have one shape; got {first.shape} and {second.shape}.")
    a, b = first.ravel(), second.ravel()
    height, width = (int(labels.max(initial=0)) + 1 for labels in (a, b))
    if height * width > _MOST:
        (known_a, a), (known_b, b) = (np.unique(labels, return_inverse=True) for labels in (a, b))
        dense = overlaps(a, b)
        return Overlaps(known_a[dense.first].astype(np.int64), known_b[dense.second].astype(np.int64), dense.count)
    cells = a.astype(np.int64) * width + b.astype(np.int64)
    if height * width <= _TABLE:
        table = np.bincount(cells)
        found = np.flatnonzero(table)
        count = table[found]
    else:
        found, count = np.unique(cells, return_counts=True)
    return Overlaps(found // width, found % width, count.astype(np.int64))


def joined(parts: Sequence[Overlaps]) -> Overlaps:
    """Add up the tables of several parts, such as planes, of the same two label pictures."""
    if not parts:
        none = np.zeros(0, np.int64)
        return Overlaps(none, none, none)
    first, second, count = (np.concatenate([getattr(part, name) for part in parts]) for name in Overlaps.__slots__)
    order = np.lexsort((second, first))
    first, second, count = first[order], second[order], count[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(first) != 0) | (np.diff(second) != 0)]) if len(first) else order
    return Overlaps(first[starts], second[starts], np.add.reduceat(count, starts) if len(starts) else count)
