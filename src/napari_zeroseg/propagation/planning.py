"""Which way each object is followed: away from its outlines, between two of them, and back to check."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from napari_zeroseg.propagation.outlines import Outlines
from napari_zeroseg.propagation.result import Direction, PropagationOptions
from napari_zeroseg.propagation.tracking import Track

UP, DOWN, UP_AGAIN = range(3)
"""The sweeps: away from outlines upwards; downwards, and back from the upper ends; back from the lower ends."""


@dataclass(frozen=True)
class Plan:
    """What is to be followed.

    Attributes
    ----------
    outlines : Outlines
    planes : range
    options : PropagationOptions
    """

    outlines: Outlines
    planes: range
    options: PropagationOptions

    def tracks(self, label: int, sweep: int, reached: Collection[int]) -> list[Track]:
        """Tracks of one object in one sweep.

        Parameters
        ----------
        label : int
        sweep : int
            `UP`, `DOWN` or `UP_AGAIN`.
        reached : collection of int
            Planes on which the ways away from outlines have found it so far.
        """
        found = [
            track
            for start in self.outlines.starts_of(label)
            for track in self._away(label, start, sweep) + list(self._back(label, start, sweep, reached))
        ]
        return [track for track in found if abs(track.stop - track.start) > 1]

    def _away(self, label: int, start: int, sweep: int) -> list[Track]:
        """From an outline to the next one, or to the end of the planes."""
        stop, is_between = self._limit(label, start, 1 if sweep == UP else -1)
        if sweep == UP and (is_between or self.options.direction is not Direction.BACKWARDS):
            return [Track(label, start, stop, second=False)]
        if sweep == DOWN and (is_between or self.options.direction is not Direction.FORWARDS):
            return [Track(label, start, stop, second=is_between)]
        return []

    def _back(self, label: int, start: int, sweep: int, reached: Collection[int]) -> Iterator[Track]:
        """From where an object ended back to the outline where it began, and onto that."""
        if sweep == UP or not self.options.check:
            return
        step = 1 if sweep == DOWN else -1
        stop, is_between = self._limit(label, start, step)
        if is_between:
            return
        beyond = [plane for plane in reached if (plane - start) * step > 0 and (stop - plane) * step > 0]
        if beyond:
            yield Track(label, max(beyond, key=lambda plane: abs(plane - start)), start - step, second=True)

    def _limit(self, label: int, start: int, step: int) -> tuple[int, bool]:
        """The plane at which to stop, and whether the object is outlined there."""
        lower, upper = self.outlines.neighbours(label, start)
        known = upper if step > 0 else lower
        if known is None:
            return (self.planes.stop if step > 0 else self.planes.start - 1), False
        return known, self.outlines.is_start(label, known)
