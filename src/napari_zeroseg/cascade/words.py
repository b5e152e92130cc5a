"""Taught words: what examples have shown, kept under a name with the user's models, to be asked for later."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from napari_zeroseg.cascade.features import Descriptor, Surroundings
from napari_zeroseg.cascade.find import search_planes, taken_of
from napari_zeroseg.cascade.options import SimilarOptions
from napari_zeroseg.cascade.planes import Progress, as_view
from napari_zeroseg.cascade.prototypes import learn
from napari_zeroseg.cascade.queue import Queue
from napari_zeroseg.cascade.search import side_for
from napari_zeroseg.cascade.shown import Known, Shown, examples_of, learn_from
from napari_zeroseg.cascade.text import segment_text
from napari_zeroseg.errors import InputError
from napari_zeroseg.metrics import iou
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.view import View
from napari_zeroseg.word_files import folder_of, spoken, words_folder, write_folder

if TYPE_CHECKING:
    from napari_zeroseg.embeddings import EmbeddingStore
    from napari_zeroseg.jobs import CancelToken

CARD, TENSORS = "card.json", "word.safetensors"
_PARTS = ("inside", "outside", "tone", "area")
_HELD_OUT = 0.25
"""Part of the planes, the last ones, on which a word is tried: neighbours are much alike, so it is one block."""


@dataclass(frozen=True)
class Trial:
    """How well a word does on planes that it was not learnt from.

    Attributes
    ----------
    after : float or None
        IoU of all that is found with all that is labelled, mean over the planes; None where no plane could be held out.
    before : float or None
        The same of the words themselves, by a model that takes text; None where there was none.
    absence : float or None
        Mean of "absent here" over these planes, where the word is present: it should be low.
    planes : int
        How many were held out.
    """

    after: float | None = None
    before: float | None = None
    absence: float | None = None
    planes: int = 0


@dataclass(frozen=True, eq=False)
class Word:
    """A name, and what it looks like to one model.

    Attributes
    ----------
    word : str
    model_key : str
        Of the model by whose embeddings it was learnt; no other can use it.
    shown : Shown
        What was learnt from all labelled planes.
    side : int
        Of the windows in which it was learnt, in pixels.
    trial : Trial
    date : str
        When it was taught (ISO, UTC).
    """

    word: str
    model_key: str
    shown: Shown
    side: int
    trial: Trial = field(default_factory=Trial)
    date: str = ""


def teach(
    word: str,
    model: Segmenter,
    pictures: Sequence[ArrayLike | View],
    labels: Sequence[ArrayLike],
    *,
    text_model: Segmenter | None = None,
    options: SimilarOptions | None = None,
    store: EmbeddingStore | None = None,
    cancel: CancelToken | None = None,
) -> Word:
    """Teach a word from labelled planes, and try it on a quarter of them that it has not seen.

    Parameters
    ----------
    word : str
        One or several words; capitals and spaces make no difference.
    model : Segmenter
        As for :func:`find_similar`.
    pictures : sequence of picture or View
    labels : sequence of (H, W) array_like of int
        Objects of the word on each plane, each with a number; 0 is background.
    text_model : Segmenter, optional
        To compare with what the bare word finds.
    options, store, cancel : optional
        As for :func:`find_similar`.

    Returns
    -------
    Word
        Not kept yet: see :func:`save_word`.

    Raises
    ------
    InputError
        If nothing is labelled, the planes and labels do not match, or the word cannot be a name.
    CancelledError
    """
    name, options = spoken(word), options or SimilarOptions()
    planes, labelled = checked_labels(name, len(pictures), labels)
    views = [as_view(model, picture, store) for picture in pictures]
    held = held_out(labelled)
    trial = Trial()
    if held:
        first, side = _learnt(model, views, planes, [i for i in labelled if i not in held], options, cancel)
        trial = _tried(name, first, side, [(views[i], planes[i]) for i in held], model, text_model, options, cancel)
    shown, side = _learnt(model, views, planes, labelled, options, cancel)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Word(name, model.model_key, shown, side, trial, date)


def checked_labels(word: str, count: int, labels: Sequence[ArrayLike]) -> tuple[list[NDArray[Any]], list[int]]:
    """Return the labels of `count` planes, and which planes hold any.

    Raises
    ------
    InputError
        If their number is another one, or nothing is labelled.
    """
    if count != len(labels):
        raise InputError(f"There are {count} planes but labels for {len(labels)}: give labels for each.")
    planes = [np.asarray(one) for one in labels]
    labelled = [i for i, plane in enumerate(planes) if plane.any()]
    if not labelled:
        raise InputError(f"Nothing is labelled, so {word!r} cannot be taught: give labels of at least one object.")
    return planes, labelled


def held_out(labelled: Sequence[int]) -> list[int]:
    """Return those of the labelled planes on which a word is tried, and which it is not learnt from for that."""
    return list(labelled[len(labelled) - round(_HELD_OUT * len(labelled) + 0.25) :]) if len(labelled) > 1 else []


def find_word(
    model: Segmenter,
    pictures: ArrayLike | View | Sequence[ArrayLike | View],
    word: Word | str,
    *,
    labels: ArrayLike | Sequence[ArrayLike | None] | None = None,
    options: SimilarOptions | None = None,
    store: EmbeddingStore | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Queue:
    """Propose all objects of a taught word; :meth:`Queue.absence` says how sure it is that a plane has none.

    Parameters are those of :func:`find_similar`, with a word in place of examples.

    Raises
    ------
    InputError
        If the word has not been taught, or to another model.
    """
    known = load_word(word) if isinstance(word, str) else word
    if known.model_key != model.model_key:
        raise InputError(f"{known.word!r} was taught to another model or precision: teach it to this one too.")
    several: list[Any] = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    views = [as_view(model, picture, store) for picture in several]
    taken = taken_of(labels, views, [])
    return search_planes(
        views, known.shown, known.side, taken, options or SimilarOptions(), progress=progress, cancel=cancel
    )


def _learnt(
    model: Segmenter,
    views: Sequence[View],
    planes: Sequence[NDArray[Any]],
    chosen: Sequence[int],
    options: SimilarOptions,
    cancel: CancelToken | None,
) -> tuple[Shown, int]:
    known = [Known.of(one, model, views, None) for i in chosen for one in examples_of(planes[i], i)]
    side = side_for(views[chosen[0]].shape, [one.patch for one in known], options)
    return learn_from(known, [], side, cancel), side


def _tried(
    word: str,
    shown: Shown,
    side: int,
    held: Sequence[tuple[View, NDArray[Any]]],
    model: Segmenter,
    text_model: Segmenter | None,
    options: SimilarOptions,
    cancel: CancelToken | None,
) -> Trial:
    after, before, absence = [], [], []
    for view, truth in held:
        queue = search_planes([view], shown, side, taken_of(None, [view], []), options, cancel=cancel)
        after.append(iou(queue.to_labels() > 0, truth > 0))
        absence.append(queue.absence())
        if text_model is not None:
            found = segment_text(view, [word], text_model, model, cancel=cancel)
            before.append(iou(found.to_labels() > 0, truth > 0))
    return Trial(float(np.mean(after)), float(np.mean(before)) if before else None, float(np.mean(absence)), len(held))


def taught_words() -> list[str]:
    """Return all words that were taught, by name."""
    found = []
    for path in sorted(words_folder().glob(f"*/{CARD}")):
        try:
            found.append(str(json.loads(path.read_text(encoding="utf-8"))["word"]))
        except (OSError, ValueError, KeyError, TypeError):  # load_word says what is wrong with it
            continue
    return found


def save_word(word: Word) -> Path:
    """Keep a word; one of the same name is replaced.

    Returns
    -------
    Path
        Its folder, with the tensors and a card.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    folder = folder_of(word.word)
    one = word.shown.prototypes[0]
    described = word.shown.examples[one.label]
    tensors = {part: np.stack([np.atleast_1d(getattr(d, part)) for d in described]) for part in _PARTS}
    tensors = {key: np.asarray(value, np.float32) for key, value in tensors.items()}
    tensors |= {"centre": word.shown.around.centre, "tone_spread": word.shown.around.tone_spread}
    card = {
        "word": word.word,
        "model_key": word.model_key,
        "side": word.side,
        "threshold": one.threshold,
        "examples": len(described),
        "trial": asdict(word.trial),
        "date": word.date,
    }
    write_folder(folder, (CARD, card), (TENSORS, tensors))
    return folder


def load_word(word: str) -> Word:
    """Read a word that was taught.

    Raises
    ------
    InputError
        If there is none, or its files are damaged.
    """
    folder = folder_of(word)
    if not (folder / CARD).is_file():
        known = ", ".join(taught_words()) or "none yet"
        raise InputError(f"{spoken(word)!r} has not been taught; words that have: {known}.")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        around = Surroundings(tensors["centre"], tensors["tone_spread"])
        examples = [
            Descriptor(inside, outside, tone, int(area[0]))
            for inside, outside, tone, area in zip(*(tensors[part] for part in _PARTS), strict=True)
        ]
        prototypes = learn(1, examples, around, threshold=float(card["threshold"]))
        shown = Shown([prototypes], {1: examples}, {1: []}, around)
        trial = Trial(**card["trial"])
        return Word(card["word"], card["model_key"], shown, int(card["side"]), trial, card["date"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"What was kept of {spoken(word)!r} in {folder} is damaged ({error}): teach it anew."
        ) from error
