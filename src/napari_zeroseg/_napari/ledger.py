"""The ledger: what was accepted and discarded, so that every step can be taken back and nothing is lost. No Qt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_zeroseg._napari.layers import ShownPlane
from napari_zeroseg._napari.marks import Marks
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


@dataclass(eq=False)
class Step:
    """Something that can be taken back.

    Attributes
    ----------
    plane : tuple
        Key of the plane where it happened.
    objects : list of int
        Numbers of the objects whose marks were taken.
    taken : list of Taken
        The marks, out of their layers.
    layer : Labels or None
        Where masks were written; None if they were discarded.
    written : list of Written
    """

    plane: tuple[object, ...]
    objects: list[int]
    taken: list[Taken]
    layer: Labels | None = None
    written: list[Written] = field(default_factory=list)

    def sentence(self, *, is_class: bool) -> str:
        """Say what was accepted."""
        pixels = sum(one.pixels for one in self.written)
        what = f"{len(self.written)} {'classes' if is_class else 'objects'}"
        if len(self.written) == 1:
            what = f"{'Class' if is_class else 'Object'} {self.written[0].label}"
        return f"{what} accepted, {pixels:,} pixels"


class Ledger:
    """Accepts, discards and takes back, in the layers of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.steps: list[Step] = []

    def accept(self, finished: Sequence[Finished], plane: ShownPlane, policy: OverlapPolicy) -> Step:
        """Write objects into the output as one undoable edit and take their marks out of the layers.

        Raises
        ------
        InputError
            If the output cannot be edited, cannot hold the labels or leaves no pixel free; then nothing changes.
        """
        output = self._workspace.output
        assert output is not None
        labels = _labels_for(finished, output)
        dims = self._workspace.viewer.dims
        with output.layer.block_history():
            written = [
                output.write(
                    done.patch, label, policy, seen_from=plane, dims=dims, replace=done.marks.picked is not None
                )
                for done, label in zip(finished, labels, strict=True)
            ]
        if not any(one.pixels for one in written):
            raise InputError(
                "Nothing was written, since every pixel of it belongs to another object: "
                "choose 'Replace' as overlap, or discard it."
            )
        step = self._take([done.marks for done in finished], plane)
        step.layer, step.written = output.layer, written
        return step

    def discard(self, marks: Sequence[Marks], plane: ShownPlane) -> Step | None:
        """Take marks out of their layers; None if there are none."""
        if not any(m.drawn for m in marks):
            return None
        return self._take(marks, plane)

    def undo(self) -> Step | None:
        """Take back the newest step, or, where the user painted after it, that paint; None if nothing is left."""
        while self.steps:
            step = self.steps[-1]
            if step.layer is None:
                return self._put_back(step)
            if step.layer in self._workspace.viewer.layers:
                step.layer.undo()
                self.follow_undo(step.layer)
                return step
            self.steps.pop()
        return None

    def follow_undo(self, layer: Labels) -> Step | None:
        """Put the marks back of what an undo in `layer` has just taken out of it; None if it was something else."""
        output = self._workspace.output
        step = next((s for s in reversed(self.steps) if s.layer is layer), None)
        if step is None or output is None or output.layer is not layer:
            return None
        if any(output.holds(written) for written in step.written):
            return None
        return self._put_back(step)

    def recall(self, label: int, plane: ShownPlane) -> list[int]:
        """Put the marks back that made `label` on this plane; the numbers of their objects."""
        for step in reversed(self.steps):
            made_it = step.layer is self._workspace.labels and any(w.label == label for w in step.written)
            if made_it and len(step.written) == 1 and step.plane == plane.key and step.taken:
                self._restore(step)
                return step.objects
        return []

    def _take(self, marks: Sequence[Marks], plane: ShownPlane) -> Step:
        points, shapes = self._workspace.points, self._workspace.shapes
        taken: list[Taken] = []
        for layer, is_points in ((points, True), (shapes, False)):
            rows = sorted({row for m in marks for row in m.rows(points=is_points)})
            if layer is not None and rows:
                taken.append(take(layer, rows))
        step = Step(plane.key, [m.object_id for m in marks if not m.phrase], taken)
        self.steps.append(step)
        return step

    def _put_back(self, step: Step) -> Step:
        self.steps.remove(step)
        self._restore(step)
        return step

    def _restore(self, step: Step) -> None:
        for taken in step.taken:
            if taken.layer in self._workspace.viewer.layers:
                taken.put_back()
        step.taken = []


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
