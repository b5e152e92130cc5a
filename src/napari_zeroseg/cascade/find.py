"""Find the rest: a few objects are shown, all others that look like them are proposed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.automatic.search import check_takes_points
from napari_zeroseg.cascade.features import PlaneFeatures
from napari_zeroseg.cascade.options import SimilarOptions
from napari_zeroseg.cascade.planes import Progress, as_view, overlap
from napari_zeroseg.cascade.queue import Queue
from napari_zeroseg.cascade.search import Candidate, candidates, prompts_for, side_for, similarity
from napari_zeroseg.cascade.shown import Example, Known, Shown, learn_from
from napari_zeroseg.errors import InputError
from napari_zeroseg.segmenter import Patch, Segmenter
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.embeddings import EmbeddingStore
    from napari_zeroseg.jobs import CancelToken


def find_similar(
    model: Segmenter,
    pictures: ArrayLike | View | Sequence[ArrayLike | View],
    examples: Sequence[Example | NDArray[np.bool_]],
    *,
    negatives: Sequence[Example | NDArray[np.bool_]] | None = None,
    labels: ArrayLike | Sequence[ArrayLike | None] | None = None,
    options: SimilarOptions | None = None,
    store: EmbeddingStore | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Queue:
    """Propose all objects that look like the examples.

    Parameters
    ----------
    model : Segmenter
        One that takes points and whose embeddings are maps: SAM and its relatives, such as mobile_sam.
    pictures : picture, View, or list of these
        The planes to search, each (H, W) or (H, W, 3) of any real dtype. A stack is a list of its planes.
    examples : sequence of Example or of (H, W) bool array
        At least one; a bare mask is of the first plane and class 1.
    negatives : sequence of Example or of (H, W) bool array, optional
        What is none of the class.
    labels : (H, W) array_like of int, or list of these and of None, optional
        What is labelled on the planes already, which is not proposed again. Examples never are.
    options : SimilarOptions, optional
    store : EmbeddingStore, optional
        Where embeddings are looked for and kept, for planes that are no views.
    progress : callable, optional
        Called with the windows that have been compared, and how many there are.
    cancel : CancelToken, optional
        Looked at between windows and batches of prompts.

    Returns
    -------
    Queue
        A sequence of :class:`Proposal`, the most certain first; its `accept` and `reject` refine what is looked for.

    Raises
    ------
    InputError, InputTypeError
        If there is no example, one has another shape than its plane, or the model or a picture cannot be worked with.
    CancelledError
    """
    options = options or SimilarOptions()
    check_takes_points(model)
    several: list[Any] = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    views = [as_view(model, picture, store) for picture in several]
    known = [Known.of(one, model, views, store) for one in examples]
    if not known or not views:
        raise InputError("There is no example or no plane: give at least one object that is known, and where to look.")
    unwanted = [Known.of(one, model, views, store) for one in negatives or ()]
    taken = taken_of(labels, views, known)
    side = side_for(views[0].shape, [one.patch for one in known], options)
    shown = learn_from(known, unwanted, side, cancel)
    return search_planes(views, shown, side, taken, options, progress=progress, cancel=cancel)


def search_planes(
    views: Sequence[View],
    shown: Shown,
    side: int,
    taken: Sequence[Taken],
    options: SimilarOptions,
    *,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Queue:
    """Propose what looks like what was shown.

    Parameters
    ----------
    views : sequence of View
        The planes.
    shown : Shown
        What was learnt, of these or of other planes.
    side : int
        Of the windows in which it was learnt, in pixels.
    taken : sequence of Taken
        What of each plane is labelled.
    options, progress, cancel
        As for :func:`find_similar`.
    """
    searched = [PlaneFeatures(view, min(side, max(view.shape))) for view in views]
    tick = counter(sum(len(features.fields) for features in searched), progress)
    found: list[Candidate] = []
    for plane, features in enumerate(searched):
        found += search_plane(features, plane, shown, taken[plane], options, tick=tick, cancel=cancel)
    return Queue(found, shown.examples, shown.rejected, shown.around, [view.shape for view in views], options)


def search_plane(
    features: PlaneFeatures,
    plane: int,
    shown: Shown,
    taken: Taken,
    options: SimilarOptions,
    *,
    tick: Callable[[], None] | None = None,
    cancel: CancelToken | None = None,
) -> list[Candidate]:
    """Draw what of one plane may look like what was shown, where nothing is labelled.

    Parameters
    ----------
    features : PlaneFeatures
    plane : int
        Its number, for the candidates.
    shown, taken, options, cancel
        As for :func:`search_planes`.
    tick : callable, optional
        Called once a window has been compared.
    """
    scores = similarity(features, shown.prototypes, cancel, tick)
    prompts = [
        prompt
        for one, score in zip(shown.prototypes, scores, strict=True)
        for prompt in prompts_for(score, features.step, features.view.shape, one, options)
    ]
    drawn = candidates(features, plane, prompts, options, cancel)
    return [one for one in drawn if not taken.holds(one.patch, options.overlap)]


def counter(total: int, progress: Progress | None) -> Callable[[], None]:
    """Return what is called once for each of `total` parts, and tells `progress` of them."""
    numbers = itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(numbers), total)

    return tick


@dataclass(frozen=True, eq=False)
class Taken:
    """What of a plane is labelled, as labels or as single masks."""

    labels: NDArray[Any] | None
    patches: list[Patch]

    def holds(self, patch: Patch, part: float) -> bool:
        """Whether a mask is the same object as one that is there."""
        if any(overlap(patch, other) > part for other in self.patches):
            return True
        if self.labels is None:
            return False
        rows, columns, mask = patch
        under = self.labels[rows, columns][mask]
        values, counts = np.unique(under[under > 0], return_counts=True)
        area = len(under)
        return bool(counts.sum() > part * area) or any(
            count > part * min(area, self._areas[int(value)]) for value, count in zip(values, counts, strict=True)
        )

    @cached_property
    def _areas(self) -> dict[int, int]:
        """Pixels of each label."""
        values, counts = np.unique(np.asarray(self.labels), return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))


def taken_of(
    labels: ArrayLike | Sequence[ArrayLike | None] | None, views: Sequence[View], known: Sequence[Known]
) -> list[Taken]:
    """Return what of each plane is labelled: by labels, and by the examples on it.

    Raises
    ------
    InputError
        If there are not labels, or None, for each plane, or they are of another shape.
    """
    given: Sequence[Any] = [None] * len(views)
    if labels is not None:
        given = list(labels) if isinstance(labels, (list, tuple)) else [labels]
    if len(given) != len(views):
        raise InputError(f"There are {len(views)} planes but labels for {len(given)}: give one, or None, for each.")
    found = []
    for plane, (view, one) in enumerate(zip(views, given, strict=True)):
        array = None if one is None else np.asarray(one)
        if array is not None and array.shape != view.shape:
            raise InputError(f"Labels have shape {array.shape} but their plane has {view.shape}: give the plane's own.")
        found.append(Taken(array, [example.patch for example in known if example.plane == plane]))
    return found
