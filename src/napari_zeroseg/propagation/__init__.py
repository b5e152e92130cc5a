"""Plane to plane: objects outlined on a few planes, found on the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError
from napari_zeroseg.planes import Planes
from napari_zeroseg.propagation.outlines import Outlines, Protected
from napari_zeroseg.propagation.result import (
    Direction,
    Flag,
    FlagReason,
    Journal,
    ObjectOnPlane,
    PlaneResult,
    PropagationOptions,
    Record,
    StepRecord,
)
from napari_zeroseg.propagation.run import Propagation
from napari_zeroseg.segmenter import Segmenter

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

__all__ = [
    "Direction",
    "Flag",
    "FlagReason",
    "Journal",
    "ObjectOnPlane",
    "PlaneResult",
    "Propagation",
    "PropagationOptions",
    "Record",
    "StepRecord",
    "propagate",
    "propagation_of",
    "repropagate",
]


def propagation_of(
    stack: object,
    model: Segmenter,
    seeds: object,
    *,
    planes: range | None = None,
    options: PropagationOptions | None = None,
    keep: object = None,
    store: EmbeddingStore | None = None,
    journal: Journal | None = None,
    cancel: CancelToken | None = None,
) -> Propagation:
    """Prepare a propagation; nothing is computed until it is iterated over.

    Parameters
    ----------
    stack : array_like or Planes
        (Z, H, W) or (Z, H, W, 3), lazily read; two planes are in memory at a time.
    model : Segmenter
        One that takes boxes or points; one that takes masks as well does better.
    seeds : Mapping of int to (H, W) integer array, or (Z, H, W) integer array_like
        Objects as outlined, by plane, or in labels of all planes of which those without labels are 0. An object that
        is outlined on several planes is followed from all of them, and between two from both.
    planes : range, optional
        Planes to fill, in steps of 1; left out, all.
    options : PropagationOptions, optional
    keep : as `seeds`, optional
        Labels that stay as they are, whoever's they are.
    store : EmbeddingStore, optional
        Where embeddings are looked for and kept; without one, each plane is encoded up to three times in a large stack.
    journal : Journal, optional
        Where each step is kept, and found again by the next run.
    cancel : CancelToken, optional
        Looked at between planes of `seeds`.

    Raises
    ------
    InputError, InputTypeError
        If planes, labels or the model do not fit.
    """
    series = stack if isinstance(stack, Planes) else Planes.of(stack)
    chosen = range(len(series)) if planes is None else planes
    if len(chosen) and (chosen.step != 1 or chosen.start < 0 or chosen.stop > len(series)):
        raise InputError(
            f"Planes to propagate through are neighbours, range(first, last + 1) within 0 to {len(series) - 1}; "
            f"got {chosen}."
        )
    if not len(chosen):
        raise InputError("There is no plane to propagate through: give at least one.")
    return Propagation(
        series,
        model,
        Outlines.gather(seeds, series, chosen, cancel),
        chosen,
        options or PropagationOptions(),
        store if store is not None else EmbeddingStore(),
        Protected(keep, series),
        journal,
    )


def propagate(
    stack: object,
    model: Segmenter,
    seeds: object,
    *,
    planes: range | None = None,
    options: PropagationOptions | None = None,
    keep: object = None,
    store: EmbeddingStore | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: CancelToken | None = None,
) -> Propagation:
    """Follow objects through the planes of a stack, to the end.

    Parameters
    ----------
    stack, model, seeds, planes, options, keep, store
        As for :func:`propagation_of`, which gives the planes as they come.
    progress : callable, optional
        Called with (steps done, steps in all, at most) after each plane.
    cancel : CancelToken, optional
        Looked at between planes and between windows.

    Returns
    -------
    Propagation
        With labels, certainty and flags of each plane.

    Raises
    ------
    InputError, InputTypeError
        If planes, labels or the model do not fit.
    CancelledError
        If `cancel` was raised.

    Examples
    --------
    >>> found = zs.propagate(stack, model, {12: outlined})
    >>> labels, sure = found.labels(15), found.curve()[15]
    """
    run = propagation_of(stack, model, seeds, planes=planes, options=options, keep=keep, store=store, cancel=cancel)
    return run.finish(progress, cancel)


def repropagate(
    run: Propagation,
    plane: int,
    labels: NDArray[np.integer],
    progress: Callable[[int, int], None] | None = None,
    cancel: CancelToken | None = None,
) -> Propagation:
    """Take a corrected plane for outlined and do again what depends on it; see :meth:`Propagation.correct`."""
    for _ in run.correct(plane, labels, None, progress, cancel):
        pass
    return run
