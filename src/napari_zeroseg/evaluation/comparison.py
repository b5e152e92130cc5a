"""The rows of a report: everything, classes, planes and objects, from what was gathered."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.evaluation.distances import UNKNOWN, ByKey, Distances, distances
from napari_zeroseg.evaluation.gather import Gathered, Sections, Surface
from napari_zeroseg.evaluation.matching import Matching, match, objects_of, section_at
from napari_zeroseg.evaluation.report import Row
from napari_zeroseg.evaluation.scores import InstanceScores, instance_scores
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import Counts, Ids


@dataclass(frozen=True, slots=True)
class Frame:
    """How to measure.

    Attributes
    ----------
    shape : tuple of int
        (Z, H, W).
    spacing : tuple of float
        (plane, row, column).
    through_planes : bool
        Whether labels go on from plane to plane.
    tolerance : float
    boundaries : bool
        Whether distances are measured at all.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, ...]
    through_planes: bool
    tolerance: float
    boundaries: bool


class Comparison:
    """Compares what was gathered of a prediction and of the truth."""

    def __init__(self, found: Gathered, frame: Frame, cancel: CancelToken | None) -> None:
        self._found = found
        self._frame = frame
        self._cancel = cancel

    @cached_property
    def matching(self) -> Matching:
        """Objects of both sides and which is which."""
        found = self._found
        return match(found.pairs, found.truth, found.prediction, not self._frame.through_planes)

    def counts_of_planes(self) -> NDArray[np.int64]:
        """Foreground pixels of each plane, (Z, 3): of both, of the prediction, of the truth."""
        found = self._found
        counts = np.zeros((self._frame.shape[0], 3), np.int64)
        for column, (planes, pixels) in enumerate(
            (
                (found.pairs.plane, found.pairs.count),
                (found.prediction.plane, found.prediction.area),
                (found.truth.plane, found.truth.area),
            )
        ):
            np.add.at(counts[:, column], planes, pixels)
        return counts

    def foreground(self) -> Row:
        """Everything that is labelled."""
        counts = _counts(self.counts_of_planes().sum(0))
        if self._frame.through_planes:
            truth, prediction = self._found.truth_surface, self._found.prediction_surface
            return _row("foreground", counts, self._measured(prediction.at[prediction.bare], truth.at[truth.bare]))
        return _row("foreground", counts, _mean(self._foreground_of_planes))

    @property
    def one_sided_planes(self) -> int:
        """Number of planes that have no distance since one of both has no labels there."""
        if self._frame.through_planes:
            return 0
        return sum(math.isinf(one.assd) for one in self._foreground_of_planes)

    def planes(self) -> Iterator[Row]:
        """Yield the foreground of each plane."""
        for plane, counts in enumerate(self.counts_of_planes()):
            measured = UNKNOWN if self._frame.through_planes else self._foreground_of_planes[plane]
            yield _row("plane", _counts(counts), measured, plane=plane)

    @cached_property
    def _foreground_of_planes(self) -> list[Distances]:
        sides = [
            ByKey(surface.at[surface.bare], self._own_plane(surface)[surface.bare])
            for surface in (self._found.prediction_surface, self._found.truth_surface)
        ]
        return [self._measured(*(side[plane] for side in sides)) for plane in range(self._frame.shape[0])]

    def classes(self) -> Iterator[Row]:
        """Yield each class, over all planes."""
        found = self._found
        same = found.pairs.truth == found.pairs.prediction
        true = _sums(found.truth.label, found.truth.area)
        predicted = _sums(found.prediction.label, found.prediction.area)
        shared = _sums(found.pairs.truth[same], found.pairs.count[same])
        for label in sorted({*true, *predicted}):
            counts = Counts(shared.get(label, 0), predicted.get(label, 0), true.get(label, 0))
            keys = product(range(1 if self._frame.through_planes else self._frame.shape[0]), [label])
            yield _row("class", counts, _mean([self._class_distances[key] for key in keys]), label=label)

    def classes_on_planes(self) -> Iterator[Row]:
        """Yield each class on each plane, where there are several classes and several planes."""
        found = self._found
        labels = sorted({*found.truth.label.tolist(), *found.prediction.label.tolist()})
        if len(labels) < 2 or self._frame.shape[0] < 2:
            return
        same = found.pairs.truth == found.pairs.prediction
        both = _by_plane(found.pairs.plane[same], found.pairs.truth[same], found.pairs.count[same])
        predicted = _by_plane(found.prediction.plane, found.prediction.label, found.prediction.area)
        true = _by_plane(found.truth.plane, found.truth.label, found.truth.area)
        for key in product(range(self._frame.shape[0]), labels):
            counts = Counts(both.get(key, 0), predicted.get(key, 0), true.get(key, 0))
            measured = UNKNOWN if self._frame.through_planes else self._class_distances[key]
            yield _row("class on plane", counts, measured, plane=key[0], label=key[1])

    @cached_property
    def _class_distances(self) -> dict[tuple[int, int], Distances]:
        """Distances by (plane, class); the plane is 0 for all where labels go through the planes."""
        truth, prediction = self._found.truth_surface, self._found.prediction_surface
        labels = np.unique(np.r_[self._found.truth.label, self._found.prediction.label])
        width = len(labels)
        sides = [
            ByKey(surface.at, self._own_plane(surface) * width + np.searchsorted(labels, surface.label))
            for surface in (prediction, truth)
        ]
        planes = 1 if self._frame.through_planes else self._frame.shape[0]
        return {
            (plane, label): self._measured(*(side[plane * width + index] for side in sides))
            for plane, (index, label) in product(range(planes), enumerate(labels.tolist()))
        }

    def _own_plane(self, surface: Surface) -> Ids:
        pixels = self._frame.shape[1] * self._frame.shape[2]
        return np.zeros_like(surface.at) if self._frame.through_planes else surface.at // pixels

    def objects(self) -> tuple[list[Row], InstanceScores]:
        """Return the true objects, the predicted ones without a match, and the scores of all."""
        matching = self.matching
        measured = self._pair_distances(matching)
        rows = []
        best = matching.best_of_truth()
        for index in range(len(matching.truth.label)):
            rows.append(_object_row(matching, index, int(best[index]), measured))
        taken = np.zeros(len(matching.prediction.label), bool)
        taken[matching.prediction_index[matching.matched]] = True
        best = matching.best_of_prediction()
        for index in np.flatnonzero(~taken).tolist():
            rows.append(_extra_row(matching, index, int(best[index])))
        mean = _mean(list(measured.values()))
        return rows, instance_scores(matching, (mean.assd, mean.hd95, mean.nsd))

    def _pair_distances(self, matching: Matching) -> dict[int, Distances]:
        """Distances of each matched pair, by its index."""
        if not self._frame.boundaries:
            return {}
        per_plane = not self._frame.through_planes
        true = self._by_object(self._found.truth, self._found.truth_surface, per_plane)
        predicted = self._by_object(self._found.prediction, self._found.prediction_surface, per_plane)
        measured = {}
        for pair in np.flatnonzero(matching.matched).tolist():
            if self._cancel is not None:
                self._cancel.raise_if_cancelled()
            t, p = int(matching.truth_index[pair]), int(matching.prediction_index[pair])
            measured[pair] = self._measured(predicted[p], true[t])
        return measured

    def _by_object(self, sections: Sections, surface: Surface, per_plane: bool) -> ByKey:
        """Boundary pixels by the index of their object."""
        _, of_section = objects_of(sections, per_plane)
        planes = surface.at // (self._frame.shape[1] * self._frame.shape[2])
        return ByKey(surface.at, of_section[section_at(sections, planes, surface.label)])

    def _measured(self, prediction: Ids, truth: Ids) -> Distances:
        frame = self._frame
        if not frame.boundaries:
            return UNKNOWN
        return distances(prediction, truth, frame.shape, frame.spacing, frame.tolerance)


def _counts(pixels: NDArray[np.int64]) -> Counts:
    both, prediction, truth = pixels.tolist()
    return Counts(both, prediction, truth)


def _row(
    kind: str, counts: Counts, measured: Distances = UNKNOWN, *, plane: int | None = None, label: int | None = None
) -> Row:
    return Row(
        kind,
        label,
        plane,
        None,
        None,
        None,
        None,
        counts.truth,
        counts.prediction,
        counts.iou,
        counts.dice,
        counts.precision,
        counts.recall,
        measured.assd,
        measured.hd95,
        measured.nsd,
    )


def _object_row(matching: Matching, index: int, pair: int, measured: dict[int, Distances]) -> Row:
    """The row of a true object, against the predicted one that fits best."""
    truth, prediction = matching.truth, matching.prediction
    partner = int(matching.prediction_index[pair]) if pair >= 0 else -1
    counts = Counts(
        int(matching.shared[pair]) if pair >= 0 else 0,
        int(prediction.size[partner]) if pair >= 0 else 0,
        int(truth.size[index]),
    )
    return dataclasses.replace(
        _row(
            "object", counts, measured.get(pair, UNKNOWN), plane=int(truth.plane[index]), label=int(truth.label[index])
        ),
        row=int(truth.row[index]),
        column=int(truth.column[index]),
        match=int(prediction.label[partner]) if pair >= 0 else 0,
        matched=bool(pair >= 0 and matching.matched[pair]),
    )


def _extra_row(matching: Matching, index: int, pair: int) -> Row:
    """The row of a predicted object without a match, against the true one that fits best."""
    truth, prediction = matching.truth, matching.prediction
    partner = int(matching.truth_index[pair]) if pair >= 0 else -1
    counts = Counts(
        int(matching.shared[pair]) if pair >= 0 else 0,
        int(prediction.size[index]),
        int(truth.size[partner]) if pair >= 0 else 0,
    )
    return dataclasses.replace(
        _row("extra", counts, plane=int(prediction.plane[index]), label=int(prediction.label[index])),
        row=int(prediction.row[index]),
        column=int(prediction.column[index]),
        match=int(truth.label[partner]) if pair >= 0 else 0,
        matched=False,
    )


def _mean(several: Sequence[Distances]) -> Distances:
    """Mean of those where there is anything to measure; infinite distances are left out, their NSD of 0 counts."""
    measured = [one for one in several if not math.isnan(one.assd)]
    if not measured:
        return several[0] if several else UNKNOWN
    finite = [one for one in measured if math.isfinite(one.assd)]
    if not finite:
        return Distances(math.inf, math.inf, 0.0)
    return Distances(
        float(np.mean([one.assd for one in finite])),
        float(np.mean([one.hd95 for one in finite])),
        float(np.mean([one.nsd for one in measured])),
    )


def _sums(keys: Ids, values: Ids) -> dict[int, int]:
    known, which = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(known), np.int64)
    np.add.at(sums, which, values)
    return dict(zip(known.tolist(), sums.tolist(), strict=True))


def _by_plane(planes: Ids, labels: Ids, pixels: Ids) -> dict[tuple[int, int], int]:
    return dict(zip(zip(planes.tolist(), labels.tolist(), strict=True), pixels.tolist(), strict=True))
