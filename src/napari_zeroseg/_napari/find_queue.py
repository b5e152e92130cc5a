"""The queue of proposals in the window: looked at one by one, accepted into labels or rejected, taken back. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_zeroseg._napari.channel import Channel
from napari_zeroseg._napari.engine import largest_label
from napari_zeroseg._napari.find_work import Accepting, change_of, counted, drawn_over
from napari_zeroseg._napari.history import EditRef, can_be_redone, is_same, newest_edit
from napari_zeroseg._napari.keys import FIND_KEYS, bind_all
from napari_zeroseg._napari.layers import camera_of, shown_plane
from napari_zeroseg._napari.output import Output
from napari_zeroseg._napari.preview import PROPOSALS, Preview
from napari_zeroseg._napari.stack_place import StackPlace, world_of
from napari_zeroseg._napari.stack_results import OneEdit
from napari_zeroseg._napari.stack_run import Runner
from napari_zeroseg._napari.stack_task import Task
from napari_zeroseg._napari.stack_work import Stack
from napari_zeroseg.cascade import Proposal, Queue
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.jobs import Priority
from napari_zeroseg.segmenter import Patch

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer

_CURRENT, _OTHER = 1, 2
"""Colours of the preview: the proposal that is asked about, and the others of its plane."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is searched, and where accepted objects go: an image's planes, and labels of the same shape."""

    image: Image
    labels: Labels
    place: StackPlace
    stack: Stack


@dataclass(frozen=True, eq=False)
class _Answer:
    """One answer; `edit` is what it has written, and `largest` the largest label before that."""

    edit: EditRef | None = None
    largest: int | None = None


class Inquiry:
    """Asks about each proposal of a search, the most certain first. Methods return at once.

    Parameters
    ----------
    viewer : ViewerModel
    channel : Channel
        The queue learns from answers in its inference thread, and is touched there only.
    runner : Runner
        Tells the user, and does what takes long.
    at : Subject
    queue : Queue
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel, channel: Channel, runner: Runner, at: Subject, queue: Queue) -> None:
        self.ranked: Sequence[Proposal] = ()
        """Proposals without an answer."""
        self.current: Proposal | None = None
        """That the next answer is about."""
        self.rejected: list[Proposal] = []
        """That are none of the rest."""
        self.preview = Preview(viewer, PROPOSALS)
        self._viewer = viewer
        self._channel = channel
        self._runner = runner
        self._at = at
        self._queue = queue
        self._answers: list[_Answer] = []
        self._counts = (0, 0)
        self._is_ranking = self._is_undoing = self._is_closed = False
        self._writing: Task | None = None
        self._output = Output(at.labels, None, self._count)
        self._count()
        at.labels.events.set_data.connect(self._follow_undo)
        self._free_keys = bind_all(viewer, self, FIND_KEYS)

    def close(self) -> None:
        """Give the keys back and show nothing more; what was accepted stays."""
        self._is_closed = True
        self._free_keys()
        self._at.labels.events.set_data.disconnect(self._follow_undo)
        self._output.close()
        self.preview.remove()

    @property
    def key(self) -> object:
        """Equal for all searches of one stack with one labels layer."""
        return self._at.image.unique_id, self._at.labels.unique_id, self._at.place.stack

    def on_removed(self, layer: Layer) -> bool:
        """Take note that a layer was removed; whether the proposals have lost their sense by that."""
        if layer is self.preview.layer:
            self.preview.layer = None
        return layer is self._at.labels or layer is self._at.image

    # What the dock shows

    @property
    def can_answer(self) -> bool:
        """Whether a proposal is asked about."""
        return self.current is not None and not self._is_waiting

    @property
    def can_take_back(self) -> bool:
        """Whether there is an answer that may be taken back."""
        return bool(self._answers) and not self._is_waiting

    @property
    def _is_waiting(self) -> bool:
        """Whether the last answer has not come to its end, or labels are being written."""
        task = self._runner.task
        return self._is_ranking or self._runner.is_editing or (task is not None and task is self._writing)

    @property
    def summary(self) -> str:
        """What is open and what was answered, such as "5 proposals for 'cells'; 2 accepted, 1 rejected"."""
        accepted, rejected = self._counts
        left = f"{counted(len(self.ranked), 'proposal')} for '{self._at.labels.name}'"
        return f"{left}; {accepted} accepted, {rejected} rejected"

    def above(self, least: float) -> list[Proposal]:
        """Proposals that are at least so certain."""
        return [one for one in self.ranked if one.certainty >= least]

    # Looking at proposals

    def show_ranked(self, ranked: Sequence[Proposal], patch: Patch | None = None) -> None:
        """Show these, and ask about that of `patch` or the most certain one."""
        self.ranked, self.current = ranked, None
        if ranked:
            self.select(next((i for i, one in enumerate(ranked) if one.patch is patch), 0))
        else:
            self.preview.hide()
            self._runner.say("All proposals are answered.", "good")

    def select(self, index: int) -> None:
        """Ask about a proposal: show its plane and its mask, and centre on it."""
        if 0 <= index < len(self.ranked):
            one = self.current = self.ranked[index]
            told = f"Proposal {index + 1} of {len(self.ranked)}: plane {one.plane}, certainty {one.certainty:.2f}"
            self._runner.say(told)
            self._try(partial(self._show, one))

    def _show(self, proposal: Proposal) -> None:
        at, dims = self._at, self._viewer.dims
        plane = replace(shown_plane(at.image, dims), index=at.place.at(proposal.plane))
        if plane.axes != at.place.axes:
            raise InputError("Other axes are displayed than were searched: roll them back (Ctrl-E) to see proposals.")
        for axis in plane.others:
            dims.set_point(axis + dims.ndim - plane.ndim, world_of(plane, axis, plane.index[axis]))
        rows, columns, _ = proposal.patch
        middle = plane.corner((rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2)
        world = plane.to_world @ [*middle, 1.0]
        row, column = (float(world[axis]) for axis in plane.axes)
        camera_of(self._viewer).center = (0.0, row, column)
        beside = [one for one in self.ranked if one.plane == proposal.plane]
        self.preview.show(at.image, plane, *_together(beside, proposal))

    # Answers

    def accept(self) -> None:
        """Write the current proposal into the labels as a new object, where they are empty."""
        if self.can_answer:
            self._try(self._accept)

    def _accept(self) -> None:
        at, proposal, index = self._at, *self._asked()
        largest, label = self._output.largest, self._output.next_id()
        self._output.check_fits(label)
        rows, columns, mask = proposal.patch
        before = at.place.turned(np.array(at.labels.data[at.place.box(proposal.plane, rows, columns)]))
        after = drawn_over(before, mask, label, self._queue.options.overlap)
        answer = _Answer()
        if after is None:
            self._runner.note(f"Nothing was written on plane {proposal.plane}: it is labelled there already.")
        else:
            edit = OneEdit(at.labels)
            edit.put(change_of(at.place, proposal, before, after))
            answer = _Answer(edit.commit(), largest)
        self._learn(answer, partial(self._queue.accept, index))

    def reject(self) -> None:
        """Drop the current proposal; what looks more like it sinks."""
        if self.can_answer:
            _, index = self._asked()
            self._learn(_Answer(), partial(self._queue.reject, index))

    def accept_all(self, least: float) -> None:
        """Write all proposals that are at least so certain into the labels, as one step of undo."""
        if self.can_answer and self.above(least):
            self._try(partial(self._accept_all, least))

    def _accept_all(self, least: float) -> None:
        at, chosen = self._at, self.above(least)
        self._runner.check_free()
        largest, first = self._output.largest, self._output.next_id()
        self._output.check_fits(first + len(chosen) - 1)
        work = Accepting(chosen, at.labels.data, at.place, first, self._queue.options.overlap)

        def written() -> None:
            written = self._runner.written
            self._learn(
                _Answer() if written is None else _Answer(written, largest), partial(self._queue.accept_all, least)
            )

        self._runner.run("Accepting", work, None, (at.labels, at.image), then=written)
        self._writing = self._runner.task
        self.changed.emit()

    def take_back(self) -> None:
        """Take the last answer back: what it has written leaves the labels, and it is asked about again."""
        if self.can_take_back:
            self._try(self._take_back)

    def _take_back(self) -> None:
        labels, edit = self._at.labels, self._answers[-1].edit
        if edit is not None and is_same(newest_edit(labels), edit):
            self._is_undoing = True
            try:
                labels.undo()
            finally:
                self._is_undoing = False
        elif edit is not None and not can_be_redone(labels, edit):
            raise InputError(
                f"'{labels.name}' was edited since then: take that back first, by Ctrl-Z with that layer selected."
            )
        self._forget()

    def _follow_undo(self, event: Any = None) -> None:
        """Take answers back whose objects have left the labels by napari's own undo, and all answers after them."""
        if self._is_undoing or self._is_ranking or self._is_closed:
            return
        if any(can_be_redone(self._at.labels, answer.edit) for answer in self._answers):
            self._forget()

    def _forget(self) -> None:
        answer = self._answers.pop()
        if answer.edit is not None:
            self._output.free(answer.largest, answer.edit)
        self._rank(lambda: self._queue.take_back()[0].patch)

    def _asked(self) -> tuple[Proposal, int]:
        assert self.current is not None
        return self.current, self.ranked.index(self.current)

    def _learn(self, answer: _Answer, teach: Callable[[], object]) -> None:
        self._answers.append(answer)

        def learn() -> None:
            teach()

        self._rank(learn)

    def _rank(self, teach: Callable[[], Patch | None]) -> None:
        """Let the queue learn, and show how it is ranked then, first that of the patch that `teach` returns."""
        queue = self._queue

        def rank(_: object) -> tuple[Patch | None, list[Proposal], int, list[Proposal]]:
            patch = teach()
            return patch, list(queue), len(queue.accepted), list(queue.rejected)

        self._is_ranking = True
        self._channel.submit("rank", Priority.CLICK, rank, self._on_ranked, self._on_failed)
        self.changed.emit()

    def _on_ranked(self, found: tuple[Patch | None, list[Proposal], int, list[Proposal]]) -> None:
        if self._is_closed:
            return
        patch, ranked, accepted, self.rejected = found
        self._counts = accepted, len(self.rejected)
        self._is_ranking = False
        self.show_ranked(ranked, patch)
        self._follow_undo()

    def _on_failed(self, error: Exception) -> None:
        self._is_ranking = False
        self._runner.report(error)

    # The largest label

    def _count(self) -> None:
        count = partial(largest_label, self._at.labels.data)
        self._channel.submit("count", Priority.LOAD, count, self._on_counted, self._runner.report)

    def _on_counted(self, largest: int) -> None:
        if self._output.largest is None:
            self._output.largest = largest

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except ZerosegError as error:
            self._runner.report(error)


def _together(proposals: Sequence[Proposal], current: Proposal) -> tuple[int, int, NDArray[np.uint8]]:
    """(row, column, masks): proposals of a plane in the smallest array that holds them, the current one on top."""
    spans = np.array([[[span.start, span.stop] for span in one.patch[:2]] for one in proposals])
    (row, column), (bottom, right) = spans[..., 0].min(0).tolist(), spans[..., 1].max(0).tolist()
    masks = np.zeros((bottom - row, right - column), np.uint8)
    for one in sorted(proposals, key=lambda one: one is current):
        rows, columns, mask = one.patch
        within = slice(rows.start - row, rows.stop - row), slice(columns.start - column, columns.stop - column)
        masks[within][mask] = _CURRENT if one is current else _OTHER
    return row, column, masks
