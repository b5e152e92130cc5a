"""What the inference thread does for the Stack dock: follow, search, look for words. No Qt, no napari.

Each of these is called once, with a token at which it looks between two windows and a function that it tells what is
done; :class:`~napari_zeroseg._napari.turns.Turns` cuts it into steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg._napari.engine import Engine, ModelChoice
from napari_zeroseg._napari.phrase_map import look_for, phrase_marks
from napari_zeroseg._napari.stack_place import Box, LabelStack, ShownStack, StackPlace
from napari_zeroseg.automatic import AutomaticOptions, filter_area, segment_everything, table, to_labels
from napari_zeroseg.automatic.class_filter import ClassFilter
from napari_zeroseg.automatic.search import check_takes_points
from napari_zeroseg.cascade.text import not_read
from napari_zeroseg.cascade.votes import vote
from napari_zeroseg.errors import InputError, InputTypeError, ReadError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.propagation import (
    Flag,
    PlaneResult,
    Propagation,
    PropagationOptions,
    StepRecord,
    propagation_of,
)
from napari_zeroseg.view import View


@dataclass(frozen=True)
class Progressed:
    """So much of `total` is done: planes, or steps from plane to plane."""

    done: float
    total: float


@dataclass(frozen=True, eq=False)
class PlaneDone:
    """Labels of one plane.

    Attributes
    ----------
    plane : int
    labels : (H, W) integer array or None
        None where the plane could not be looked at.
    certainty : float or None
    rows : list of dict
        What was found, for the table.
    fault : str
        Why there are no labels, in a sentence.
    seen : int or None
        Checksum of what the plane held when that was taken into account.
    """

    plane: int
    labels: NDArray[Any] | None
    certainty: float | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    fault: str = ""
    seen: int | None = None


@dataclass(frozen=True, eq=False)
class Surveyed:
    """What a propagation knows: certainty by plane, where somebody should look, planes that were outlined, words."""

    curve: Mapping[int, float]
    flags: Sequence[Flag]
    outlined: Sequence[int]
    words: str


@dataclass(frozen=True, eq=False)
class Change:
    """Part of a plane as it was and as it shall be."""

    plane: int
    box: Box
    before: NDArray[Any]
    after: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Changes:
    """All that is to be changed in a layer, as one edit, and words for the log."""

    parts: Sequence[Change]
    words: str


@dataclass(frozen=True)
class Told:
    """A sentence for the log."""

    words: str


Event = Progressed | PlaneDone | Surveyed | Changes | Told
Tell = Callable[[Event], None]
Work = Callable[[CancelToken, Tell], None]


@dataclass(frozen=True, eq=False)
class Stack:
    """What is looked at, by whom and where; a reference only.

    Attributes
    ----------
    engine : callable
        Gives the engine.
    shown : ShownStack
    place : StackPlace
    model : ModelChoice
    planes : range
        Planes to do.
    """

    engine: Callable[[], Engine]
    shown: ShownStack
    place: StackPlace
    model: ModelChoice
    planes: range


def checksum(plane: NDArray[Any]) -> int:
    """Tell planes of different labels apart, whatever the type of their pixels."""
    return zlib.crc32(np.ascontiguousarray(plane, np.int64).data)


class _Kept(Mapping[int, NDArray[Any]]):
    """Planes with labels as they were when this was made, packed: a layer may change while it is protected."""

    def __init__(self, labels: LabelStack, planes: Iterable[int], token: CancelToken) -> None:
        self._shape, self._dtype = labels.shape[1:], labels.dtype
        self._packed: dict[int, bytes] = {}
        for plane in planes:
            token.raise_if_cancelled()
            pixels = np.ascontiguousarray(labels.plane(plane))
            if pixels.any():
                self._packed[plane] = zlib.compress(pixels.data, 1)

    def __getitem__(self, plane: int) -> NDArray[Any]:
        pixels = np.frombuffer(zlib.decompress(self._packed[plane]), self._dtype)
        return pixels.reshape(self._shape)

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclass
class _Journal:
    """Steps that were done, so that a run that was cancelled goes on from there."""

    steps: dict[tuple[int, int], StepRecord] = field(default_factory=dict)

    def get(self, sweep: int, plane: int) -> StepRecord | None:
        return self.steps.get((sweep, plane))

    def put(self, sweep: int, plane: int, step: StepRecord) -> None:
        self.steps[sweep, plane] = step


class Following:
    """Objects that are followed through the planes, from the first step to the last correction.

    Parameters
    ----------
    stack : Stack
    labels : LabelStack
        Objects as they are outlined; labels that are there stay as they are.
    everywhere : bool
        Whether to begin from all planes with labels instead of the one on the screen.
    options : PropagationOptions
    """

    def __init__(self, stack: Stack, labels: LabelStack, everywhere: bool, options: PropagationOptions) -> None:
        self.stack = stack
        self._labels = labels
        self._everywhere = everywhere
        self._options = options
        self._run: Propagation | None = None
        self._outlined: set[int] = set()
        self._journal = _Journal()

    def begin(self, token: CancelToken, tell: Tell) -> None:
        """Follow the objects from where they are outlined."""
        stack = self.stack
        engine = stack.engine()
        kept = _Kept(self._labels, stack.planes, token)
        here = stack.place.current
        if not self._everywhere and here not in kept:
            raise InputError(
                f"There is no labelled object on plane {here}: outline one there, or begin from all labelled planes."
            )
        seeds = kept if self._everywhere else {here: kept[here]}
        run = propagation_of(
            stack.shown.series(),
            engine.model(stack.model),
            seeds,
            planes=stack.planes,
            options=self._options,
            keep=kept,
            store=engine.store,
            journal=self._journal,
            cancel=token,
        )
        self._run = run
        self._outlined = set(kept) if self._everywhere else {here}
        tell(Surveyed({}, [], sorted(self._outlined), ""))
        for plane in kept:
            token.raise_if_cancelled()
            tell(PlaneDone(plane, run.labels(plane)))
        self._take(run, run.run(_steps(tell), token), tell)

    def again(self, data: Any, sums: Mapping[int, int], token: CancelToken, tell: Tell) -> None:
        """Take the planes that the user corrected for outlined, and do what depends on them, or what was not done yet.

        Parameters
        ----------
        data : array_like
            Of the layer with the results.
        sums : mapping of int to int
            Checksums of its planes as they were written.
        """
        run = self._run
        if run is None:
            self.begin(token, tell)
            return
        edited = dict(self._edited(data, sums, token))
        for plane in sorted(edited):
            pixels, seen = edited.pop(plane)
            tell(Told(f"Plane {plane} was corrected: what depends on it is done again."))
            self._journal.steps.clear()  # it knows nothing of corrections
            self._outlined.add(plane)
            results = run.correct(plane, pixels, None, _steps(tell), token)
            # A plane whose own correction is still to come is not drawn before that.
            self._take(run, (result for result in results if result.plane not in edited), tell, {plane: seen})
        self._take(run, run.run(_steps(tell), token), tell)
        # Where a corrected object is not found any more nothing was done, but what was drawn there must go.
        for plane in self.stack.planes:
            token.raise_if_cancelled()
            tell(PlaneDone(plane, run.labels(plane)))

    def _edited(
        self, data: Any, sums: Mapping[int, int], token: CancelToken
    ) -> Iterator[tuple[int, tuple[NDArray[Any], int]]]:
        """Planes that are not as they were written: their labels, and the checksum of these."""
        place = self.stack.place
        empty = checksum(np.zeros(place.shape, np.uint8))
        for plane in self.stack.planes:
            token.raise_if_cancelled()
            pixels = place.read(data, plane)
            seen = checksum(pixels)
            if seen != sums.get(plane, empty):
                yield plane, (pixels.copy(), seen)

    def survey(self) -> Surveyed | None:
        """What is known now; None before anything was begun."""
        run = self._run
        return None if run is None else Surveyed(run.curve(), run.flags, sorted(self._outlined), run.words())

    def _take(
        self, run: Propagation, results: Iterable[PlaneResult], tell: Tell, seen: Mapping[int, int] | None = None
    ) -> None:
        for result in results:
            sum_ = None if seen is None else seen.get(result.plane)
            tell(PlaneDone(result.plane, run.labels(result.plane), result.certainty, (), result.fault, sum_))
        survey = self.survey()
        assert survey is not None
        tell(survey)


def _steps(tell: Tell) -> Callable[[int, int], None]:
    return lambda done, most: tell(Progressed(done, most))


@dataclass(frozen=True)
class Searching:
    """Segment everything on planes; objects are numbered on from plane to plane.

    Attributes
    ----------
    stack : Stack
    options : AutomaticOptions
    least, most : float or None
        Area of masks that are kept, in pixels.
    first : int
        Number of the first object.
    classes : ClassFilter, optional
        Masks of which classes are kept; left out, all.
    """

    stack: Stack
    options: AutomaticOptions
    least: float | None = None
    most: float | None = None
    first: int = 1
    classes: ClassFilter | None = None

    def __call__(self, token: CancelToken, tell: Tell) -> None:
        """Do it plane by plane; one that cannot be looked at is told and skipped."""
        engine = self.stack.engine()
        model = engine.model(self.stack.model)
        check_takes_points(model)
        first, planes = self.first, self.stack.planes
        for done, plane in enumerate(planes):
            token.raise_if_cancelled()

            def clicked(clicks: int, of: int, done: int = done) -> None:
                tell(Progressed(done + clicks / of, len(planes)))

            try:
                keep = list if self.classes is None else self.classes.on(plane)
                view = View(model, self.stack.shown.plane(plane), engine.store)
                masks = segment_everything(model, view, self.options, cancel=token, progress=clicked)
            except (InputError, InputTypeError, ReadError) as error:
                tell(PlaneDone(plane, None, fault=str(error)))
            else:
                masks = keep(filter_area(masks, self.least, self.most))
                labels = to_labels(masks, self.stack.place.shape, first=first)
                tell(PlaneDone(plane, labels, rows=table(masks, plane, first)))
                first += len(masks)
            tell(Progressed(done + 1, len(planes)))


@dataclass(frozen=True)
class Voting:
    """Give a map of classes the outlines of masks, by majority, plane by plane.

    Attributes
    ----------
    stack : Stack
    classes : LabelStack
        Of a pixel classifier, of words, of a threshold; only read.
    options : AutomaticOptions
        Which masks vote.
    """

    stack: Stack
    classes: LabelStack
    options: AutomaticOptions

    def __call__(self, token: CancelToken, tell: Tell) -> None:
        """Do it; a plane without classes is left empty, one that cannot be looked at is told and skipped."""
        engine, planes, changed = self.stack.engine(), self.stack.planes, 0
        model = engine.model(self.stack.model)
        check_takes_points(model)
        for done, plane in enumerate(planes, start=1):
            token.raise_if_cancelled()
            given = np.array(self.classes.plane(plane))
            try:
                if given.any():
                    view = View(model, self.stack.shown.plane(plane), engine.store)
                    voted = vote(segment_everything(model, view, self.options, cancel=token), given)
                    changed += int(np.count_nonzero(voted != given))
                    tell(PlaneDone(plane, voted))
            except (InputError, InputTypeError, ReadError) as error:
                tell(PlaneDone(plane, None, fault=str(error)))
            tell(Progressed(done, len(planes)))
        tell(Told(f"Masks voted on {len(planes)} plane{'s' * (len(planes) != 1)}: {changed:,} pixels changed."))


@dataclass(frozen=True)
class Wording:
    """Look for phrases on planes; a pixel gets the number of the phrase that is most probable there.

    Attributes
    ----------
    stack : Stack
    line : str
        Phrases with commas between them.
    threshold : float
        Probability above which a pixel belongs to a phrase.
    """

    stack: Stack
    line: str
    threshold: float

    def __call__(self, token: CancelToken, tell: Tell) -> None:
        """Do it plane by plane; one that cannot be looked at is told and skipped."""
        engine, planes = self.stack.engine(), self.stack.planes
        model, marks = engine.model(self.stack.model), phrase_marks(self.line, [])
        for note in not_read(model, [one.phrase for one in marks]):
            tell(Told(note))
        for done, plane in enumerate(planes, start=1):
            token.raise_if_cancelled()
            try:
                view = View(model, self.stack.shown.plane(plane), engine.store)
                found = look_for(view, marks, "auto", ("{}",), token)
            except (InputError, InputTypeError, ReadError) as error:
                tell(PlaneDone(plane, None, fault=str(error)))
            else:
                tell(PlaneDone(plane, found.classes(self.threshold)))
            tell(Progressed(done, len(planes)))
        numbers = ", ".join(f"{one.object_id} {one.phrase}" for one in marks if not one.is_unwanted)
        tell(Told(f"Words looked for on {len(planes)} planes: {numbers}."))
