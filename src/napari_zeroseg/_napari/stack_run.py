"""The run that is under way in the Stack dock: its progress, what it draws, the log of what was done. No Qt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_zeroseg._napari.channel import Channel, Status
from napari_zeroseg._napari.history import EditRef
from napari_zeroseg._napari.stack_results import OneEdit, Results
from napari_zeroseg._napari.stack_task import Task
from napari_zeroseg._napari.stack_work import Change, Changes, Event, PlaneDone, Surveyed, Told, Work
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.jobs import Priority
from napari_zeroseg.propagation import Flag

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

_WRITING = 0.02
"""Seconds of writing into a layer after which the window has its turn."""


class Runner:
    """Does one thing at a time and tells how far it is.

    Parameters
    ----------
    channel : Channel
    plane_of : callable
        The plane of results that is on the screen.
    """

    changed = Signal()

    def __init__(self, channel: Channel, plane_of: Callable[[Results], int]) -> None:
        self.status = Status("Choose an image, and what to do with its planes")
        self.log: list[str] = []
        self.task: Task | None = None
        self.survey: Surveyed | None = None
        """What the newest propagation knows."""
        self.curve: dict[int, float] = {}
        """Certainty by plane, as far as it is known."""
        self.written: EditRef | None = None
        """What the newest run has changed in labels that were there."""
        self._channel = channel
        self._plane_of = plane_of
        self._ask: Callable[[], Surveyed | None] = lambda: None
        self._edit: OneEdit | None = None
        self._needs: tuple[Layer, ...] = ()
        self._edited: set[int] = set()
        self._then: Callable[[], None] = _nothing
        self._cut_short: Callable[[], None] = _nothing

    @property
    def is_busy(self) -> bool:
        """Whether something is under way."""
        return self.task is not None or self.is_editing

    @property
    def is_editing(self) -> bool:
        """Whether changes of labels are being written."""
        return self._edit is not None

    def check_free(self) -> None:
        """Raise if something is under way.

        Raises
        ------
        InputError
        """
        if self.is_busy:
            raise InputError("Something else is under way: cancel it first, or wait.")

    def run(
        self,
        name: str,
        work: Work,
        results: Results | None,
        needs: tuple[Layer, ...],
        unit: str = "planes",
        *,
        gives_way: bool = False,
        then: Callable[[], None] | None = None,
        cut_short: Callable[[], None] | None = None,
    ) -> None:
        """Begin.

        Parameters
        ----------
        name : str
            Such as "Propagating".
        work : callable
        results : Results or None
            What it draws into.
        needs : tuple of Layer
            Layers without which it ends; changes are written into the first.
        unit : str
            What progress counts.
        gives_way : bool
            Whether it stands still while the user works.
        then : callable, optional
            Called once all is done, changes of labels included; not if it failed.
        cut_short : callable, optional
            Called in its place where it was cancelled.

        Raises
        ------
        InputError
            If something else is under way.
        """
        self.check_free()
        task = self.task = Task(name, work, self._channel, unit, gives_way=gives_way)
        self._needs, self._edited, self.written = needs, set(), None
        self._then, self._cut_short = then or _nothing, cut_short or _nothing
        task.told.connect(partial(self._on_told, results))
        task.ended.connect(partial(self._on_ended, results))
        task.failed.connect(self._on_failed)
        task.start()
        self._show_progress()

    def forget(self, ask: Callable[[], Surveyed | None]) -> None:
        """Begin another propagation, about which `ask` tells in the inference thread."""
        self.survey, self.curve, self._ask = None, {}, ask

    def pause(self) -> None:
        """Stand still, or go on."""
        if self.task is not None:
            if self.task.is_paused:
                self.task.start()
            else:
                self.task.pause()
            self._show_progress()

    def cancel(self) -> None:
        """Stop what is being done; what was found so far stays."""
        task = self.task
        if task is None:
            return
        task.cancel()
        self._stop()
        done, total = int(task.progress.done), int(task.progress.total)
        so_far = f" after {done} of {total} {task.unit}" if total else ""
        self.note(f"{task.name} cancelled{so_far}; what was found stays.", "warning")
        if task.name.startswith("Propagating"):
            ask = self._ask
            # Behind the step that still ends in that thread.
            self._channel.submit("survey", Priority.AHEAD, lambda _: ask(), self._on_survey, self.report)
        self._cut_short()

    def close(self) -> None:
        """Stop, and leave nothing half written."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self._edit is not None:
            self._edit.revert()
            self._edit = None

    def on_removed(self, layer: Layer) -> None:
        """Stop what needs that layer."""
        if any(layer is needed for needed in self._needs):
            self.note(f"'{layer.name}' was removed.")
            self.cancel()

    # What it tells

    def _on_told(self, results: Results | None, event: Event) -> None:
        try:
            if isinstance(event, PlaneDone):
                self._draw(results, event)
        except ZerosegError as error:
            self.cancel()
            self.note(self._channel.report(error), "warning")
            return
        if isinstance(event, Surveyed):
            self._on_survey(event)
        elif isinstance(event, Changes):
            self._begin_edit(event)
        elif isinstance(event, Told):
            self.note(event.words)
        self._show_progress()

    def _draw(self, results: Results | None, done: PlaneDone) -> None:
        if done.fault:
            self.note(f"Plane {done.plane} was skipped: {done.fault}")
        if done.certainty is not None:
            self.curve[done.plane] = done.certainty
        if results is None or done.labels is None:
            return
        if not results.write(done):
            if done.plane not in self._edited:
                self._edited.add(done.plane)
                self.note(f"Plane {done.plane} of '{results.layer.name}' was edited meanwhile, and stays as it is.")
        elif done.plane == self._plane_of(results):
            results.layer.refresh(extent=False)

    def _on_survey(self, survey: Surveyed | None) -> None:
        if survey is not None:
            self.survey, self.curve = survey, dict(survey.curve)
        self.changed.emit()

    def _on_ended(self, results: Results | None) -> None:
        self._stop()
        if not self.is_editing:
            self._then()
        if results is None:
            return
        if results.kind == "everything":
            results.show_table()
            self.note(f"Everything segmented: {len(results.table)} objects in '{results.layer.name}'.", "good")
        elif results.kind == "propagated" and self.survey is not None:
            self.note(self.survey.words, "good")

    def _on_failed(self, error: Exception) -> None:
        self._stop()
        self.note(self._channel.report(error), "warning")

    def _stop(self) -> None:
        self.task, self._needs = None, ()
        self.changed.emit()

    # Changes of other labels, a few parts at a time

    def _begin_edit(self, changes: Changes) -> None:
        layer: Labels = self._needs[0]
        self._edit = OneEdit(layer)
        self._go_on_editing(list(changes.parts), changes.words)

    def _go_on_editing(self, parts: list[Change], words: str) -> None:
        edit = self._edit
        assert edit is not None
        end = time.perf_counter() + _WRITING
        try:
            while parts and time.perf_counter() < end:
                edit.put(parts.pop(0))
        except ZerosegError as error:
            edit.revert()
            self._edit, self._then = None, _nothing
            self.note(self._channel.report(error), "warning")
            return
        if parts:
            self._channel.later("write", 0, partial(self._go_on_editing, parts, words))
            return
        self.written = edit.commit()
        self._edit = None
        self.note(f"{words} Ctrl-Z in '{edit.layer.name}' takes it back.", "good")
        if self.task is None:
            self._then()

    # Talking to the user

    def report(self, error: Exception) -> None:
        """Tell what is wrong."""
        self.say(self._channel.report(error), "warning")

    def note(self, words: str, tone: str = "idle") -> None:
        """Put a sentence into the log."""
        self.log.append(f"{time.strftime('%H:%M')}  {words}")
        self.say(words, tone)

    def say(self, text: str, tone: str = "idle") -> None:
        """Show a sentence."""
        self.status = Status(text, tone)
        self.changed.emit()

    def _show_progress(self) -> None:
        if self.task is not None:
            self.say(self.task.words, "busy")


def _nothing() -> None:
    """Comes after work after which nothing is to be done."""


def flagged(flags: Iterable[Flag]) -> dict[int, tuple[str, float]]:
    """By plane, why somebody should look at it, and the certainty of the object that it is about."""
    by_plane: dict[int, list[Flag]] = {}
    for flag in flags:
        by_plane.setdefault(flag.plane, []).append(flag)
    return {plane: (_why(here), min(flag.certainty for flag in here)) for plane, here in by_plane.items()}


def _why(here: Sequence[Flag]) -> str:
    told = []
    for reason in dict.fromkeys(flag.reason for flag in here):
        numbers = [str(flag.label) for flag in here if flag.reason is reason and flag.label]
        told.append(f"{reason} (object{'s' * (len(numbers) > 1)} {', '.join(numbers)})" if numbers else str(reason))
    return ", ".join(told)
