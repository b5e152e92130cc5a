"""Ways of labelling a plane: what looks like examples, what words name, a detector's boxes, the votes of masks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import instances
from napari_zeroseg.automatic import AutomaticOptions, segment_everything
from napari_zeroseg.cascade import (
    Detector,
    Example,
    Queue,
    SimilarOptions,
    TextOptions,
    segment_detected,
    segment_text,
    vote,
)
from napari_zeroseg.cascade.find import search_planes, taken_of
from napari_zeroseg.cascade.heat import heat_of, is_taught
from napari_zeroseg.cascade.search import side_for
from napari_zeroseg.cascade.shown import Known, Shown, learn_from
from napari_zeroseg.cascade.taught import absent
from napari_zeroseg.cascade.text import not_read
from napari_zeroseg.cascade.words import Word, find_word, load_word, taught_words
from napari_zeroseg.embeddings import default_store
from napari_zeroseg.errors import InputError, WeightsError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.io.label_files import labels_on
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.read import open_image
from napari_zeroseg.planes import Planes, check_picture
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Patch, Segmenter
from napari_zeroseg.training.class_search import find_class, learnt_class
from napari_zeroseg.view import View
from napari_zeroseg.word_files import spoken

_EXAMPLES = 64
"""Examples at most that a stack is searched by, spread over its labelled planes: more say nothing new."""


@dataclass(frozen=True)
class FindRun:
    """What to find in a file.

    Attributes
    ----------
    source, out : Path
        The picture or stack, and where its labels go.
    like : Path, optional
        Labels of the same planes, 0 where nothing is known: all objects that look like them are found.
    word : str, optional
        A word that was taught.
    text : sequence of str
        Phrases: words that were taught, or for a model that takes text.
    vote : Path, optional
        A map of classes of the same planes, which gets the outlines of masks.
    planes : str, optional
        As for ``zeroseg segment``.
    contrast : tuple of float, optional
    similar : SimilarOptions
    words : TextOptions
    masks : AutomaticOptions
        Which masks vote.
    by_class : bool
        Write classes (the phrase's number) in place of a number for each object.
    overwrite : bool
    detector : str, optional
        A detector's folder or repository: what it finds is drawn; `text` is what it is asked for.
    detector_threshold : float
        Certainty from which its boxes are drawn.
    heat : Path, optional
        Where the probabilities of the phrases of `text` go, one channel each.
    examples : Path, optional
        The picture that `like` labels, where that is another one than `source`.
    learnt : bool
        All objects of the class that the model was trained for.
    given : sequence of str
        Options of ``zeroseg find`` that the user has set; one that means nothing for these phrases is refused.
    """

    source: Path
    out: Path
    like: Path | None = None
    word: str | None = None
    text: Sequence[str] = ()
    vote: Path | None = None
    planes: str | None = None
    contrast: tuple[float, ...] | None = None
    similar: SimilarOptions = field(default_factory=SimilarOptions)
    words: TextOptions = field(default_factory=TextOptions)
    masks: AutomaticOptions = field(default_factory=AutomaticOptions)
    by_class: bool = False
    overwrite: bool = False
    detector: str | None = None
    detector_threshold: float = 0.3
    heat: Path | None = None
    examples: Path | None = None
    learnt: bool = False
    given: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """One plane: its labels, what is told of it, and how probable each phrase that was read is at each pixel."""

    labels: NDArray[Any]
    told: Mapping[str, Any]
    heat: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Way(Protocol):
    """What is done with a plane."""

    def __call__(self, view: View, plane: int, first: int) -> Found:
        """Label a plane; new objects are numbered from `first`."""
        ...


class Sight:
    """Planes of a file as a model sees them.

    Parameters
    ----------
    series : Planes
    picture : Picture
        Whose contrast is taken where none is given.
    contrast : tuple of float or None
    model : Segmenter or None
    """

    def __init__(
        self, series: Planes, picture: Picture, contrast: tuple[float, ...] | None, model: Segmenter | None
    ) -> None:
        self.series = series
        given = contrast or picture.metadata.get("contrast_limits")
        self._limits = None if given is None else (float(given[0]), float(given[1]))
        self._model = model
        self._store = default_store(64 * 2**20)

    def __call__(self, plane: int) -> View:
        """Return a plane with its contrast.

        Raises
        ------
        InputError, ReadError
        """
        assert self._model is not None
        pixels = self.series.read(plane)
        check_picture(pixels)
        return View(self._model, to_uint8(pixels, self._limits), self._store)


def way_of(job: FindRun, model: Segmenter, load_reader: Callable[[], Any], see: Sight) -> Way:
    """Return what is to be done with each plane of a run.

    Parameters
    ----------
    job : FindRun
    model : Segmenter
        That draws.
    load_reader : callable
        Loads the model that reads phrases, or the detector; called if it is needed.
    see : Sight

    Raises
    ------
    InputError
        If the run names nothing to find, or more than one way of finding it.
    ReadError, WeightsError
    """
    _check_one(job)
    if job.learnt:
        return _by_class(job, model)
    if job.detector is not None:
        return _by_detector(job, load_reader(), model)
    if job.text:
        if PromptKind.TEXT in model.spec.accepts:
            return _by_text_alone(job, model)
        return _by_text(job, load_reader, model)
    if job.vote is not None:
        return _by_vote(labels_of(job.vote, see.series), model, job.masks)
    if job.word is not None:
        if PromptKind.TEXT in model.spec.accepts:
            raise InputError(f"{model.spec.title} reads words as text: give --text {job.word!r} in place of --word.")
        return _by_word(job, load_word(job.word), model)
    return _by_examples(job, model, see)


def _check_one(job: FindRun) -> None:
    """Raise unless a run names one way of finding, with what belongs to it."""
    given = [name for name in ("like", "word", "text", "vote", "detector", "learnt") if getattr(job, name)]
    if len(given) != 1 and given != ["text", "detector"]:
        raise InputError(
            "Give one of what to find: labelled examples, a taught word, phrases, a map to vote on, a detector, or the "
            "class that the model has learnt."
        )
    if job.heat is not None and (given != ["text"]):
        raise InputError("--heat writes how probable phrases are: it goes with --text alone.")
    if job.examples is not None and job.like is None:
        raise InputError("--examples is the picture of the labels of --like: give these too, or leave it out.")


def labels_of(path: Path, series: Planes, picture: str = "the picture") -> Planes:
    """Return labels of the same planes as those of a picture, as :func:`labels_on` does."""
    return labels_on(path, series, picture, " (of another picture, for --like, name it by --examples)")


def _by_examples(job: FindRun, model: Segmenter, see: Sight) -> Way:
    assert job.like is not None
    shown, labels = see, labels_of(job.like, see.series) if job.examples is None else None
    if job.examples is not None:
        other = open_image(job.examples.expanduser())
        shown = Sight(other.planes(), other, job.contrast, model)
    given = labels_of(job.like, shown.series, str(job.examples)) if labels is None else labels
    learnt, side = _learnt(job, given, model, shown, see.series.plane_shape)

    def do(view: View, plane: int, first: int) -> Found:
        there = np.zeros(view.shape, np.int32) if labels is None else np.asarray(labels.read(plane))
        queue = search_planes([view], learnt, side, taken_of(there, [view], []), job.similar)
        return _with(there, queue, first)

    return do


def _learnt(job: FindRun, labels: Planes, model: Segmenter, see: Sight, searched: tuple[int, int]) -> tuple[Shown, int]:
    """What the labelled objects look like, and the side of windows for planes of the shape `searched`."""
    marked = [(plane, label) for plane in range(len(labels)) for label in _present(labels.read(plane))]
    if not marked:
        raise InputError(f"{job.like} holds no label: mark at least one object.")
    known: list[Known] = []
    # only what is shown is drawn as masks: there may be thousands of labels
    for plane, several in itertools.groupby(marked[:: -(-len(marked) // _EXAMPLES)], key=lambda one: one[0]):
        here, view = np.asarray(labels.read(plane)), see(plane)
        known += [Known.of(Example(here == label, label=1, picture=view), model, [], None) for _, label in several]
    side = side_for(searched, [one.patch for one in known], job.similar)
    return learn_from(known, [], side, None), side


def _present(labels: NDArray[Any]) -> list[int]:
    array = np.asarray(labels)
    return [int(label) for label in np.unique(array[array > 0])]


def _by_word(job: FindRun, word: Word, model: Segmenter) -> Way:
    def do(view: View, plane: int, first: int) -> Found:
        return _with(np.zeros(view.shape, np.int32), find_word(model, view, word, options=job.similar), first)

    return do


def _by_class(job: FindRun, model: Segmenter) -> Way:
    learnt_class(model)  # before a plane is read

    def do(view: View, plane: int, first: int) -> Found:
        queue = find_class(model, view, options=job.similar)
        return _with(np.zeros(view.shape, np.int32), queue, first)

    return do


def _with(known: NDArray[Any], queue: Queue, first: int) -> Found:
    new = queue.to_labels(0, first)
    told = {
        "objects": len(queue),
        "absence": round(queue.absence(), 3),
        "certainty": [round(one.certainty, 3) for one in queue],
    }
    return Found(np.where(known > 0, known.astype(np.int64), new), told)


def _by_text(job: FindRun, load_reader: Callable[[], Any], model: Segmenter) -> Way:
    """Phrases: those that were taught by their prototypes, the others by the model that reads.

    Raises
    ------
    InputError
        If an option was given for phrases of which there are none.
    """
    known = {spoken(word) for word in taught_words()}
    alike = {phrase: " ".join(phrase.casefold().split()) for phrase in job.text}
    words = [(number, load_word(phrase)) for number, phrase in enumerate(job.text, 1) if alike[phrase] in known]
    # a word that another model has learnt means nothing to this one
    taught = [(number, word) for number, word in words if word.model_key == model.model_key]
    mine = {number for number, _ in taught}
    others = [(number, phrase) for number, phrase in enumerate(job.text, 1) if number not in mine]
    if not others:
        _refuse(
            job,
            ("heat", "threshold", "without", "template", "text_model"),
            "all of these words were taught by examples",
        )
    if not taught:
        _refuse(job, ("certainty",), f"none of these words was taught to {model.spec.title}")
    reader = _reader_for([phrase for _, phrase in others], known, alike, model, load_reader) if others else None

    def do(view: View, plane: int, first: int) -> Found:
        labels = np.zeros(view.shape, np.int32)
        told: dict[str, Any] = {"objects": 0, "phrases": [], "notes": []}
        heat: dict[str, NDArray[Any]] = {}

        def draw(patch: Patch, number: int) -> None:
            value = number if job.by_class else first + told["objects"]
            instances.write(labels, patch, value, OverlapPolicy.EMPTY)
            told["objects"] += 1
            told["phrases"].append(job.text[number - 1])

        for number, word in taught:
            queue = find_word(model, view, word, options=job.similar)
            for proposal in queue:
                draw(proposal.patch, number)
            if not len(queue):
                told["notes"].append(f"{word.word!r} is absent here with {queue.absence():.2f}.")
        if reader is not None:
            result = segment_text(view, [phrase for _, phrase in others], reader, model, job.words)
            told["taught"] = _by_vector(reader, [phrase for _, phrase in others])
            for one in result.instances:
                draw(one.patch, others[one.label - 1][0])
            told["notes"] += result.notes
            heat = dict(zip(result.phrases, result.heat, strict=True))
        return Found(labels, told, heat)

    return do


def _by_text_alone(job: FindRun, text_model: Segmenter) -> Way:
    """What the model that reads finds by itself, as classes: it knows no objects."""
    _refuse(job, ("certainty", "text_model"), f"{text_model.spec.title} reads the words and draws them itself")
    unwanted = [phrase for phrase in job.words.negatives if phrase not in job.text]
    notes = not_read(text_model, job.text)

    def do(view: View, plane: int, first: int) -> Found:
        asked = [*job.text, *unwanted]
        probable = heat_of(text_model, view.picture, asked, job.words.templates, job.words.tile)
        best = probable.argmax(0)
        found = (probable.max(0) > job.words.threshold) & (best < len(job.text))
        labels = np.where(found, best + 1, 0).astype(np.int32)
        there = [job.text[i - 1] for i in np.unique(labels[labels > 0])]
        taught = _by_vector(text_model, job.text)
        missed = [
            f"{phrase!r} is absent here with {absent(one):.2f}."
            for phrase, one in zip(job.text, probable, strict=False)
            if phrase in taught and phrase not in there
        ]
        told = {"objects": len(there), "phrases": there, "taught": taught, "notes": [*notes, *missed]}
        return Found(labels, told, dict(zip(job.text, probable, strict=False)))

    return do


def _reader_for(
    phrases: Sequence[str],
    known: Collection[str],
    alike: Mapping[str, str],
    model: Segmenter,
    load_reader: Callable[[], Any],
) -> Any:
    """The model that reads; where it is not here, it is told what it was wanted for."""
    try:
        return load_reader()
    except WeightsError as error:
        elsewhere = [phrase for phrase in phrases if alike[phrase] in known]
        named = ", ".join(map(repr, phrases))
        hint = f"It is wanted for {named}: `zeroseg teach` teaches words to {model.spec.title} by examples."
        if elsewhere:
            hint = (
                f"{elsewhere[0]!r} was taught to another model or precision: choose that one, or teach it to this too."
            )
        raise WeightsError(f"{error} {hint}") from error


def _refuse(job: FindRun, options: Sequence[str], why: str) -> None:
    meant = [name for name in options if name in job.given]
    if meant:
        raise InputError(f"--{meant[0].replace('_', '-')} means nothing here, since {why}: leave it out.")


def _by_vector(reader: Segmenter, phrases: Sequence[str]) -> list[str]:
    """Those phrases for which a fitted vector stands in the model that reads."""
    return [phrase for phrase in phrases if is_taught(reader, phrase)]


def _by_detector(job: FindRun, detector: Detector, model: Segmenter) -> Way:
    by = "class" if job.by_class else "instance"

    def do(view: View, plane: int, first: int) -> Found:
        labels, found = segment_detected(model, view, detector, list(job.text), threshold=job.detector_threshold, by=by)
        if not job.by_class:
            labels[labels > 0] += first - 1
        told = {"objects": len(found.boxes), "names": found.names, "certainty": [round(s, 3) for s in found.scores]}
        if not len(found.boxes):
            told["notes"] = [f"{detector.title} found nothing above {job.detector_threshold:g}: lower the threshold."]
        return Found(labels, told)

    return do


def _by_vote(classes: Planes, model: Segmenter, options: AutomaticOptions) -> Way:
    def do(view: View, plane: int, first: int) -> Found:
        given = np.asarray(classes.read(plane))
        given = given.astype(np.int64) if given.dtype.kind == "f" else given
        masks = segment_everything(model, view, options)
        voted = vote(masks, given)
        return Found(voted, {"objects": len(masks), "changed": int(np.count_nonzero(voted != given))})

    return do
