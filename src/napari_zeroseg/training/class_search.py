"""All objects of a learnt class: found by its map, drawn by the mask decoder, ranked in the queue of proposals.

The map of a class segmenter finds; the mask decoder draws. Places where the map rises become clicks, and a mask is as
certain as the class is probable inside it, times the IoU that the model predicts for it. What the map draws half, or
beside an object, is then drawn as the object, and pieces that fit no object are left out (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, special
from skimage.feature import peak_local_max

from napari_zeroseg.cascade import Queue, SimilarOptions
from napari_zeroseg.cascade.features import Descriptor, PlaneFeatures, Surroundings, surroundings_of
from napari_zeroseg.cascade.find import Taken, counter, taken_of
from napari_zeroseg.cascade.planes import Progress, as_view
from napari_zeroseg.cascade.search import Candidate, candidates
from napari_zeroseg.errors import InputError
from napari_zeroseg.models.sam import SamSegmenter
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.registry import list_models
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.training.classes import ClassSegmenter, class_segmenter_of, fields_of
from napari_zeroseg.view import View
from napari_zeroseg.weights.cards import has_class

if TYPE_CHECKING:
    from napari_zeroseg.embeddings import EmbeddingStore
    from napari_zeroseg.jobs import CancelToken

_SMOOTH = 0.5
"""Standard deviation, in cells of the embedding, by which the map is smoothed before its rises are looked for."""

_APART = 0.75
"""Distance in cells within which only the highest rise counts."""

_RISES = -1.0
"""Logit of the smoothed map from which a rise is a click: what is less probable rarely becomes an object."""

_DEPTH = 0.1
"""Added to the logit for each cell of depth inside what is above that."""

NOTHING = Surroundings(np.zeros(1, np.float32), np.zeros(3, np.float32))
"""Of planes on which nothing is to be seen."""

_NEAR = 1e-3
"""Probabilities are kept so far from 0 and 1."""

_MODELS, _NEARLY = 12, 0.8
"""How many candidates stand for the class where answers teach the queue, and how sure they are beside the surest."""


def find_class(
    model: Segmenter,
    pictures: ArrayLike | View | Sequence[ArrayLike | View],
    *,
    labels: ArrayLike | Sequence[ArrayLike | None] | None = None,
    options: SimilarOptions | None = None,
    store: EmbeddingStore | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Queue:
    """Propose all objects of the class that a fine-tuned model has learnt; nothing is clicked.

    Parameters
    ----------
    model : Segmenter
        From :func:`napari_zeroseg.load_model`, that was trained on a class.
    pictures : picture, View, or list of these
        The planes to search, each (H, W) or (H, W, 3) of any real dtype. A stack is a list of its planes.
    labels : (H, W) array_like of int, or list of these and of None, optional
        What is labelled on the planes already, which is not proposed again.
    options : SimilarOptions, optional
        Its `least_certainty`, `least_predicted_iou`, `overlap` and `points_per_plane` count.
    store : EmbeddingStore, optional
        Where embeddings are looked for and kept, for planes that are no views.
    progress : callable, optional
        Called with the windows that have been looked at, and how many there are.
    cancel : CancelToken, optional
        Looked at between windows and batches of prompts.

    Returns
    -------
    Queue
        A sequence of proposals, the most certain first.

    Raises
    ------
    InputError, InputTypeError
        If the model has learnt no class, or a picture cannot be worked with.
    CancelledError
    """
    options = options or SimilarOptions()
    learnt = learnt_class(model)
    several: list[Any] = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    views = [as_view(model, picture, store) for picture in several]
    if not views:
        raise InputError("There is no plane: give at least one picture to look at.")
    taken = taken_of(labels, views, [])
    tick = counter(sum(len(fields_of(view.shape, learnt.side)) for view in views), progress)
    found: list[Candidate] = []
    for plane, view in enumerate(views):
        found += search_class(learnt, view, plane, taken[plane], options, tick=tick, cancel=cancel)
    seen = next((views[one.plane] for one in found), None)
    around = NOTHING if seen is None else surroundings_of([features_of(learnt, seen)], cancel)
    return class_queue(found, around, [view.shape for view in views], options)


def learnt_class(model: Segmenter) -> ClassSegmenter:
    """Return the class segmenter that a model was trained with.

    Raises
    ------
    InputError
        If it has none.
    """
    if not isinstance(model, SamSegmenter) or not has_class(model.spec.key):
        others = ", ".join(spec.key for spec in list_models() if has_class(spec.key))
        raise InputError(
            f"{model.spec.title} has learnt no class: "
            + (f"choose one that has ({others}), or " if others else "")
            + "train one with --what class or class+all."
        )
    return class_segmenter_of(model)


def features_of(learnt: ClassSegmenter, view: View) -> PlaneFeatures:
    """A plane in the windows of the class."""
    longest = max(view.shape)
    return PlaneFeatures(view, min(learnt.side or longest, longest))


def search_class(
    learnt: ClassSegmenter,
    view: View,
    plane: int,
    taken: Taken,
    options: SimilarOptions,
    *,
    tick: Callable[[], None] | None = None,
    cancel: CancelToken | None = None,
) -> list[Candidate]:
    """Draw what of one plane may be of the class, where nothing is labelled.

    Parameters
    ----------
    learnt : ClassSegmenter
    view : View
        The plane, made with the model that learnt the class.
    plane : int
        Its number, for the candidates.
    taken : Taken
        What of it is labelled.
    options : SimilarOptions
    tick : callable, optional
        Called once a window has been looked at.
    cancel : CancelToken, optional
    """
    assert isinstance(view.model, SamSegmenter)

    def told(done: int, count: int) -> None:
        if cancel is not None:
            cancel.raise_if_cancelled()
        if tick is not None:
            tick()

    seen = learnt.segment(view.model, view, told)
    probability, features = seen.probability, features_of(learnt, view)
    takes_points = PromptKind.POINTS in view.model.spec.accepts
    if takes_points:
        prompts = clicks_on(probability, features.step, options.points_per_plane)
    else:
        prompts, options = boxes_on(seen.instances), replace(options, least_predicted_iou=0.0)
    found = []
    for one in candidates(features, plane, prompts, options, cancel):
        rows, columns, mask = one.patch
        inside = float(probability[rows, columns][mask].mean())
        # models of boxes alone were not taught to judge their masks
        trust = min(one.predicted_iou, 1.0) if takes_points else 1.0
        if not taken.holds(one.patch, options.overlap):
            found.append(replace(one, given=inside * trust))
    return found


def clicks_on(probability: NDArray[np.float32], step: float, per_megapixel: int) -> list[Prompt]:
    """Points where the map of a class rises, the most probable first.

    Parameters
    ----------
    probability : (H, W) float32 array
    step : float
        Side of the embedding's cells in pixels.
    per_megapixel : int
        Points at most for each million pixels.
    """
    logits = special.logit(np.clip(probability, _NEAR, 1 - _NEAR))
    smooth = ndimage.gaussian_filter(logits, _SMOOTH * step, mode="nearest")
    # where all of an object is equally probable, its middle is the place to click
    smooth += _DEPTH * ndimage.distance_transform_edt(np.pad(smooth > _RISES, 1))[1:-1, 1:-1] / step
    places = peak_local_max(
        smooth,
        min_distance=max(1, round(_APART * step)),
        threshold_abs=_RISES,
        exclude_border=False,
        num_peaks=max(8, round(per_megapixel * probability.size / 1e6)),
    )
    return [Prompt([(float(row), float(column))]) for row, column in places]


def boxes_on(instances: NDArray[np.int32]) -> list[Prompt]:
    """Boxes around the objects of a class's map, for models that take no points."""
    return [
        Prompt(box=(rows.start, columns.start, rows.stop - 1, columns.stop - 1))
        for rows, columns in filter(None, ndimage.find_objects(instances))
        if rows.stop - rows.start > 1 and columns.stop - columns.start > 1
    ]


def class_queue(
    found: Sequence[Candidate],
    around: Surroundings,
    shapes: Sequence[tuple[int, int]],
    options: SimilarOptions,
    rejected: Sequence[Descriptor] = (),
) -> Queue:
    """Rank candidates of a learnt class.

    The surest of them stand for the class, so that answers can teach the queue: what is more like a rejected one sinks,
    and so is what is like those that earlier answers have `rejected`.
    """
    sure = {id(one): one.given or 0.0 for one in found}
    surest = sorted(found, key=lambda one: -sure[id(one)])[:_MODELS]
    chosen = [one.descriptor for one in surest if sure[id(one)] >= _NEARLY * sure[id(surest[0])]]
    examples: dict[int, list[Descriptor]] = {1: chosen}
    return Queue(found, examples, {1: list(rejected)}, around, shapes, options)
