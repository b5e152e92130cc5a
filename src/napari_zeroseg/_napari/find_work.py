"""What the inference thread does to find the rest: learn from labels, search planes, teach words. No Qt, no napari."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg._napari.stack_place import LabelStack, ShownStack, StackPlace
from napari_zeroseg._napari.stack_work import Change, Changes, PlaneDone, Progressed, Stack, Tell, Told
from napari_zeroseg.automatic.search import check_takes_points
from napari_zeroseg.cascade import Example, Proposal, Queue, SimilarOptions
from napari_zeroseg.cascade.features import Descriptor, PlaneFeatures, Surroundings, surroundings_of
from napari_zeroseg.cascade.find import Taken, search_plane
from napari_zeroseg.cascade.planes import patch_iou
from napari_zeroseg.cascade.search import Candidate, side_for
from napari_zeroseg.cascade.shown import Known, Shown, learn_from
from napari_zeroseg.cascade.taught import save_phrase, teach_phrase
from napari_zeroseg.cascade.words import load_word, save_word, teach
from napari_zeroseg.errors import InputError, InputTypeError, ReadError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.view import View
from napari_zeroseg.word_files import spoken

_EXAMPLES = 64
"""Examples at most that are learnt from, spread over all that are labelled: more say nothing new."""
_TAUGHT = 32
"""Planes at most that a word is taught from, spread over those with labels: all of them are held in memory."""


LEARNT = "\n"
"""In place of a word: the class that the model has learnt. No word has a line break."""

_SAME = 0.8
"""IoU from which two masks are the same proposal, as in :class:`~napari_zeroseg.cascade.Queue`."""


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """Another image whose labelled objects are the examples.

    Attributes
    ----------
    shown : ShownStack
    labels : LabelStack
    count : int
        Number of planes.
    name : str
    """

    shown: ShownStack
    labels: LabelStack
    count: int
    name: str

    def labelled(self, token: CancelToken) -> list[tuple[int, int]]:
        """(plane, label) of all objects.

        Raises
        ------
        InputError
            If there is none.
        """
        objects = [one for plane in range(self.count) for one in _objects_on(self.labels, plane, token)]
        if not objects:
            raise InputError(f"Nothing is labelled on {self.name}: label some objects there first.")
        return objects


@dataclass
class Finding:
    """All that looks like the labelled objects or like a taught word, or is of the class that the model has learnt.

    The plane on the screen is searched first.

    Attributes
    ----------
    stack : Stack
    labels : LabelStack
        The examples, and what is not proposed again.
    word : str
        A taught word to look for in place of the examples, or :data:`LEARNT`; "" for the examples.
    elsewhere : Elsewhere or None
        Where the examples are, if not in `labels`.
    options : SimilarOptions
    rejected : tuple of Proposal
        What earlier searches proposed and the user did not want.
    """

    stack: Stack
    labels: LabelStack
    word: str = ""
    elsewhere: Elsewhere | None = None
    options: SimilarOptions = field(default_factory=SimilarOptions)
    rejected: tuple[Proposal, ...] = ()
    searched: list[int] = field(default_factory=list)
    """Planes that are done."""
    _shown: Shown | None = None
    _around: Surroundings | None = None
    _unwanted: list[Descriptor] = field(default_factory=list)
    _found: list[Candidate] = field(default_factory=list)

    def __call__(self, token: CancelToken, tell: Tell) -> None:
        """Do it plane by plane; one that cannot be looked at is told and skipped."""
        engine, here = self.stack.engine(), self.stack.place.current
        model = engine.model(self.stack.model)
        search = self._for_class(model, token) if self.word == LEARNT else self._for_likeness(model, token)
        planes = sorted(self.stack.planes, key=lambda plane: abs(plane - here))
        for done, plane in enumerate(planes):
            token.raise_if_cancelled()
            try:
                view = View(model, self.stack.shown.plane(plane), engine.store)
                taken = Taken(np.array(self.labels.plane(plane)), [])
                found = search(view, plane, taken, partial(_ticks, done, planes=len(planes), tell=tell), token)
                self._found += [one for one in found if not self._was_rejected(plane, one)]
                self.searched.append(plane)
            except (InputError, InputTypeError, ReadError) as error:
                tell(PlaneDone(plane, None, fault=str(error)))
            tell(Progressed(done + 1, len(planes)))

    def _for_likeness(self, model: Segmenter, token: CancelToken) -> _Search:
        check_takes_points(model)
        shown, side = self._of_word(model) if self.word else self._of_labels(model, token)
        self._shown = shown

        def search(view: View, plane: int, taken: Taken, ticks: _Ticks, token: CancelToken) -> list[Candidate]:
            features = PlaneFeatures(view, min(side, max(view.shape)))
            tick = ticks(windows=len(features.fields))
            return search_plane(features, plane, shown, taken, self.options, tick=tick, cancel=token)

        return search

    def _for_class(self, model: Segmenter, token: CancelToken) -> _Search:
        # torch comes with it, so not before this thread needs it
        from napari_zeroseg.training.class_search import features_of, learnt_class, search_class

        learnt = learnt_class(model)
        views: dict[int, View] = {}
        for one in self.rejected[-_EXAMPLES:]:
            token.raise_if_cancelled()
            if one.plane not in views:
                views[one.plane] = View(model, self.stack.shown.plane(one.plane), self.stack.engine().store)
            self._unwanted += features_of(learnt, views[one.plane]).describe([one.patch], token)

        def search(view: View, plane: int, taken: Taken, ticks: _Ticks, token: CancelToken) -> list[Candidate]:
            features = features_of(learnt, view)
            tick = ticks(windows=len(features.fields))
            found = search_class(learnt, view, plane, taken, self.options, tick=tick, cancel=token)
            if found and self._around is None:
                self._around = surroundings_of([features], token)
            return found

        return search

    def _was_rejected(self, plane: int, found: Candidate) -> bool:
        """Whether that very mask was; another outline of the same thing may still be right."""
        return any(one.plane == plane and patch_iou(one.patch, found.patch) > _SAME for one in self.rejected)

    def queue(self) -> Queue | None:
        """Rank what was found so far; None before a plane was searched."""
        shown, place = self._shown, self.stack.place
        shapes = [place.shape] * place.count
        if not self.searched:
            return None
        if self.word == LEARNT:
            from napari_zeroseg.training.class_search import NOTHING, class_queue

            return class_queue(self._found, self._around or NOTHING, shapes, self.options, self._unwanted)
        if shown is None:
            return None
        return Queue(self._found, shown.examples, shown.rejected, shown.around, shapes, self.options)

    def _of_word(self, model: Segmenter) -> tuple[Shown, int]:
        word = load_word(self.word)
        if word.model_key != model.model_key:
            raise InputError(
                f"{self.word!r} was taught to another model or precision: choose that one, or teach it to this one too."
            )
        return word.shown, word.side

    def _of_labels(self, model: Segmenter, token: CancelToken) -> tuple[Shown, int]:
        store, other = self.stack.engine().store, self.elsewhere
        objects = self._labelled(token) if other is None else other.labelled(token)
        shown, labels = (self.stack.shown, self.labels) if other is None else (other.shown, other.labels)
        seen: dict[int, View] = {}
        known = []
        for plane, label in objects[:: -(-len(objects) // _EXAMPLES)]:
            token.raise_if_cancelled()
            if plane not in seen:
                seen[plane] = View(model, shown.plane(plane), store)
            mask = np.array(labels.plane(plane) == label)
            known.append(Known.of(Example(mask, picture=seen[plane]), model, [], None))
        views = seen if other is None else {}
        unwanted = []
        for one in self.rejected[-_EXAMPLES:]:
            token.raise_if_cancelled()
            if one.plane not in views:
                views[one.plane] = View(model, self.stack.shown.plane(one.plane), store)
            mask = np.zeros(self.stack.place.shape, bool)
            mask[one.patch[0], one.patch[1]] = one.patch[2]
            unwanted.append(Known.of(Example(mask, picture=views[one.plane]), model, [], None))
        side = side_for(self.stack.place.shape, [one.patch for one in known], self.options)
        return learn_from(known, unwanted, side, token), side

    def _labelled(self, token: CancelToken) -> list[tuple[int, int]]:
        """(plane, label) of all objects on the planes to search; if none, of the nearest plane that has any."""
        stack = self.stack
        objects = [one for plane in stack.planes for one in _objects_on(self.labels, plane, token)]
        others = (plane for plane in range(stack.place.count) if plane not in stack.planes)
        for plane in sorted(others, key=lambda plane: abs(plane - stack.place.current)):
            if objects:
                break
            objects = _objects_on(self.labels, plane, token)
        if not objects:
            raise InputError(
                "Nothing is labelled: accept an object in the Segment dock or paint one, and the rest is looked for."
            )
        return objects


_Ticks = Callable[..., Callable[[], None]]
_Search = Callable[[View, int, Taken, _Ticks, CancelToken], list[Candidate]]


def _ticks(done: int, windows: int, planes: int, tell: Tell) -> Callable[[], None]:
    """Half of a plane is done once all its windows are compared; the masks are the other half."""
    seen = iter(range(1, windows + 1))
    return lambda: tell(Progressed(done + next(seen, windows) / windows / 2, planes))


def _objects_on(labels: LabelStack, plane: int, token: CancelToken) -> list[tuple[int, int]]:
    token.raise_if_cancelled()
    pixels = np.asarray(labels.plane(plane))
    return [(plane, int(label)) for label in np.unique(pixels[pixels > 0])]


def drawn_over(before: NDArray[Any], mask: NDArray[np.bool_], label: int, overlap: float) -> NDArray[Any] | None:
    """Draw a mask where nothing is labelled; None if more than `overlap` of it is, since it is there then."""
    free = mask & (before == 0)
    if np.count_nonzero(free) < (1 - overlap) * np.count_nonzero(mask) or not free.any():
        return None
    after: NDArray[Any] = np.where(free, label, before).astype(before.dtype)
    return after


def change_of(place: StackPlace, proposal: Proposal, before: NDArray[Any], after: NDArray[Any]) -> Change:
    """What a proposal changes in a layer, in the order of its axes."""
    box = place.box(proposal.plane, *proposal.patch[:2])
    return Change(proposal.plane, box, place.turned(before), place.turned(after))


@dataclass
class Accepting:
    """Find what many proposals change in labels; tell all changes at the end, or none.

    Attributes
    ----------
    proposals : sequence of Proposal
        The most certain first; where two meet, that one has the pixels.
    data : array_like
        Of the labels layer.
    place : StackPlace
        Its planes.
    first : int
        Number of the first object.
    overlap : float
        What is labelled by more than this part is there already.
    """

    proposals: Sequence[Proposal]
    data: Any
    place: StackPlace
    first: int
    overlap: float

    def __call__(self, token: CancelToken, tell: Tell) -> None:
        """Draw them on copies of the planes."""
        by_plane: dict[int, list[Proposal]] = {}
        for one in self.proposals:
            by_plane.setdefault(one.plane, []).append(one)
        parts: list[Change] = []
        for done, (plane, several) in enumerate(by_plane.items(), start=1):
            token.raise_if_cancelled()
            parts += self._on_plane(np.array(self.place.read(self.data, plane)), several, self.first + len(parts))
            tell(Progressed(done, len(by_plane)))
        left = len(self.proposals) - len(parts)
        there = f" {left} are labelled already and stay as they are." if left else ""
        tell(Changes(parts, f"{counted(len(parts), 'object')} accepted.{there}"))

    def _on_plane(self, pixels: NDArray[Any], proposals: Iterable[Proposal], first: int) -> list[Change]:
        parts: list[Change] = []
        for one in proposals:
            rows, columns, mask = one.patch
            before = pixels[rows, columns].copy()
            after = drawn_over(before, mask, first + len(parts), self.overlap)
            if after is not None:
                pixels[rows, columns] = after
                parts.append(change_of(self.place, one, before, after))
        return parts


@dataclass(frozen=True)
class Teaching:
    """Teach a word from the labelled objects of planes, and keep it.

    A model that draws learns what they look like; for one that reads, the vector that stands for the word is fitted.

    Attributes
    ----------
    stack : Stack
    labels : LabelStack
    word : str
    """

    stack: Stack
    labels: LabelStack
    word: str

    def __call__(self, token: CancelToken, tell: Tell) -> None:
        """Learn it, try it on planes that were held out, keep it, and tell how well it does."""
        name = spoken(self.word)
        engine = self.stack.engine()
        model = engine.model(self.stack.model)
        reads = PromptKind.TEXT in model.spec.accepts
        if not reads:
            check_takes_points(model)
        planes = [plane for plane in self.stack.planes if _objects_on(self.labels, plane, token)]
        if not planes:
            raise InputError(
                f"Nothing is labelled on the planes chosen above, so {name!r} cannot be taught: label some objects."
            )
        chosen = planes[:: -(-len(planes) // _TAUGHT)]
        views = []
        for plane in chosen:
            token.raise_if_cancelled()
            views.append(View(model, self.stack.shown.plane(plane), engine.store))
        given = [np.array(self.labels.plane(plane)) for plane in chosen]
        trial: Any
        if reads:
            phrase = teach_phrase(
                name, model, views, given, cancel=token, progress=lambda done, most: tell(Progressed(done, most))
            )
            save_phrase(phrase)
            trial = phrase.trial
        else:
            word = teach(name, model, views, given, cancel=token)
            save_word(word)
            trial = word.trial
        tell(Told(f"{name!r} is taught from {counted(len(chosen), 'plane')}; {_how_well(trial)}"))


def _how_well(trial: Any) -> str:
    if trial.after is None:
        return "label a second plane, and it is also told how well it does."
    before = "" if trial.before is None else f" ({trial.before:.2f} by the bare word)"
    return (
        f"IoU {trial.after:.2f}{before} and absence {trial.absence:.2f} on {counted(trial.planes, 'plane')} held out "
        "(absence: how sure it is that a plane has none, here wrongly)."
    )


def counted(number: int, thing: str) -> str:
    """Such as "1 plane" or "3 planes"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"
