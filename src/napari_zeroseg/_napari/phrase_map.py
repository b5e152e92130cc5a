"""Phrases on a plane: what is asked for, and the map of which phrase each pixel is most probably. No Qt, no napari."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg._napari.marks import Box, Drawn, Marks, extent_of
from napari_zeroseg.cascade.heat import Region, heat_of, regions_in, windows
from napari_zeroseg.cascade.text import not_read
from napari_zeroseg.errors import InputError
from napari_zeroseg.models.probability_frame import ProbabilityFrame, heat_map
from napari_zeroseg.phrases import MINUS, parted, split_phrases
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Patch, Prediction
from napari_zeroseg.view import FieldChoice, View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

_MAPS_HELD = 2**28
"""Pixels of all phrases together up to which a large plane is looked at in windows: their maps are kept."""

MOST = 254
"""Phrases at once, so that a class fits a byte."""


def phrase_marks(line: str, drawn: Iterable[Drawn]) -> list[Marks]:
    """Return what is to be asked of a model of words: a mark for each phrase and each box that it is looked for in.

    Parameters
    ----------
    line : str
        The text line: phrases with commas between them, looked for everywhere.
    drawn : iterable of Drawn
        Of these, a rectangle with a text looks for its own phrases, inside of it only; one without a text, and
        without a class, restricts all phrases of the line that no other box names.

    Returns
    -------
    list of Marks
        Their `object_id` counts the phrases from 1: those of the line, then those that only boxes name, then those
        of the line that begin with a minus, as in ``lung, -rib``: they only take pixels from the others.

    Raises
    ------
    InputError
        If there are too many, or none that is wanted.
    """
    boxes = [
        (split_phrases(d.text), extent_of(d.vertices))
        for d in drawn
        # a box with a class, and no text, is that of an object
        if d.kind == "rectangle" and (d.text or not d.class_id)
    ]
    written = split_phrases(line)
    minus = [phrase for phrase in written if phrase[0] in MINUS]
    on_line = [phrase for phrase in written if phrase[0] not in MINUS]
    asked: dict[str, str] = {}
    for phrase in [*on_line, *(phrase for named, _ in boxes for phrase in named)]:
        asked.setdefault(phrase.casefold(), phrase)
    phrases = list(asked.values())
    _, unwanted = parted([*phrases, *minus])
    if len(phrases) + len(unwanted) > MOST:
        raise InputError(f"{len(phrases) + len(unwanted)} phrases are too many: ask for at most {MOST} at once.")
    everywhere = [box for named, box in boxes if not named]
    marks: list[Marks] = []
    for number, phrase in enumerate(phrases, start=1):
        own = [box for named, box in boxes if phrase.casefold() in map(str.casefold, named)]
        within: Sequence[Box | None] = own or everywhere or [None]
        marks += [Marks(number, phrase=phrase, within=box) for box in within]
    first = len(phrases) + 1
    return marks + [Marks(number, phrase=phrase, is_unwanted=True) for number, phrase in enumerate(unwanted, first)]


def look_for(
    view: View, marks: Sequence[Marks], field: FieldChoice, templates: Sequence[str], cancel: CancelToken | None
) -> PhraseMap:
    """Ask a model of words.

    Parameters
    ----------
    view : View
        Of that model.
    marks : sequence of Marks
        From :func:`phrase_marks`.
    field : "auto", "plane" or int
        "auto" looks at a plane up to 1280 pixels as a whole, since what a word means depends on all that is around it,
        and at a larger one in overlapping windows of 1024.
    templates : sequence of str
        Sentences with ``{}`` for the phrase; probabilities are averaged.
    cancel : CancelToken, optional

    Raises
    ------
    InputError
        If a template has no place for the phrase, or the model gives no probabilities to be averaged.
    """
    for template in templates:
        if "{}" not in template:
            raise InputError(f"The template {template!r} has no {{}}, where the phrase goes.")
    side = max(view.shape) if field == "plane" else None if field == "auto" else field
    phrases = list(dict.fromkeys(m.phrase for m in marks))
    notes = tuple(not_read(view.model, phrases, templates))
    in_windows = len(windows(view.shape, side)) > 1
    if tuple(templates) != ("{}",) or (in_windows and _gives_probabilities(view, marks[0])):
        most = max(1, _MAPS_HELD // (view.shape[0] * view.shape[1]))
        if len(phrases) > most:
            raise InputError(
                f"{len(phrases)} phrases at once do not go with templates or a plane as large as this: ask for at most "
                f"{most}, or choose the whole plane as field of view."
            )
        heat = heat_of(view.model, view, phrases, templates, side, cancel)
        return replace(PhraseMap.of_heat(marks, phrases, heat), notes=notes)
    prompts = [m.prompt(view.shape, view.model.spec.accepts) for m in marks]
    found = view.predict(prompts, multimask=False, field="plane" if field == "auto" else field, cancel=cancel)
    if cancel is not None:
        cancel.raise_if_cancelled()
    return replace(PhraseMap.of(marks, found), notes=notes)


def _gives_probabilities(view: View, marks: Marks) -> bool:
    """Whether maps of windows can be blended: masks cannot."""
    field = windows(view.shape)[0]
    (answer,) = view.model.predict(view.embedding(field), [Prompt(text=marks.phrase)])
    return isinstance(answer.frame, ProbabilityFrame)


@dataclass(frozen=True, eq=False)
class PhraseMap:
    """What a model of words found on a plane, kept so that another threshold needs no model.

    Attributes
    ----------
    phrases : tuple of str
        Class k is the phrase at k - 1.
    winner : (H, W) uint8 array
        Class that is most probable at each pixel.
    percent : (H, W) uint8 array
        Its probability in per cent, rounded up, so that "above n per cent" is exact for whole n.
    histogram : (classes, 101) array of int
        Pixels of each class and per cent.
    predictions : tuple of tuple of Prediction
        Answers of each class, one for each box; empty where there are maps.
    maps : (classes, H, W) uint8 array or None
        Probability of each class, 255 for 1, where several answers were brought together.
    notes : tuple of str
        Sentences for the user: what of a phrase was not read.
    """

    phrases: tuple[str, ...]
    winner: NDArray[np.uint8]
    percent: NDArray[np.uint8]
    histogram: NDArray[np.int64]
    predictions: tuple[tuple[Prediction, ...], ...]
    maps: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_probabilities(self) -> bool:
        """Whether a threshold means anything."""
        return self.maps is not None or isinstance(self.predictions[0][0].frame, ProbabilityFrame)

    @classmethod
    def of(cls, marks: Sequence[Marks], predictions: Sequence[Prediction]) -> PhraseMap:
        """Lay the answers to `marks`, in their order, over each other; where phrases meet, the likelier one wins."""
        laid = _laid(marks, (probabilities(prediction) for prediction in predictions), predictions[0].shape)
        answers: dict[int, list[Prediction]] = {}
        for marked, prediction in zip(marks, predictions, strict=True):
            if not marked.is_unwanted:
                answers.setdefault(marked.object_id, []).append(prediction)
        return cls(*laid, tuple(map(tuple, answers.values())))

    @classmethod
    def of_heat(cls, marks: Sequence[Marks], phrases: Sequence[str], heat: NDArray[np.float16]) -> PhraseMap:
        """The same from the probabilities (phrases, H, W) of each phrase."""
        place = {phrase: k for k, phrase in enumerate(phrases)}
        laid = _laid(marks, (heat[place[m.phrase]].astype(np.float32) for m in marks), heat.shape[1:])
        maps = np.stack([np.rint(255 * heat[place[phrase]].astype(np.float32)).astype(np.uint8) for phrase in laid[0]])
        return cls(*laid, (), maps)

    def classes(self, threshold: float) -> NDArray[np.uint8]:
        """Class of each pixel, (H, W) uint8; 0 where no phrase is more probable than `threshold`."""
        return np.where(self.percent > round(100 * threshold), self.winner, np.uint8(0))

    def pixels(self, threshold: float) -> list[int]:
        """How many pixels each class has."""
        return [int(n) for n in self.histogram[:, round(100 * threshold) + 1 :].sum(1)]

    def scores(self, threshold: float) -> list[float]:
        """Mean probability of each class inside its mask, to a per cent; 0 where that is empty."""
        above = self.histogram[:, round(100 * threshold) + 1 :]
        values = (np.arange(101)[round(100 * threshold) + 1 :] - 0.5) / 100
        return [float(row @ values / row.sum()) if row.sum() else 0.0 for row in above]

    def patches(self, threshold: float) -> list[Patch]:
        """Mask of each class inside its bounding box."""
        classes = self.classes(threshold)
        return [_patch_of(classes == k) for k in range(1, len(self.phrases) + 1)]

    def regions(self, threshold: float, min_area: int) -> tuple[list[Region], NDArray[np.float16]]:
        """Find the connected parts of each class, and the probabilities (classes, H, W) by which they were found.

        Raises
        ------
        InputError
            If the model does not answer with probabilities, or nothing is above the threshold.
        """
        there = [k for k, pixels in enumerate(self.pixels(threshold), start=1) if pixels]
        if not there:
            raise InputError(
                f"Nothing is more probable than {threshold:.2f}: lower the threshold, or find other words."
            )
        heat = np.zeros((len(self.phrases), *self.winner.shape), np.float16)  # what is not touched takes no memory
        for k in there:
            heat[k - 1] = self.heat(self.phrases[k - 1])
        above = self.percent > round(100 * threshold)
        return regions_in(heat, self.winner.astype(np.int16) - 1, above, min_area), heat

    def heat(self, phrase: str) -> NDArray[np.float32]:
        """Probability of a phrase at each pixel, (H, W), whether another one is likelier or not.

        Raises
        ------
        InputError
            If the model does not answer with probabilities.
        """
        if self.maps is not None:
            return np.asarray(self.maps[self.phrases.index(phrase)].astype(np.float32) / 255)
        # The boxes of a phrase restrict its mask; the map is the same for all of them where the window is.
        maps = [heat_map(prediction) for prediction in self.predictions[self.phrases.index(phrase)]]
        return np.asarray(np.maximum.reduce(maps))


def _laid(
    marks: Sequence[Marks], maps: Iterable[NDArray[np.float32]], shape: tuple[int, ...]
) -> tuple[tuple[str, ...], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Phrases that are wanted, which of them each pixel is most probably, how probably, and how many pixels are."""
    winner, best = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    for marked, probable in zip(marks, maps, strict=True):
        rows, columns = _pixels_of(marked.within, (shape[0], shape[1]))
        window, known = probable[rows, columns], best[rows, columns]
        above = window > known
        known[above] = window[above]
        winner[rows, columns][above] = marked.object_id
    wanted = {m.object_id: m.phrase for m in marks if not m.is_unwanted}
    percent = np.ceil(100 * best).astype(np.uint8)
    taken = winner > len(wanted)
    winner[taken] = percent[taken] = 0
    counts = np.bincount(winner.ravel().astype(np.intp) * 101 + percent.ravel(), minlength=(len(wanted) + 1) * 101)
    return tuple(wanted.values()), winner, percent, counts.reshape(-1, 101)[1:]


def _patch_of(mask: NDArray[np.bool_]) -> Patch:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
    r, c = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return r, c, mask[r, c]


def probabilities(prediction: Prediction) -> NDArray[np.float32]:
    """Probability at each pixel, (H, W); 1 inside the mask of a model that gives none."""
    if isinstance(prediction.frame, ProbabilityFrame):
        return heat_map(prediction)
    return prediction.mask.astype(np.float32)


def _pixels_of(box: Box | None, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Pixels whose centres a box holds."""
    if box is None:
        return slice(0, shape[0]), slice(0, shape[1])
    return ProbabilityFrame(shape, box).window
