"""Evaluate a prediction against the truth."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from napari_zeroseg.errors import InputError
from napari_zeroseg.evaluation.comparison import Comparison, Frame
from napari_zeroseg.evaluation.gather import Gathered, Progress, gather
from napari_zeroseg.evaluation.labels import LabelStack
from napari_zeroseg.evaluation.report import Report, Row
from napari_zeroseg.evaluation.scores import object_intervals, plane_intervals
from napari_zeroseg.jobs import CancelToken

Mode = Literal["auto", "instances", "semantic"]

_FEW = 10  # objects or planes below which a bootstrap interval is known to be too narrow


def evaluate(
    prediction: object,
    truth: object,
    spacing: Sequence[float] | None = None,
    *,
    mode: Mode = "auto",
    planes: Sequence[int] | None = None,
    per_plane: bool = False,
    ignore: int | None = None,
    tolerance: float | None = None,
    boundaries: bool = True,
    unit: str = "px",
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Report:
    """Compare labels with true labels, plane by plane: large ones are never whole in memory.

    Parameters
    ----------
    prediction, truth : (H, W) or (Z, H, W) array_like of int
        Labels, 0 is background; numpy, dask or zarr. bool, and floats that are whole, are taken too.
    spacing : sequence of float, optional
        Distance of neighbours along each axis, (row, column) or (plane, row, column); left out, 1.
    mode : "auto", "instances" or "semantic"
        Whether a label is an object, whose number is arbitrary, or a class, whose number means the same in both. "auto"
        takes masks (at most one label besides 0 in each) as one class, whatever their numbers, and all else as
        objects: pictures of several classes must be named as such.
    planes : sequence of int, optional
        Planes to compare, ascending; left out, all. Without `per_plane` they follow one another without a gap.
    per_plane : bool
        Whether each plane of a stack stands for itself: its labels are objects of their own, and boundaries end with
        the plane. Otherwise a label is one object through all planes, and distances are three-dimensional.
    ignore : int, optional
        Value of the truth that says "not known": these pixels count nowhere.
    tolerance : float, optional
        Distance of boundaries that still counts as agreement, in the unit of `spacing`; left out, one pixel: the
        larger one of the steps along rows and columns.
    boundaries : bool
        Whether to measure distances, which takes about 30 bytes of memory for each pixel of a boundary and half of the
        time.
    unit : str
        Of `spacing`, for the text.
    resamples : int
        For the bootstrap intervals; 0 for none.
    seed : int
        Of the resampling: equal numbers, equal intervals.
    progress : callable, optional
        Called with (planes read, planes in all).
    cancel : CancelToken, optional
        Looked at between planes and between objects.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If the shapes differ, labels are not whole numbers from 0, or an option has no sense.
    InputTypeError
        If labels are no numbers.
    ReadError
        If the data behind a picture fails.
    CancelledError
        If `cancel` was raised.

    Notes
    -----
    Two empty pictures agree fully (IoU and Dice 1); one empty picture and one that is not do not agree at all (0), and
    their boundaries are infinitely far apart. What would divide by nothing is nan.
    """
    predicted, true = LabelStack(prediction, "prediction"), LabelStack(truth, "truth")
    _choose_planes(predicted, true, planes, per_plane)
    frame = _frame(true, spacing, per_plane, tolerance, boundaries)
    if mode not in get_args(Mode):
        raise InputError(f"The mode is auto, instances or semantic; got {mode!r}.")
    found = gather(
        predicted,
        true,
        ignore=ignore,
        through_planes=frame.through_planes,
        surfaces=boundaries,
        progress=progress,
        cancel=cancel,
    )
    chosen, found, notes = _choose(found, mode)
    figures = Comparison(found, frame, cancel)
    steps = frame.spacing[-len(true.shape) :]
    shape = (len(true), *true.shape[-2:])[-len(true.shape) :]
    report = Report(chosen, per_plane, shape, steps, unit, frame.tolerance, figures.foreground())
    if chosen == "semantic":
        report = dataclasses.replace(
            report,
            classes=tuple(figures.classes()),
            planes=(*figures.planes(), *figures.classes_on_planes()),
            intervals=plane_intervals(figures.counts_of_planes(), resamples, seed),
        )
        units = len(true)
    else:
        rows, scores = figures.objects()
        report = dataclasses.replace(
            report,
            planes=tuple(figures.planes()),
            objects=tuple(rows),
            instances=scores,
            intervals=object_intervals(figures.matching, resamples, seed),
        )
        units = scores.truth
    if figures.one_sided_planes:
        notes = (
            *notes,
            f"On {figures.one_sided_planes} planes only one of both has labels: the mean ASSD and HD95 leave them out.",
        )
    if report.intervals and units < _FEW:
        notes = (
            *notes,
            f"The intervals come from {units} {'planes' if chosen == 'semantic' else 'objects'} and are rough.",
        )
    return _numbered(dataclasses.replace(report, notes=notes), true.planes)


def _numbered(report: Report, planes: Sequence[int]) -> Report:
    """Give the planes of the rows the numbers that they have in the stack."""

    def named(rows: tuple[Row, ...]) -> tuple[Row, ...]:
        return tuple(row if row.plane is None else dataclasses.replace(row, plane=planes[row.plane]) for row in rows)

    return dataclasses.replace(report, planes=named(report.planes), objects=named(report.objects))


def _choose_planes(prediction: LabelStack, truth: LabelStack, planes: Sequence[int] | None, per_plane: bool) -> None:
    if prediction.shape != truth.shape:
        raise InputError(
            f"Prediction and truth must have one shape; got {prediction.shape} and {truth.shape}: crop or resample one "
            "of them, or take the same planes of both."
        )
    if planes is None:
        return
    prediction.choose(planes)
    truth.choose(planes)
    gaps = [b - a for a, b in itertools.pairwise(truth.planes)]
    if not truth.planes or min(gaps, default=1) < 1 or (max(gaps, default=1) > 1 and not per_plane):
        raise InputError(
            f"Planes to compare are named in ascending order, and without a gap unless each stands for itself; got "
            f"{truth.planes}."
        )


def _frame(
    truth: LabelStack,
    spacing: Sequence[float] | None,
    per_plane: bool,
    tolerance: float | None,
    boundaries: bool,
) -> Frame:
    ndim = len(truth.shape)
    steps = (1.0,) * ndim if spacing is None else tuple(float(step) for step in spacing)
    if len(steps) != ndim or not all(math.isfinite(step) and step > 0 for step in steps):
        axes = "(plane, row, column)" if ndim == 3 else "(row, column)"
        raise InputError(f"Spacing is one positive number for each of the axes {axes}; got {steps}.")
    through_planes = ndim == 3 and len(truth) > 1 and not per_plane
    if tolerance is None:
        tolerance = max(steps[-2:])
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"The tolerance is a distance from 0; got {tolerance:g}.")
    height, width = truth.shape[-2:]
    return Frame(
        (len(truth), height, width), (*(1.0,) * (3 - ndim), *steps), through_planes, float(tolerance), boundaries
    )


def _choose(found: Gathered, mode: Mode) -> tuple[str, Gathered, tuple[str, ...]]:
    """The mode, what was found in its terms, and what to mind."""
    true, predicted = np.unique(found.truth.label), np.unique(found.prediction.label)
    notes: list[str] = []
    if not len(true) or not len(predicted):
        empty = " and ".join(name for name, of in (("truth", true), ("prediction", predicted)) if not len(of))
        notes.append(f"There are no labels in the {empty}.")
    if mode != "auto":
        return mode, found, tuple(notes)
    if len(true) <= 1 and len(predicted) <= 1:
        if len(true) and len(predicted) and true[0] != predicted[0]:
            notes.append(
                f"The masks have the values {predicted[0]} (prediction) and {true[0]} (truth), taken as one class."
            )
            found = found.with_prediction_named(int(true[0]))
        return "semantic", found, tuple(notes)
    if 1 in (len(true), len(predicted)):
        one, many = ("truth", "prediction") if len(true) == 1 else ("prediction", "truth")
        notes.append(
            f"The {one} has one label and the {many} has several: if that one is a mask of many objects, only the "
            "figures of the foreground mean something."
        )
    return "instances", found, tuple(notes)
