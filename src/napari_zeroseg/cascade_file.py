"""Files in, labels out: the rest of what is labelled, what words name, and the votes of masks over a map."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import instances, provenance
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
from napari_zeroseg.cascade.shown import Known, learn_from
from napari_zeroseg.cascade.taught import absent
from napari_zeroseg.cascade.text import not_read
from napari_zeroseg.cascade.words import Word, find_word, load_word, taught_words
from napari_zeroseg.embeddings import default_store
from napari_zeroseg.errors import InputError, InputTypeError, ReadError, WriteError, ZerosegError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import checked_target
from napari_zeroseg.io.write import LabelsWriter, discard, is_growing, journal_of, planes_in
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.planes import Planes, check_picture, planes_of
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Patch, Segmenter
from napari_zeroseg.view import View
from napari_zeroseg.word_files import LONGEST, folder_of, spoken, words_folder

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


@dataclass(frozen=True)
class _Found:
    """One plane: its labels, and what is told of it."""

    labels: NDArray[Any]
    told: Mapping[str, Any]


class _Way(Protocol):
    """What is done with a plane."""

    def __call__(self, view: View, plane: int, first: int) -> _Found:
        """Label a plane; new objects are numbered from `first`."""
        ...


def find_file(
    job: FindRun,
    load: Callable[[], Segmenter],
    load_reader: Callable[[], Any],
    bar: Callable[[int, int], Any],
) -> dict[str, Any]:
    """Label ``job.source`` in ``job.out``, with the provenance as JSON beside it.

    Planes that an interrupted run of the same settings has done are not done again.

    Parameters
    ----------
    job : FindRun
    load, load_reader : callable
        Load the model that draws, and the one that reads phrases, or the detector; each is called if it is needed.
    bar : callable
        Makes a progress bar from (planes in all, planes already done).

    Returns
    -------
    dict
        The report on all planes with the provenance.

    Raises
    ------
    InputError, ReadError, WriteError, WeightsError
    """
    out = checked_target(job.out)
    sources = [path.expanduser() for path in (job.source, job.like, job.vote) if path is not None]
    _check_apart(out, sources)
    with only_run_on(out):
        picture = open_image(sources[0])
        series = picture.planes()
        planes = planes_of(job.planes, len(series))
        model = load()
        readers: list[Any] = []

        def reader() -> Any:
            readers.append(load_reader())
            return readers[0]

        see = Sight(series, picture, job.contrast, model)
        way = _way(job, model, reader, see)
        settings = _settings(job, model, readers, planes)
        run = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        if out.exists() and not job.overwrite and not is_growing(out):
            return _there_already(out, run)
        return _write(job, _writer(job, out, picture, series, run), run, settings, see, planes, way, bar)


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


def _way(job: FindRun, model: Segmenter, load_reader: Callable[[], Any], see: Sight) -> _Way:
    given = [name for name in ("like", "word", "text", "vote", "detector") if getattr(job, name)]
    if len(given) != 1 and given != ["text", "detector"]:
        raise InputError(
            "Give one of what to find: labelled examples, a taught word, phrases, a map to vote on, or a detector."
        )
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
    assert job.like is not None
    return _by_examples(job, labels_of(job.like, see.series), model, see)


def labels_of(path: Path, series: Planes) -> Planes:
    """Return labels of the same planes as those of a picture.

    Raises
    ------
    InputError
        If they are of others.
    ReadError
    """
    labels = open_image(path.expanduser()).planes()
    if len(labels) != len(series) or labels.plane_shape != series.plane_shape:
        raise InputError(
            f"{path} has {len(labels)} planes of {labels.plane_shape}, but the picture {len(series)} of "
            f"{series.plane_shape}: give labels of the same planes."
        )
    return labels


def _by_examples(job: FindRun, labels: Planes, model: Segmenter, see: Sight) -> _Way:
    marked = [(plane, label) for plane in range(len(labels)) for label in _present(labels.read(plane))]
    if not marked:
        raise InputError(f"{job.like} holds no label: mark at least one object.")
    known: list[Known] = []
    # only what is shown is drawn as masks: there may be thousands of labels
    for plane, several in itertools.groupby(marked[:: -(-len(marked) // _EXAMPLES)], key=lambda one: one[0]):
        here, view = np.asarray(labels.read(plane)), see(plane)
        known += [Known.of(Example(here == label, label=1, picture=view), model, [], None) for _, label in several]
    side = side_for(see.series.plane_shape, [one.patch for one in known], job.similar)
    learnt = learn_from(known, [], side, None)

    def do(view: View, plane: int, first: int) -> _Found:
        there = np.asarray(labels.read(plane))
        queue = search_planes([view], learnt, side, taken_of(there, [view], []), job.similar)
        return _with(there, queue, first)

    return do


def _present(labels: NDArray[Any]) -> list[int]:
    array = np.asarray(labels)
    return [int(label) for label in np.unique(array[array > 0])]


def _by_word(job: FindRun, word: Word, model: Segmenter) -> _Way:
    def do(view: View, plane: int, first: int) -> _Found:
        return _with(np.zeros(view.shape, np.int32), find_word(model, view, word, options=job.similar), first)

    return do


def _with(known: NDArray[Any], queue: Queue, first: int) -> _Found:
    new = queue.to_labels(0, first)
    told = {
        "objects": len(queue),
        "absence": round(queue.absence(), 3),
        "certainty": [round(one.certainty, 3) for one in queue],
    }
    return _Found(np.where(known > 0, known.astype(np.int64), new), told)


def _by_text(job: FindRun, load_reader: Callable[[], Any], model: Segmenter) -> _Way:
    """Phrases: those that were taught by their prototypes, the others by the model that reads."""
    known = {spoken(word) for word in taught_words()}
    alike = {phrase: " ".join(phrase.casefold().split()) for phrase in job.text}
    words = [(number, load_word(phrase)) for number, phrase in enumerate(job.text, 1) if alike[phrase] in known]
    # a word that another model has learnt means nothing to this one
    taught = [(number, word) for number, word in words if word.model_key == model.model_key]
    mine = {number for number, _ in taught}
    others = [(number, phrase) for number, phrase in enumerate(job.text, 1) if number not in mine]
    reader = load_reader() if others else None

    def do(view: View, plane: int, first: int) -> _Found:
        labels = np.zeros(view.shape, np.int32)
        told: dict[str, Any] = {"objects": 0, "phrases": [], "notes": []}

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
        return _Found(labels, told)

    return do


def _by_text_alone(job: FindRun, text_model: Segmenter) -> _Way:
    """What the model that reads finds by itself, as classes: it knows no objects."""
    unwanted = [phrase for phrase in job.words.negatives if phrase not in job.text]
    notes = not_read(text_model, job.text)

    def do(view: View, plane: int, first: int) -> _Found:
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
        return _Found(labels, {"objects": len(there), "phrases": there, "taught": taught, "notes": [*notes, *missed]})

    return do


def _by_vector(reader: Segmenter, phrases: Sequence[str]) -> list[str]:
    """Those phrases for which a fitted vector stands in the model that reads."""
    return [phrase for phrase in phrases if is_taught(reader, phrase)]


def _by_detector(job: FindRun, detector: Detector, model: Segmenter) -> _Way:
    by = "class" if job.by_class else "instance"

    def do(view: View, plane: int, first: int) -> _Found:
        labels, found = segment_detected(model, view, detector, list(job.text), threshold=job.detector_threshold, by=by)
        if not job.by_class:
            labels[labels > 0] += first - 1
        told = {"objects": len(found.boxes), "names": found.names, "certainty": [round(s, 3) for s in found.scores]}
        if not len(found.boxes):
            told["notes"] = [f"{detector.title} found nothing above {job.detector_threshold:g}: lower the threshold."]
        return _Found(labels, told)

    return do


def _by_vote(classes: Planes, model: Segmenter, options: AutomaticOptions) -> _Way:
    def do(view: View, plane: int, first: int) -> _Found:
        masks = segment_everything(model, view, options)
        given = np.asarray(classes.read(plane))
        voted = vote(masks, given)
        return _Found(voted, {"objects": len(masks), "changed": int(np.count_nonzero(voted != given))})

    return do


def _there_already(out: Path, run: str) -> dict[str, Any]:
    found = provenance.read(out)
    if found.get("run") != run:
        raise WriteError(f"{out} is already there: choose another name, or add --overwrite to replace it.")
    return {**found, "summary": f"{out} is already there from the same run: nothing to do."}


def _writer(job: FindRun, out: Path, picture: Picture, series: Planes, run: str) -> LabelsWriter:
    """Take up what a run of the same settings has left; planes of another run go where the user says so."""
    shape = (len(series), *series.plane_shape) if series.index_shape else series.plane_shape
    try:
        return LabelsWriter(out, shape, spacing=picture.spacing, units=picture.units, run=run)
    except WriteError:
        waiting = journal_of(out)
        if not waiting.is_dir() or (planes_in(waiting) and not job.overwrite):
            raise
        discard(out)
    return LabelsWriter(out, shape, spacing=picture.spacing, units=picture.units, run=run)


def _write(
    job: FindRun,
    writer: LabelsWriter,
    run: str,
    settings: dict[str, Any],
    see: Sight,
    planes: Sequence[int],
    way: _Way,
    bar: Callable[[int, int], Any],
) -> dict[str, Any]:
    start = time.perf_counter()
    done = writer.done
    there = (_kept(writer.folder, plane) for plane in itertools.takewhile(done.__contains__, planes))
    reports = list(itertools.takewhile(lambda report: "fault" not in report, there))
    before = [report["plane"] for report in reports]
    lowest = 1 if job.like is None else 1 + _highest(labels_of(job.like, see.series))
    first = max([lowest, *(report["last"] + 1 for report in reports)])
    faults: list[ZerosegError] = []
    try:
        with bar(len(planes), len(reports)) as progress:
            for plane in planes[len(reports) :]:
                try:
                    found = way(see(plane), plane, first)
                except (InputError, InputTypeError, ReadError) as error:
                    faults.append(error)
                    found = _Found(np.zeros(see.series.plane_shape, np.int32), {"objects": 0, "fault": str(error)})
                report = {"plane": plane, **found.told, "last": int(found.labels.max())}
                provenance.write_json(_report_file(writer.folder, plane), report)
                writer.write(plane, found.labels)  # it counts as done when its labels are there
                first = max(first, report["last"] + 1)
                reports.append(report)
                progress.update()
        if len(faults) == len(planes):
            raise faults[0]
        _write_the_others(job, see, planes, writer)
    except BaseException:
        if len(faults) == len(reports):
            writer.discard()  # nothing to take up
        raise
    objects = sum(report["objects"] for report in reports)
    what = "masks voted" if job.vote is not None else "objects found"
    seconds = time.perf_counter() - start
    taken_up = f" {len(before)} plane(s) had been done by the run before." if before else ""
    result = {
        "out": str(writer.path),
        "run": run,
        "settings": settings,
        "summary": f"{writer.path}: {objects} {what} on {len(planes)} plane(s) in {seconds:.1f} s.{taken_up}",
        "planes": reports,
        "planes_done_before": before,
        "seconds": round(seconds, 3),
        "finished": provenance.now(),
        **provenance.environment(),
    }
    provenance.prepare(writer.path, result)
    writer.close()
    provenance.commit(writer.path)
    return result


def _write_the_others(job: FindRun, see: Sight, planes: Sequence[int], writer: LabelsWriter) -> None:
    """What the user has labelled on planes that were not searched stays in the result."""
    given = job.like or job.vote
    if given is None:
        return
    labels = labels_of(given, see.series)
    for plane in sorted(set(range(len(labels))) - set(planes)):
        here = np.asarray(labels.read(plane))
        if here.any():
            writer.write(plane, here)


def _kept(folder: Path, plane: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_report_file(folder, plane).read_text(encoding="utf-8"))
    return told


def _report_file(folder: Path, plane: int) -> Path:
    return folder / f"{plane:06d}.json"


def _highest(labels: Planes) -> int:
    return max(int(labels.read(plane).max()) for plane in range(len(labels)))


def _settings(job: FindRun, model: Segmenter, readers: Sequence[Any], planes: Sequence[int]) -> dict[str, Any]:
    """All that the labels depend on."""
    asked = {" ".join(word.casefold().split()) for word in (*job.text, *([job.word] if job.word else []))}
    taught = {
        path.name: provenance.identity_of(path)["stamp"]
        for word in sorted(asked)
        if len(word) <= LONGEST and any(map(str.isalnum, word))
        for path in sorted(words_folder().glob(f"{folder_of(word).name}*"))
    }
    detector = Path(job.detector).expanduser() if job.detector and Path(job.detector).expanduser().is_dir() else None
    inputs = {
        name: provenance.identity_of(path.expanduser())
        for name, path in (
            ("input", job.source),
            ("like", job.like),
            ("vote", job.vote),
            ("detector_files", detector),
        )
        if path is not None
    }
    return {
        **inputs,
        "readers": [getattr(reader, "model_key", type(reader).__name__) for reader in readers],
        "taught": taught,
        "by_class": job.by_class,
        "word": job.word,
        "text": list(job.text),
        "detector": job.detector,
        "detector_threshold": None if job.detector is None else job.detector_threshold,
        "model": model.spec.key,
        "model_hash": model.model_key,
        "planes": list(planes),
        "contrast": job.contrast,
        "similar": asdict(job.similar),
        "asking": asdict(job.words),
        "masks": asdict(job.masks),
        "version": version("napari-zeroseg"),
    }


def _check_apart(out: Path, inputs: Sequence[Path]) -> None:
    for path in inputs:
        if path.resolve() == out.resolve() or (path.is_dir() and path.resolve() in out.resolve().parents):
            raise InputError(f"{out} is {path} itself or lies inside it: choose another name for the labels.")
