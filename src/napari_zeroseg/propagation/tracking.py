"""One sweep over the planes: every object that is followed in one direction, plane by plane, in one batch each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError, ReadError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.planes import Planes, check_picture, is_flat
from napari_zeroseg.propagation.masks import Packed
from napari_zeroseg.propagation.result import PropagationOptions, Record, StepRecord
from napari_zeroseg.propagation.step import Found, advance, apart, own_scores
from napari_zeroseg.segmenter import Patch, Segmenter
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

_COLLAPSE = 0.25
"""Part of its usual area below which an object is about to end: its ends are seldom as abrupt in one plane only."""

_THIN_PLANES = 2
"""Collapsed planes in a row after which it has ended."""

_REMEMBERED = 5
"""Planes whose areas make the usual one."""


@dataclass(frozen=True)
class Track:
    """An object to follow: from plane `start`, where its mask is known, up to but not including `stop`."""

    label: int
    start: int
    stop: int
    second: bool
    """Whether this is the way back, or the way from the farther of two outlined planes."""

    @property
    def direction(self) -> int:
        """1 upwards, -1 downwards."""
        return 1 if self.stop > self.start else -1

    def touches(self, low: int, high: int) -> bool:
        """Whether it begins or goes between planes `low` and `high`, both excluded."""
        last = self.stop - self.direction
        return min(self.start, last) < high and max(self.start, last) > low


@dataclass
class _State:
    """Where a track is."""

    patch: Patch
    plane: int
    usual: float | None = None
    areas: list[int] = field(default_factory=list)
    thin: int = 0
    missed: int = 0
    ended: bool = False


class Pictures:
    """Planes as the model sees them; the last ones are kept for a step's other side."""

    def __init__(self, series: Planes, limits: tuple[float, float] | None) -> None:
        self.series = series
        self.limits = limits
        self._held: dict[int, NDArray[np.uint8]] = {}

    def read(self, plane: int) -> NDArray[np.uint8]:
        """(H, W) or (H, W, 3) uint8.

        Raises
        ------
        InputError, ReadError
            If there is nothing to see.
        """
        if plane not in self._held:
            raw = self.series.read(plane)
            check_picture(raw)
            picture = to_uint8(raw, self.limits)
            if is_flat(picture):
                raise InputError(
                    f"All pixels look the same with contrast limits {self.limits}: give black and white as pixel "
                    "values that the plane has."
                )
            self._held[plane] = picture
        return self._held[plane]

    def keep_only(self, planes: set[int]) -> None:
        """Forget all others."""
        self._held = {plane: picture for plane, picture in self._held.items() if plane in planes}


class Sweep:
    """Follow tracks in one direction.

    Parameters
    ----------
    tracks : sequence of Track
        All of one direction.
    direction : int
        1 for rising planes, -1 for falling ones.
    start_mask : callable
        Gives the mask of a track at its start.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        direction: int,
        start_mask: Callable[[Track], Patch],
        pictures: Pictures,
        model: Segmenter,
        options: PropagationOptions,
        store: EmbeddingStore,
        protected: Callable[[int], NDArray[np.integer] | None],
    ) -> None:
        self.tracks = tracks
        self.direction = direction
        self._start_mask = start_mask
        self._pictures = pictures
        self._model = model
        self._options = options
        self._store = store
        self._protected = protected
        self._states: dict[Track, _State] = {}

    @property
    def planes(self) -> list[int]:
        """Planes that some track may come to, in order."""
        return sorted(
            {plane for t in self.tracks for plane in range(t.start + self.direction, t.stop, self.direction)},
            reverse=self.direction < 0,
        )

    def run(
        self, known: Callable[[int], StepRecord | None], cancel: CancelToken | None
    ) -> Iterator[tuple[int, dict[Track, Record | None], StepRecord, bool]]:
        """Yield, for each plane: its number, what was found of each track, that as a record, and whether it is new."""
        for plane in self.planes:
            if cancel is not None:
                cancel.raise_if_cancelled()
            here = self._active(plane)
            if not here:
                continue
            earlier = known(plane)
            step = earlier if earlier is not None else self._step(plane, here, cancel)
            # those that a missing tile hides are neither found nor missed: they wait as on a plane that is broken
            found = {track: step.found[track.label] for track in here if track.label in step.found}
            if not step.fault:
                for track, record in found.items():
                    self._note(self._states[track], plane, record)
            self._pictures.keep_only({state.plane for state in self._states.values() if not state.ended})
            yield plane, found if not step.fault else {}, step, earlier is None

    def _active(self, plane: int) -> list[Track]:
        """Tracks that go on to `plane`."""
        here = []
        for track in self.tracks:
            if (plane - track.start) * self.direction <= 0 or (track.stop - plane) * self.direction <= 0:
                self._states.pop(track, None)  # it is done, or has not begun
                continue
            if track not in self._states:
                self._states[track] = _State(self._start_mask(track), track.start)
            state = self._states[track]
            if abs(plane - state.plane) > max(self._options.longest_gap, self._options.patience) + 1:
                state.ended = True
            if not state.ended:
                here.append(track)
        return here

    def _step(self, plane: int, here: Sequence[Track], cancel: CancelToken | None) -> StepRecord:
        """Look for the tracks on `plane`, those that come from the same plane in one batch."""
        try:
            picture = self._pictures.read(plane)
        except (InputError, ReadError) as error:
            return StepRecord(fault=str(error))
        self._ask_for_usual_scores(here, cancel)
        view = View(self._model, picture, self._store)
        found: dict[int, Found | None] = {}
        for source in sorted({self._states[track].plane for track in here}):
            objects = {t.label: self._states[t].patch for t in here if self._states[t].plane == source}
            try:
                before = self._pictures.read(source)
            except (InputError, ReadError):
                before = picture  # outlined on a plane that cannot be looked at: nothing is known of motion
            planes = abs(plane - source)
            usual = {t.label: self._states[t].usual or 0.0 for t in here}
            missed = {t.label for t in here if self._states[t].missed}
            found |= advance(view, before, objects, self._options, planes, usual, cancel, missed)
        return StepRecord(
            {
                label: None if one is None else Record(Packed.of(one.patch), one.score, one.overlap)
                for label, one in apart(found, view.shape, self._protected(plane)).items()
            }
        )

    def _ask_for_usual_scores(self, here: Sequence[Track], cancel: CancelToken | None) -> None:
        """Ask what the network thinks of the tracks' first masks, where they lie."""
        new = [track for track in here if self._states[track].usual is None]
        for start in sorted({track.start for track in new}):
            objects = {track.label: self._start_mask(track) for track in new if track.start == start}
            try:
                view = View(self._model, self._pictures.read(start), self._store)
            except (InputError, ReadError):
                scores = dict.fromkeys(objects, 0.0)  # outlined on a plane that cannot be looked at
            else:
                scores = own_scores(view, objects, self._options, cancel)
            for track in new:
                if track.start == start:
                    self._states[track].usual = scores[track.label]

    def _note(self, state: _State, plane: int, record: Record | None) -> None:
        if record is None:
            state.missed += 1
            state.ended = state.missed > self._options.patience
            return
        state.patch, state.plane, state.missed = record.mask.patch, plane, 0
        size = int(np.count_nonzero(state.patch[2]))
        usual = statistics.median(state.areas) if state.areas else size
        state.thin = state.thin + 1 if size < _COLLAPSE * usual else 0
        if not state.thin:
            state.areas = [*state.areas, size][-_REMEMBERED:]
        state.ended = state.thin >= _THIN_PLANES
