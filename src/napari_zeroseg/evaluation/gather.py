"""One pass over the planes: what overlaps, how large and where each label is, and the pixels of its boundary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.evaluation.labels import Labels, LabelStack
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import Ids, overlaps

Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True, eq=False)
class Sections:
    """The parts of all labels, one for each plane where a label is: arrays of one length, sorted by plane and label.

    Attributes
    ----------
    plane, label, area : (N,) int64
        `area` in pixels.
    row, column : (N,) int64
        The pixel of the section nearest to its centroid; the first one among equals.
    """

    plane: Ids
    label: Ids
    area: Ids
    row: Ids
    column: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pixels that a predicted and a true label share on a plane: arrays of one length; background is left out."""

    plane: Ids
    truth: Ids
    prediction: Ids
    count: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Pixels of labels that have a face neighbour outside of their label: 2 · ndim neighbours, as of MONAI and medpy.

    What lies outside of the picture counts as background.

    Attributes
    ----------
    at : (N,) int64
        Index of the pixel in the flattened stack, ascending.
    label : (N,) int64
    bare : (N,) bool
        Whether a face neighbour is background, so that it is boundary of the foreground too.
    """

    at: Ids
    label: Ids
    bare: NDArray[np.bool_]


Columns = TypeVar("Columns", Sections, Pairs, Surface)


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """What an evaluation needs to know of both pictures; the planes themselves are not kept."""

    pairs: Pairs
    truth: Sections
    prediction: Sections
    truth_surface: Surface
    prediction_surface: Surface

    def with_prediction_named(self, label: int) -> Gathered:
        """Give the one label of the prediction another number."""
        return Gathered(
            replace(self.pairs, prediction=np.full_like(self.pairs.prediction, label)),
            self.truth,
            replace(self.prediction, label=np.full_like(self.prediction.label, label)),
            self.truth_surface,
            replace(self.prediction_surface, label=np.full_like(self.prediction_surface.label, label)),
        )


def gather(
    prediction: LabelStack,
    truth: LabelStack,
    *,
    ignore: int | None,
    through_planes: bool,
    surfaces: bool,
    progress: Progress | None,
    cancel: CancelToken | None,
) -> Gathered:
    """Read every plane once.

    Parameters
    ----------
    prediction, truth : LabelStack
        Of one shape.
    ignore : int, optional
        Where the truth has this value, both are taken as background.
    through_planes : bool
        Whether the planes above and below are neighbours too.
    surfaces : bool
        Whether to find boundaries; without, they are empty.
    progress : callable, optional
        Called with (planes done, planes in all).
    cancel : CancelToken, optional
        Looked at before each plane.
    """
    pairs: list[Pairs] = []
    sections: tuple[list[Sections], list[Sections]] = ([], [])
    found: tuple[list[Surface], list[Surface]] = ([], [])
    for index, window in enumerate(_windows(prediction, truth, ignore, through_planes)):
        if cancel is not None:
            cancel.raise_if_cancelled()
        (_, (predicted, true), _) = window
        shared = overlaps(true, predicted).of_objects()
        pairs.append(Pairs(np.full(len(shared.count), index), shared.first, shared.second, shared.count))
        for side, plane in enumerate((predicted, true)):
            sections[side].append(_sections(plane, index))
            if surfaces:
                beside = [window[0][side], window[2][side]] if through_planes else []
                found[side].append(_surface(plane, beside, index * plane.size))
        if progress is not None:
            progress(index + 1, len(truth))
    none = Surface(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool))
    return Gathered(
        _concatenated(pairs),
        _concatenated(sections[1]),
        _concatenated(sections[0]),
        _concatenated(found[1]) if surfaces else none,
        _concatenated(found[0]) if surfaces else none,
    )


def _concatenated(parts: list[Columns]) -> Columns:
    columns = [np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(parts[0])]
    return type(parts[0])(*columns)


Both = tuple[Labels, Labels]


def _windows(
    prediction: LabelStack, truth: LabelStack, ignore: int | None, through_planes: bool
) -> Iterator[tuple[Both, Both, Both]]:
    """Yield each plane of both between its neighbours; there is background above the first and below the last."""
    nothing = np.zeros(truth.shape[-2:], np.int64)
    before = now = (nothing, nothing)
    for index in range(len(truth) + 1):
        after = _read(prediction, truth, index, ignore) if index < len(truth) else (nothing, nothing)
        if index:
            yield before, now, after
        before, now = now, after


def _read(prediction: LabelStack, truth: LabelStack, index: int, ignore: int | None) -> Both:
    predicted, true = prediction.read(index), truth.read(index, ignore)
    if ignore is not None:
        out = true == ignore
        predicted[out] = 0
        true[out] = 0
    return predicted, true


def _sections(plane: Labels, index: int) -> Sections:
    at = np.flatnonzero(plane)
    labels, which, areas = np.unique(plane.ravel()[at], return_inverse=True, return_counts=True)
    rows, columns = np.divmod(at, plane.shape[1])
    middle = [np.bincount(which, where, len(labels)) / areas for where in (rows, columns)]
    away = (rows - middle[0][which]) ** 2 + (columns - middle[1][which]) ** 2
    least = np.full(len(labels), np.inf)
    np.minimum.at(least, which, away)
    nearest = np.flatnonzero(away == least[which])[::-1]
    chosen = np.zeros(len(labels), np.int64)
    chosen[which[nearest]] = nearest  # the last one written, and so the first pixel, stays
    return Sections(np.full(len(labels), index), labels, areas.astype(np.int64), rows[chosen], columns[chosen])


def _surface(plane: Labels, beside: list[Labels], offset: int) -> Surface:
    framed = np.pad(plane, 1)
    around = [framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:], *beside]
    outside = np.zeros(plane.shape, bool)
    bare = np.zeros(plane.shape, bool)
    for neighbour in around:
        outside |= neighbour != plane
        bare |= neighbour == 0
    at = np.flatnonzero(outside & (plane != 0))
    return Surface(at + offset, plane.ravel()[at], bare.ravel()[at])
