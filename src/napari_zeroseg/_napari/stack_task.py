"""One run over a stack: its steps go through the inference thread one by one; it can be paused and cancelled. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import monotonic

from psygnal import Signal

from napari_zeroseg._napari.channel import Channel
from napari_zeroseg._napari.stack_work import Event, PlaneDone, Progressed, Work
from napari_zeroseg._napari.turns import Turns
from napari_zeroseg.jobs import CancelToken, Priority

QUIET = 1.0
"""Seconds for which a user must rest before work that gives way goes on."""

_KEY = "stack"


class Task:
    """Work that is under way. All methods are called in the window's thread and return at once.

    Parameters
    ----------
    name : str
        What is being done, such as "Propagating".
    work : callable
        As for :class:`Turns`.
    channel : Channel
    unit : str
        What progress counts.
    gives_way : bool
        Whether it stands still while the user works; else it only lets clicks go first.
    """

    told = Signal(object)
    """An :data:`Event`."""
    ended = Signal()
    failed = Signal(object)

    def __init__(
        self, name: str, work: Work, channel: Channel, unit: str = "planes", *, gives_way: bool = False
    ) -> None:
        self.name = name
        self.progress = Progressed(0, 0)
        self.unit = unit
        self.is_paused = False
        self._turns: Turns[Event] = Turns(work, _is_large)
        self._channel = channel
        self._gives_way = gives_way
        self._quiet_from = 0.0
        self._is_asked = False
        self._is_cancelled = False

    @property
    def left(self) -> float | None:
        """Estimated seconds of work that are left; None before anything is known."""
        done, total = self.progress.done, self.progress.total
        return self._turns.seconds * (total - done) / done if done > 0 else None

    @property
    def words(self) -> str:
        """How far it is, such as "Propagating: 3 of 10 planes, 00:12 left"."""
        total, left = self.progress.total, self.left
        told = f"{self.name} …" if not total else f"{self.name}: {int(self.progress.done)} of {int(total)} {self.unit}"
        if self.is_paused:
            return f"{told}, paused"
        return told if left is None else f"{told}, {_clock(left)} left"

    def start(self) -> None:
        """Begin, or go on."""
        self.is_paused = False
        self._go_on()

    def pause(self) -> None:
        """Stand still after the step that is being done."""
        self.is_paused = True

    def cancel(self) -> None:
        """Stop; what is being done reports nothing any more."""
        self._is_cancelled = True
        self._turns.cancel()
        self._channel.cancel(_KEY)

    def give_way(self) -> None:
        """Note that the user is at work."""
        self._quiet_from = monotonic() + QUIET

    def _go_on(self) -> None:
        if self._is_asked or self.is_paused or self._turns.has_ended:
            return
        wait = self._quiet_from - monotonic() if self._gives_way else 0.0
        if wait > 0:
            self._channel.later(_KEY, wait, self._go_on)
            return
        self._is_asked = True
        self._channel.submit(_KEY, Priority.AHEAD, self._step, self._on_step, partial(self._on_step, []))

    def _has_been_cancelled(self) -> bool:
        return self._is_cancelled

    def _step(self, _: CancelToken) -> Sequence[Event]:
        return self._turns.step()

    def _on_step(self, events: Sequence[Event], error: Exception | None = None) -> None:
        self._is_asked = False
        for event in events:
            if self._has_been_cancelled():
                return
            if isinstance(event, Progressed):
                self.progress = event
            self.told.emit(event)
        # Whoever hears of an event may cancel.
        if self._has_been_cancelled():
            return
        if error is not None:
            self.failed.emit(error)
        elif self._turns.has_ended:
            self.ended.emit()
        else:
            self._go_on()


def _is_large(event: Event) -> bool:
    """A plane of labels is drawn before the next is made, so that the window answers in between."""
    return isinstance(event, PlaneDone) and event.labels is not None


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60:02d}:{whole % 60:02d}"
