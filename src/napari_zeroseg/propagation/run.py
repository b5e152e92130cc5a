"""Propagation: objects outlined on a few planes, followed through the others, checked, and corrected."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError
from napari_zeroseg.planes import Planes
from napari_zeroseg.propagation import masks
from napari_zeroseg.propagation.outlines import Outlines, Protected
from napari_zeroseg.propagation.passes import Passes
from napari_zeroseg.propagation.planning import Plan
from napari_zeroseg.propagation.result import (
    Direction,
    Flag,
    FlagReason,
    Journal,
    PlaneResult,
    PropagationOptions,
    Record,
    StepRecord,
)
from napari_zeroseg.propagation.step import check_model
from napari_zeroseg.propagation.tracking import Pictures, Sweep, Track
from napari_zeroseg.segmenter import Patch, Segmenter

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

_log = logging.getLogger(__name__)


class Propagation:
    """Objects on all planes of a range; iterate over it to do the work.

    Masks are kept as packed patches, so memory grows with the objects' area / 8 and not with the stack.

    Parameters
    ----------
    series : Planes
    model : Segmenter
    outlines : Outlines
        Objects as the user outlined them.
    planes : range
        Planes to fill, without gaps.
    options : PropagationOptions
    store : EmbeddingStore
    keep : Protected
        Labels that stay as they are.
    journal : Journal, optional
        Where each step is kept, and found again by the next run.
    """

    def __init__(
        self,
        series: Planes,
        model: Segmenter,
        outlines: Outlines,
        planes: range,
        options: PropagationOptions,
        store: EmbeddingStore,
        keep: Protected,
        journal: Journal | None = None,
    ) -> None:
        check_model(model.spec.accepts, model.spec.title)
        self.series = series
        self.planes = planes
        self.options = options
        self.outlines = outlines
        self.faults: dict[int, str] = {}
        self._model = model
        self._store = store
        self._keep = keep
        self._corrected: dict[int, NDArray[np.integer]] = {}
        self._journal = journal
        self._pictures = Pictures(series, options.limits)
        self._passes = Passes(outlines, planes, options)

    def __iter__(self) -> Iterator[PlaneResult]:
        return self.run()

    def run(
        self,
        progress: Callable[[int, int], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[PlaneResult]:
        """Do the work, and yield each plane as it is done: first without certainty, then with it.

        Parameters
        ----------
        progress : callable, optional
            Called with (steps done, steps in all, at most) after each plane.
        cancel : CancelToken, optional
            Looked at between planes and between windows; what was done before stays.

        Raises
        ------
        CancelledError
            If `cancel` was raised.
        """
        yield from self._follow(self.outlines.labels, self._journal, progress, cancel)

    def finish(
        self, progress: Callable[[int, int], None] | None = None, cancel: CancelToken | None = None
    ) -> Propagation:
        """Do the work to its end without looking at single planes; return this object."""
        for _ in self.run(progress, cancel):
            pass
        return self

    def correct(
        self,
        plane: int,
        labels: NDArray[np.integer],
        which: Iterable[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[PlaneResult]:
        """Take a corrected plane for outlined, and do again what depends on it.

        That is, of the corrected objects alone, the planes between the outlined ones on either side of `plane`, or to
        the object's ends. What comes out is what a run with the correction from the start would have found, up to the
        rounding of the decoder's batches.

        Parameters
        ----------
        plane : int
        labels : (H, W) integer array
            The plane as it should be.
        which : iterable of int, optional
            Objects that were corrected; left out, all whose mask differs from what was found. One that is not in
            `labels` is not on this plane: it ends there.
        progress, cancel
            As for :meth:`run`.

        Yields
        ------
        PlaneResult
            Of each plane that is done again, beginning with `plane`.

        Raises
        ------
        InputError
            If there is no such plane, or `labels` has another shape.
        """
        if plane not in self.planes:
            raise InputError(f"Plane {plane} is not among those that were propagated, {_range_text(self.planes)}.")
        given = self.outlines.of_plane(labels)
        kept = self._protected(plane)
        if kept is not None:  # what was outlined there is what it is now
            self._corrected[plane] = np.where(np.isin(labels, np.unique(kept)), labels, 0)
        changed = sorted(self._changed(plane, given) if which is None else {int(label) for label in which})
        for label in changed:
            self.outlines.put(plane, label, given.get(label, masks.EMPTY))
            self._passes.forget_around(label, plane)
        yield self.plane(plane)
        yield from self._follow(changed, None, progress, cancel)

    def plane(self, plane: int) -> PlaneResult:
        """What is known of one plane now."""
        objects, patches = [], {}
        for label in self.outlines.labels:
            known = self._passes.known(label, plane)
            if known is not None:
                patches[label], one = known
                objects.append(one)
        final = not any(one.label in self._passes.open and one.certainty is None for one in objects)
        return PlaneResult(plane, tuple(objects), patches, final, self.faults.get(plane, ""))

    def labels(self, plane: int) -> NDArray[np.int32]:
        """Labels of one plane, (H, W) int32: where objects overlap the surer one has the pixel; `keep` stays."""
        found = self.plane(plane)
        labels = np.zeros(self.series.plane_shape, np.int32)
        order = sorted(found.objects, key=lambda one: (one.outlined, one.score * (one.certainty or 1.0), -one.label))
        for one in order:
            rows, columns, mask = found.patches[one.label]
            labels[rows, columns][mask] = one.label
        protected = self._protected(plane)
        if protected is not None:
            np.copyto(labels, protected.astype(np.int32), where=protected != 0)
        return labels

    def _protected(self, plane: int) -> NDArray[np.integer] | None:
        """Labels of a plane that stay as they are: those given, or as they were corrected since."""
        return self._corrected[plane] if plane in self._corrected else self._keep(plane)

    def is_somewhere(self, label: int) -> bool:
        """Whether an object is on any plane still; its only outline may have been erased."""
        return bool(self._there(label))

    def _there(self, label: int) -> set[int]:
        return {*self._passes.first[label], *self._passes.second[label], *self.outlines.planes_of(label)}

    def volume(self) -> NDArray[np.int32]:
        """Labels of all planes of the stack, (Z, H, W) int32; for a large stack, take :meth:`labels` plane by plane."""
        return np.stack([self.labels(plane) for plane in range(len(self.series))])

    def curve(self, label: int | None = None) -> dict[int, float]:
        """Certainty (0 to 1) by plane, of one object or the mean of all; planes where nothing is known are left out."""
        found = {}
        for plane in self.planes:
            result = self.plane(plane)
            values = [one.certainty for one in result.objects if one.label == label]
            value = result.certainty if label is None else (values[0] if values else None)
            if value is not None:
                found[plane] = value
        return found

    def ends(self, label: int) -> tuple[int, int]:
        """First and last plane on which an object is.

        Raises
        ------
        InputError
            If there is no such object.
        """
        if label not in self._passes.first:
            raise InputError(f"There is no object {label}: those outlined are {list(self.outlines.labels)}.")
        there = self._there(label)
        if not there:
            raise InputError(f"Object {label} is on no plane any more: outline it again.")
        return min(there), max(there)

    @property
    def flags(self) -> list[Flag]:
        """What somebody should look at, plane by plane."""
        found = [Flag(plane, 0, FlagReason.BROKEN, 0.0) for plane in sorted(self.faults) if plane in self.planes]
        for label in self.outlines.labels:
            for plane in sorted({*self._passes.first[label], *self._passes.second[label]}):
                known = self._passes.known(label, plane)
                if known is None or known[1].outlined or known[1].certainty is None:
                    continue
                if known[1].certainty < self.options.threshold:
                    found.append(Flag(plane, label, FlagReason.UNSURE, known[1].certainty))
            if not self.is_somewhere(label):
                continue
            first, last = self.ends(label)
            found += [Flag(plane, label, FlagReason.UNSURE, 0.0) for plane in self._gaps(label, first, last)]
            for plane, wanted in ((last + 1, Direction.FORWARDS), (first - 1, Direction.BACKWARDS)):
                asked = self.options.direction in (Direction.BOTH, wanted)
                if asked and plane in self.planes and not self.outlines.ends_at(label, plane):
                    found.append(Flag(plane, label, FlagReason.ENDED, 0.0))
        return sorted(found)

    def _gaps(self, label: int, first: int, last: int) -> list[int]:
        """Planes on which an object was found by neither way, though it is on planes on both sides."""
        return [
            plane
            for plane in range(first + 1, last)
            if plane in self.planes
            and plane not in self.faults
            and label not in self._passes.open
            and not self.outlines.ends_at(label, plane)
            and not self._passes.is_known(label, plane)
        ]

    def next_flag(self, plane: int, step: int = 1) -> Flag | None:
        """The nearest flag behind `plane`, or before it with `step` -1; None if there is none."""
        there = [flag for flag in self.flags if (flag.plane - plane) * step > 0]
        return min(there, key=lambda flag: abs(flag.plane - plane)) if there else None

    def words(self) -> str:
        """What was done, in a sentence or two for the log."""
        count = sum(map(self.is_somewhere, self.outlines.labels))
        flags = self.flags
        ended = sum(flag.reason is FlagReason.ENDED for flag in flags)
        unsure = len({flag.plane for flag in flags if flag.reason is FlagReason.UNSURE})
        done = {plane for label in self.outlines.labels for plane in self._passes.first[label]}
        told = f"{count} object{'s' * (count != 1)} followed through {len(done)} plane{'s' * (len(done) != 1)}"
        told += f" of {_range_text(self.planes)}."
        if ended:
            told += f" {ended} end{'s' * (ended == 1)} within them."
        if self.options.check:
            told += f" {unsure} plane{'s' * (unsure != 1)} to look at (certainty below {self.options.threshold:g})."
        if self.faults:
            told += f" Skipped: {', '.join(f'plane {plane}' for plane in sorted(self.faults))}."
        return told

    def _changed(self, plane: int, given: Mapping[int, Patch]) -> set[int]:
        found = self.outlines.of_plane(self.labels(plane))
        labels = {*given, *found} & {*given, *self.outlines.labels}
        return {
            label for label in labels if masks.iou(given.get(label, masks.EMPTY), found.get(label, masks.EMPTY)) < 1
        }

    def _follow(
        self,
        labels: Sequence[int],
        journal: Journal | None,
        progress: Callable[[int, int], None] | None,
        cancel: CancelToken | None,
    ) -> Iterator[PlaneResult]:
        """Up, down and up again: each sweep takes along everything that goes its way."""
        done, most = 0, self._most_steps(labels)
        provisional: set[int] = set()
        for number, direction in enumerate((1, -1, 1)):
            sweep = self._sweep(self._tracks(labels, number), direction)
            for plane, result in self._sweep_through(sweep, number, journal, cancel):
                (provisional.discard if result.final else provisional.add)(plane)
                done += 1
                if progress is not None:
                    progress(done, max(most, done))
                yield result
            self._passes.finished |= set(sweep.tracks)
        self._passes.open -= set(labels)
        if progress is not None:
            progress(done, done)
        for plane in sorted(provisional):
            if cancel is not None:
                cancel.raise_if_cancelled()
            yield self.plane(plane)

    def _sweep(self, tracks: Sequence[Track], direction: int) -> Sweep:
        return Sweep(
            tracks, direction, self._start_mask, self._pictures, self._model, self.options, self._store, self._guard
        )

    def _sweep_through(
        self, sweep: Sweep, number: int, journal: Journal | None, cancel: CancelToken | None
    ) -> Iterator[tuple[int, PlaneResult]]:
        def known(plane: int) -> StepRecord | None:
            return journal.get(number, plane) if journal is not None else None

        start = time.perf_counter()
        for plane, found, step, is_new in sweep.run(known, cancel):
            self._take(plane, found, step)
            if is_new and journal is not None:
                journal.put(number, plane, step)
            seconds = round(time.perf_counter() - start, 3)
            yield plane, replace(self.plane(plane), seconds=seconds)
            start = time.perf_counter()

    def _take(self, plane: int, found: Mapping[Track, Record | None], step: StepRecord) -> None:
        if step.fault:
            self.faults[plane] = step.fault
            _log.info("Plane %d was skipped: %s", plane, step.fault)
        for track, record in found.items():
            if record is not None:
                self._passes.take(track, plane, record)

    def _start_mask(self, track: Track) -> Patch:
        """The outline that a track starts from, or what the way there found at its end."""
        outlined = self.outlines.get(track.start, track.label)
        return outlined if outlined is not None else self._passes.first[track.label][track.start].mask.patch

    def _guard(self, plane: int) -> NDArray[np.integer] | None:
        """Labels that no object may take pixels of on a plane."""
        kept = self._protected(plane)
        outlined = self.outlines.on_plane(plane)
        if not outlined:
            return kept
        labels = np.zeros(self.series.plane_shape, np.int32) if kept is None else np.array(kept, np.int32)
        for label, patch in outlined.items():
            labels[patch[0], patch[1]][patch[2]] = label
        return labels

    def _tracks(self, labels: Sequence[int], sweep: int) -> list[Track]:
        """What the sweep (0 up, 1 down, 2 up) still has to follow."""
        plan = Plan(self.outlines, self.planes, self.options)
        tracks = [track for label in labels for track in plan.tracks(label, sweep, self._passes.first[label])]
        return [track for track in tracks if track not in self._passes.finished]

    def _most_steps(self, labels: Sequence[int]) -> int:
        """Steps if no object ends before the planes do."""
        once = sum(
            len({p for t in self._tracks(labels, sweep) for p in range(min(t.start, t.stop) + 1, max(t.start, t.stop))})
            for sweep in (0, 1)
        )
        return 2 * once if self.options.check else once


def _range_text(planes: range) -> str:
    return f"{planes.start} to {planes.stop - 1}"
