"""Words taught to a model that reads: the vector that stands for a phrase is fitted to examples, nothing else is."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.cascade.heat import blended, windows
from napari_zeroseg.cascade.planes import Progress, as_view
from napari_zeroseg.cascade.words import Trial, checked_labels, held_out
from napari_zeroseg.errors import InputError
from napari_zeroseg.metrics import iou
from napari_zeroseg.models.clipseg_taught import read_condition, write_condition
from napari_zeroseg.models.probability_frame import heat_map
from napari_zeroseg.planes import is_flat
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.tiling import Field
from napari_zeroseg.view import View
from napari_zeroseg.word_files import spoken

if TYPE_CHECKING:
    from napari_zeroseg.embeddings import EmbeddingStore
    from napari_zeroseg.jobs import CancelToken
    from napari_zeroseg.models.clipseg import ClipSegSegmenter
    from napari_zeroseg.models.clipseg_fit import FitOptions

_MOST = 64
"""Windows at most from which a vector is fitted: their activations, 4.5 MB each, are held in memory."""

_THRESHOLD = 0.5
"""Probability above which a pixel counts as found when a vector is tried."""


@dataclass(frozen=True, eq=False)
class TaughtPhrase:
    """A phrase, and the vector that stands for it in one model.

    Attributes
    ----------
    word : str
    model_key : str
        Of the model that it was fitted for; no other can use it.
    condition : (P,) float32 array
        What the model's decoder is steered by in place of the phrase's own embedding.
    trial : Trial
        IoU of the map above one half with all that is labelled, on planes that were held out, by the bare word and by
        the fitted vector; "absent here" is 1 less the highest probability on a plane.
    steps : int
        Steps in which it was fitted.
    date : str
        When it was taught (ISO, UTC).
    """

    word: str
    model_key: str
    condition: NDArray[np.float32]
    trial: Trial = field(default_factory=Trial)
    steps: int = 0
    date: str = ""


def teach_phrase(
    word: str,
    text_model: Segmenter,
    pictures: Sequence[ArrayLike | View],
    labels: Sequence[ArrayLike],
    *,
    options: FitOptions | None = None,
    store: EmbeddingStore | None = None,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
) -> TaughtPhrase:
    """Fit the vector of a word to labelled planes, and try it on a quarter of them that it has not seen.

    The vector begins as the word's own text embedding. All weights of the model stay as they are, and so does what it
    makes of other words (Lüddecke and Ecker, "Image segmentation using text and image prompts", CVPR 2022, mix such
    vectors of words and pictures; here one is fitted).

    Parameters
    ----------
    word : str
        One or several words; capitals and spaces make no difference.
    text_model : Segmenter
        CLIPSeg.
    pictures : sequence of picture or View
        A view of `text_model` brings its own embeddings.
    labels : sequence of (H, W) array_like of int
        All objects of the word on each plane; 0 is background. Planes without a label are not used.
    options : FitOptions, optional
    store : EmbeddingStore, optional
        Where embeddings are looked for and kept.
    cancel : CancelToken, optional
    progress : callable, optional
        Called with the steps of the fit that were taken, and the most there can be.

    Returns
    -------
    TaughtPhrase
        Not kept yet: see :func:`save_phrase`.

    Raises
    ------
    InputError
        If nothing is labelled, the planes and labels do not match, the word cannot be a name or the model has no
        vectors to fit.
    WeightsError
        If the model's vocabulary is missing.
    CancelledError
    """
    from napari_zeroseg.models.clipseg_fit import fit_condition

    name, model = spoken(word), _fittable(text_model)
    planes, labelled = checked_labels(name, len(pictures), labels)
    views = [as_view(model, picture, store) for picture in pictures]
    _check_shapes(views, planes, labelled)
    (start,) = model.text_conditions([name], bare=True)

    def fit(chosen: Sequence[int]) -> tuple[NDArray[np.float32], int]:
        shown = _shown([views[i] for i in chosen], [planes[i] for i in chosen])
        fitted = fit_condition(
            model,
            [one[0] for one in shown],
            [one[1] for one in shown],
            start,
            options,
            cancel=cancel,
            progress=progress,
        )
        return fitted.condition, fitted.steps

    held = held_out(labelled)
    trial = Trial()
    if held:
        first, _ = fit([i for i in labelled if i not in held])
        trial = _tried(model, np.stack([start, first]), [(views[i], planes[i] > 0) for i in held], cancel)
    condition, steps = fit(labelled)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return TaughtPhrase(name, model.model_key, condition, trial, steps, date)


def save_phrase(phrase: TaughtPhrase) -> Path:
    """Keep a taught phrase beside the user's models; its model uses the vector from now on.

    Returns
    -------
    Path
        Its folder, with the tensor and a card.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    about = {"trial": asdict(phrase.trial), "steps": phrase.steps, "date": phrase.date}
    return write_condition(phrase.word, phrase.model_key, phrase.condition, about)


def load_phrase(word: str, text_model: Segmenter) -> TaughtPhrase:
    """Read a phrase that was taught to a model.

    Raises
    ------
    InputError
        If it was not, or its files are damaged.
    """
    found = read_condition(word, text_model.model_key)
    if found is None:
        raise InputError(f"{spoken(word)!r} has not been taught to {text_model.spec.title}: teach it to this model.")
    condition, card = found
    try:
        trial = Trial(**card["trial"])
        return TaughtPhrase(card["word"], card["model_key"], condition, trial, int(card["steps"]), card["date"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"What was kept of {spoken(word)!r} is damaged ({error}): teach it anew.") from error


def _fittable(text_model: Segmenter) -> ClipSegSegmenter:
    from napari_zeroseg.models.clipseg import ClipSegSegmenter

    if not isinstance(text_model, ClipSegSegmenter):
        raise InputError(f"{text_model.spec.title} has no vectors of words to fit: choose CLIPSeg, or one that draws.")
    return text_model


def _check_shapes(views: Sequence[View], planes: Sequence[NDArray[Any]], labelled: Sequence[int]) -> None:
    for i in labelled:
        if planes[i].shape != views[i].shape:
            raise InputError(
                f"Plane {i} has shape {views[i].shape} but its labels {planes[i].shape}: give labels of its own shape."
            )


def _shown(views: Sequence[View], planes: Sequence[NDArray[Any]]) -> list[tuple[Any, Any]]:
    """Embeddings of windows, encoded once each, with what is labelled in them; at most 64, and first those with any."""
    from napari_zeroseg.models.clipseg_fit import target_of

    there = [(view, one, plane[one.slices] > 0) for view, plane in zip(views, planes, strict=True) for one in _of(view)]
    marked = [each for each in there if each[2].any()]
    empty = [each for each in there if not each[2].any()]
    chosen = _spread(marked, _MOST)
    chosen += _spread(empty, _MOST - len(chosen))
    return [(view.embedding(one), target_of(mask)) for view, one, mask in chosen]


def _of(view: View) -> list[Field]:
    return [one for one in windows(view.shape) if not is_flat(view.picture[one.slices])]


def _spread(several: list[Any], most: int) -> list[Any]:
    """At most so many, evenly chosen."""
    if len(several) <= most:
        return several
    return [several[i] for i in np.linspace(0, len(several) - 1, most).round().astype(int)] if most else []


def _tried(
    model: ClipSegSegmenter,
    conditions: NDArray[np.float32],
    held: Sequence[tuple[View, NDArray[np.bool_]]],
    cancel: CancelToken | None,
) -> Trial:
    """IoU by the bare word's vector and by the fitted one."""
    scores, absence = [], []
    for view, truth in held:

        def look(one: Field, view: View = view) -> Iterator[NDArray[np.float32]]:
            answers = model.predict_conditions(view.embedding(one), conditions)
            return (heat_map(answer) for answer in answers)

        maps = blended(view.picture, 2, look, cancel=cancel)
        scores.append([iou(one > _THRESHOLD, truth) for one in maps])
        absence.append(absent(maps[1]))
    before, after = np.mean(scores, 0)
    return Trial(float(after), float(before), float(np.mean(absence)), len(held))


def absent(heat: NDArray[np.float16]) -> float:
    """Say how sure a model of words is that a phrase is nowhere on a plane: 1 less its highest probability.

    Parameters
    ----------
    heat : (H, W) array
        Its probabilities.
    """
    return 1.0 - float(heat.max())
