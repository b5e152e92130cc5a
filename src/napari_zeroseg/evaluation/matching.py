"""Which predicted object is which true one, and the scores that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.evaluation.gather import Pairs, Sections
from napari_zeroseg.metrics import Ids

Floats = NDArray[np.float64]

THRESHOLDS = tuple(step / 20 for step in range(10, 20))
"""IoU from 0.50 to 0.95 in steps of 0.05."""


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Objects of one side: arrays of one length.

    Attributes
    ----------
    plane : (N,) int64
        Where the object is looked at: its own plane, or the one where its section is largest.
    label, size, row, column : (N,) int64
        `size` in pixels; (row, column) is a pixel of the object on that plane.
    """

    plane: Ids
    label: Ids
    size: Ids
    row: Ids
    column: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Objects of both sides and their overlaps.

    Attributes
    ----------
    truth, prediction : Objects
    truth_index, prediction_index, shared : (P,) int64
        The pairs of objects that share pixels, and how many.
    iou, dice : (P,) float64
    matched : (P,) bool
        The pairs that count as one object: one to one, IoU at least 0.5.
    per_plane : bool
        Whether objects are those of one plane each.
    """

    truth: Objects
    prediction: Objects
    truth_index: Ids
    prediction_index: Ids
    shared: Ids
    iou: Floats
    dice: Floats
    matched: NDArray[np.bool_]
    per_plane: bool

    def best_of_truth(self) -> Ids:
        """Index of the pair with the largest IoU of each true object; −1 where nothing overlaps it."""
        return _best(self.truth_index, self.iou, len(self.truth.label))

    def best_of_prediction(self) -> Ids:
        """Index of the pair with the largest IoU of each predicted object; −1 where it overlaps nothing."""
        return _best(self.prediction_index, self.iou, len(self.prediction.label))

    def units(self) -> Floats:
        """IoU of each matched pair, −1 for each true and −2 for each predicted object without a match."""
        ious = self.iou[self.matched]
        missed = len(self.truth.label) - len(ious)
        extra = len(self.prediction.label) - len(ious)
        return np.concatenate([ious, np.full(missed, -1.0), np.full(extra, -2.0)])


def match(pairs: Pairs, truth: Sections, prediction: Sections, per_plane: bool) -> Matching:
    """Match the objects of a prediction with the true ones.

    Parameters
    ----------
    pairs, truth, prediction
        As gathered.
    per_plane : bool
        Whether a label is another object on each plane.
    """
    true, of_true = objects_of(truth, per_plane)
    predicted, of_predicted = objects_of(prediction, per_plane)
    t = of_true[section_at(truth, pairs.plane, pairs.truth)]
    p = of_predicted[section_at(prediction, pairs.plane, pairs.prediction)]
    both, which = np.unique(t * max(1, len(predicted.label)) + p, return_inverse=True)
    t, p = np.divmod(both, max(1, len(predicted.label)))
    shared = np.zeros(len(both), np.int64)
    np.add.at(shared, which, pairs.count)
    total = true.size[t] + predicted.size[p]
    iou = shared / (total - shared)
    return Matching(true, predicted, t, p, shared, iou, 2 * shared / total, _matched(t, p, iou), per_plane)


def objects_of(sections: Sections, per_plane: bool) -> tuple[Objects, Ids]:
    """Objects of these sections, and for each section the index of its object."""
    if per_plane:
        return Objects(sections.plane, sections.label, sections.area, sections.row, sections.column), np.arange(
            len(sections.label)
        )
    labels, which = np.unique(sections.label, return_inverse=True)
    sizes = np.zeros(len(labels), np.int64)
    np.add.at(sizes, which, sections.area)
    # The section with the largest area of each object; on the first plane among equals.
    order = np.lexsort((sections.plane, -sections.area, which))
    first = order[np.searchsorted(which[order], np.arange(len(labels)))]
    return Objects(sections.plane[first], labels, sizes, sections.row[first], sections.column[first]), which


def section_at(sections: Sections, plane: Ids, label: Ids) -> Ids:
    """Index of the section of each (plane, label), which must be there."""
    known, dense = np.unique(sections.label, return_inverse=True)
    width = max(1, len(known))
    keys = sections.plane * width + dense
    return np.searchsorted(keys, plane * width + np.searchsorted(known, label)).astype(np.int64)


def _best(index: Ids, iou: Floats, count: int) -> Ids:
    best = np.full(count, -1, np.int64)
    order = np.lexsort((np.arange(len(iou)), -iou))[::-1]
    best[index[order]] = order  # the last one written is the one of the largest IoU, the first among equals
    return best


def _matched(t: Ids, p: Ids, iou: Floats) -> NDArray[np.bool_]:
    """Choose one-to-one pairs of IoU 0.5 or more: as many as there can be, and of these those of the largest sum.

    More than 0.5 can an object have with one other only. With exactly 0.5 it can have two, its two halves, neither of
    which has another partner: the first one is taken.
    """
    matched: NDArray[np.bool_] = iou > 0.5
    even = np.flatnonzero(iou == 0.5)
    for side in (t, p):
        _, first = np.unique(side[even], return_index=True)
        even = even[np.sort(first)]
    matched[even] = True
    return matched
