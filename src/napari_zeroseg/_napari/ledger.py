"""The ledger: what was accepted and discarded, so that every step can be taken back and nothing is lost. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_zeroseg._napari.history import EditRef, can_be_redone, is_same, newest_edit
from napari_zeroseg._napari.layers import CLASS_NAMES, ShownPlane
from napari_zeroseg._napari.marks import Marks, Picked
from napari_zeroseg._napari.output import Output, Written
from napari_zeroseg._napari.prompt_layers import Taken, take
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.segmenter import Patch

if TYPE_CHECKING:
    from napari.layers import Labels


@dataclass(frozen=True, eq=False)
class Finished:
    """One object as it is to be written: its marks, its mask, its label (None: the next free id)."""

    marks: Marks
    patch: Patch
    label: int | None = None

    @classmethod
    def of(cls, marks: Marks, patch: Patch, class_id: int | None) -> Finished:
        """Take the number of a phrase, else that of the label being refined, else the class, if there is one.

        Where objects get a class, that of a shape's feature "class" goes before `class_id`.
        """
        if marks.phrase:
            return cls(marks, patch, marks.object_id)
        if marks.picked is not None:
            return cls(marks, patch, marks.picked.label)
        return cls(marks, patch, class_id and (marks.class_id or class_id))


@dataclass(eq=False)
class Step:
    """Something that can be taken back.

    Attributes
    ----------
    place : tuple
        Image, output and plane where it happened, as :meth:`Workspace.place` has them.
    objects : list of int
        Numbers of the objects whose marks were taken.
    taken : list of Taken
        The marks, out of their layers.
    picked : Picked or None
        The label that was being refined.
    layer : Labels or None
        Where masks were written; None if they were discarded.
    written : list of Written
    edit : EditRef or None
        The edit in the history of `layer`.
    largest : int or None
        The largest label of `layer` before.
    names : dict of str and int
        Numbers of the classes that the shapes name, or of the phrases.
    is_class : bool
        Whether what was written are numbers of classes.
    """

    place: tuple[object, ...]
    objects: list[int]
    taken: list[Taken]
    picked: Picked | None = None
    layer: Labels | None = None
    written: list[Written] = field(default_factory=list)
    edit: EditRef | None = None
    largest: int | None = None
    names: dict[str, int] = field(default_factory=dict)
    is_class: bool = False

    @property
    def classes(self) -> set[int]:
        """Numbers of classes that were written."""
        return {one.label for one in self.written} if self.is_class else set()

    def sentence(self) -> str:
        """Say what was accepted."""
        pixels = sum(one.pixels for one in self.written)
        what = f"{len(self.written)} {'classes' if self.is_class else 'objects'}"
        if len(self.written) == 1:
            what = f"{'Class' if self.is_class else 'Object'} {self.written[0].label}"
        named = ", ".join(f"{number} {name}" for name, number in self.names.items() if number in self.classes)
        return f"{what} accepted, {pixels:,} pixels" + (f" ({named})" if named else "")


_FEW = 2
"""Objects that are drawn one by one as they are written."""


@dataclass(frozen=True, eq=False)
class Undone:
    """What was taken back: a sentence, and the step whose marks came back, if it was one."""

    text: str
    step: Step | None = None


class Ledger:
    """Accepts, discards and takes back, in the layers of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.steps: list[Step] = []

    def classes_in(self, layer: Labels | None) -> tuple[dict[str, int], set[int]]:
        """Names and numbers of the classes that were accepted into a layer."""
        names: dict[str, int] = {}
        numbers: set[int] = set()
        for step in self.steps:
            if step.is_class and step.layer is layer:
                written = step.classes
                names |= {name: number for name, number in step.names.items() if number in written}
                numbers |= written
        return names, numbers

    def accept(
        self,
        finished: Sequence[Finished],
        plane: ShownPlane,
        policy: OverlapPolicy,
        top_first: Sequence[int],
        *,
        is_class: bool = False,
    ) -> Step:
        """Write objects into the output as one undoable edit and take their marks out of the layers.

        Where they meet, that which comes first in `top_first` has the pixels. `is_class` says that their labels are
        numbers of classes. The output's
        :meth:`~napari_zeroseg._napari.output.Output.show` is due afterwards.

        Raises
        ------
        InputError
            If the output cannot be edited, cannot hold the labels or leaves no pixel free; then nothing changes.
        """
        output = self._workspace.output
        assert output is not None
        labels, largest = _labels_for(finished, output), output.largest
        target, many = output.target(plane, self._workspace.viewer.dims), len(finished) > _FEW
        earlier = [_earlier(done.marks) for done in finished]
        told = [patch for patch in earlier if patch is not None]
        # who comes first keeps the pixels, unless the overlap is to be replaced
        order = reversed(top_first) if policy is OverlapPolicy.REPLACE else top_first
        by_place: dict[int, Written] = {}
        with (
            output.layer.block_history(),
            output.together([done.patch for done in finished], told, target) if many else nullcontext(),
        ):
            for i in order:
                by_place[i] = output.write(
                    finished[i].patch, labels[i], policy, target, earlier=earlier[i], is_one_of_many=many
                )
        written = [by_place[i] for i in range(len(finished))]
        if not any(one.pixels for one in written):
            raise InputError(_nothing_written(finished, policy))
        step = self._take([done.marks for done in finished], plane)
        step.layer, step.written, step.largest = output.layer, written, largest
        step.edit, step.is_class = newest_edit(output.layer), is_class
        step.names = {done.marks.phrase: done.marks.object_id for done in finished if done.marks.phrase}
        if not step.names and self._workspace.shapes is not None:
            step.names = dict(self._workspace.shapes.metadata.get(CLASS_NAMES, {}))
        return step

    def discard(self, marks: Sequence[Marks], plane: ShownPlane) -> Step | None:
        """Take marks out of their layers; None if there are none."""
        if not any(m.drawn or m.picked for m in marks):
            return None
        return self._take(marks, plane)

    def undo(self) -> Undone | None:
        """Take back the newest step, or, where the user painted after it, that paint; None if nothing is left."""
        if not self.steps:
            return None
        step = self.steps[-1]
        if step.layer is None:
            return self._put_back(step, "Taken back")
        if step.layer not in self._workspace.viewer.layers:
            return self._put_back(step, f"The prompts are back; '{step.layer.name}' is gone, and its labels with it")
        if can_be_redone(step.layer, step.edit):
            return self._put_back(step, "Taken back")
        return self.undo_in(step.layer) or self._put_back(
            step, f"The prompts are back, but napari forgot the edit of '{step.layer.name}': erase the labels there"
        )

    def undo_in(self, layer: Labels) -> Undone | None:
        """Undo in a Labels layer as napari does, and put the marks back of what that takes out; None if it cannot."""
        edit = newest_edit(layer)
        if edit is None:
            return None
        step = next((s for s in reversed(self.steps) if s.layer is layer and is_same(s.edit, edit)), None)
        layer.undo()
        where = "" if layer is self._workspace.labels else f" in '{layer.name}'"
        if step is None:
            return Undone(f"The last edit of the labels{where} is taken back")
        return self._put_back(step, f"Taken back{where}")

    def recall(self, label: int, plane: ShownPlane, made_it: Callable[[tuple[int, ...]], bool]) -> list[int]:
        """Put the marks back that made `label` on this plane; the numbers of their objects.

        Parameters
        ----------
        label : int
        plane : ShownPlane
        made_it : callable
            Whether a step is meant that wrote the label at these coordinates of the output.
        """
        for step, witness in self._made(label, plane):
            if made_it(witness) and len(step.written) == 1 and step.taken:
                self._restore(step)
                return step.objects
        return []

    def witnesses(self, label: int, plane: ShownPlane) -> list[tuple[int, ...]]:
        """Coordinates in the output where steps wrote that label on this plane, newest first."""
        return [witness for _, witness in self._made(label, plane)]

    def _made(self, label: int, plane: ShownPlane) -> Iterator[tuple[Step, tuple[int, ...]]]:
        place = self._workspace.place(plane)
        for step in reversed(self.steps):
            if step.layer is self._workspace.labels and (step.place[0], step.place[2]) == (place[0], place[2]):
                for one in step.written:
                    if one.label == label and one.witness is not None:
                        yield step, one.witness

    def _take(self, marks: Sequence[Marks], plane: ShownPlane) -> Step:
        points, shapes = self._workspace.points, self._workspace.shapes
        taken: list[Taken] = []
        for layer, is_points in ((points, True), (shapes, False)):
            rows = sorted({row for m in marks for row in m.rows(points=is_points)})
            if layer is not None and rows:
                taken.append(take(layer, rows))
        picked = next((m.picked for m in marks if m.picked is not None), None)
        # The object at hand is the last, so that taking back goes on with it.
        objects = [m.object_id for m in sorted(marks, key=lambda m: m.picked is not None) if not m.phrase]
        step = Step(self._workspace.place(plane), objects, taken, picked)
        self.steps.append(step)
        return step

    def _put_back(self, step: Step, text: str) -> Undone:
        self.steps.remove(step)
        self._restore(step)
        output = self._workspace.output
        if output is not None and output.layer is step.layer:
            output.free(step.largest, step.edit)
        return Undone(text, step)

    def _restore(self, step: Step) -> None:
        for taken in step.taken:
            if taken.layer in self._workspace.viewer.layers:
                taken.put_back()
        step.taken = []


def _earlier(marks: Marks) -> Patch | None:
    return None if marks.picked is None else marks.picked.own


def _nothing_written(finished: Iterable[Finished], policy: OverlapPolicy) -> str:
    if any(done.marks.picked is not None for done in finished):
        return (
            "Nothing was written, since no pixel would change: add points or a box that change the label, "
            "choose another overlap, or discard the preview."
        )
    if policy is OverlapPolicy.REPLACE:
        return "Nothing was written, since the labels are like that already: discard the preview."
    return (
        "Nothing was written, since every pixel of it belongs to another object: "
        "choose 'Replace' as overlap, or discard it."
    )


def _labels_for(finished: Iterable[Finished], output: Output) -> list[int]:
    """Give each object its label and check that the layer can hold them all."""
    labels: list[int] = []
    following: int | None = None
    for done in finished:
        if done.label is not None:
            labels.append(done.label)
        else:
            following = output.next_id() if following is None else following + 1
            labels.append(following)
    for label in labels:
        output.check_fits(label)
    return labels
