"""The session: all that one viewer does with a model, for the dock to show and the keys to call. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.ahead import Ahead
from napari_zeroseg._napari.asking import Asking, Options
from napari_zeroseg._napari.channel import Bridge, Channel, Status
from napari_zeroseg._napari.choosing import Choosing
from napari_zeroseg._napari.classes import Classes
from napari_zeroseg._napari.comparing import Comparing
from napari_zeroseg._napari.detecting import Detecting
from napari_zeroseg._napari.engine import Engine, ModelChoice, largest_label, shared_engine
from napari_zeroseg._napari.hints import Hints
from napari_zeroseg._napari.layers import NEGATIVE, POSITIVE, SIGN, camera_of
from napari_zeroseg._napari.ledger import Finished, Ledger, Undone
from napari_zeroseg._napari.numbering import number_next, separate_boxes
from napari_zeroseg._napari.outlining import Outlining
from napari_zeroseg._napari.output import Output
from napari_zeroseg._napari.preview import Preview
from napari_zeroseg._napari.refining import pick_up
from napari_zeroseg._napari.wording import Wording
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg._napari.zoo import Zoo, shared_zoo
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.jobs import InferenceQueue, Priority, shared_queue
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.tiling import LARGE_PLANE

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_zeroseg.registry import ModelSpec

_AFTER_SLIDER, _AFTER_CAMERA = 0.15, 0.4
"""Seconds of quiet before encoding ahead follows these."""

_MODES = {"points": "add", "box": "add_rectangle", "mask": "add_polygon_lasso"}


class Session:
    """Segments in one viewer. All methods are called in the window's thread and return at once.

    Parameters
    ----------
    viewer : ViewerModel
    bridge : Bridge
        To the window's thread and to its user.
    queue, engine, zoo : optional
        Those that all viewers of the process share, if left out.
    """

    changed = Signal()
    """Something that the dock shows is different."""

    def __init__(
        self,
        viewer: ViewerModel,
        bridge: Bridge,
        queue: InferenceQueue | None = None,
        engine: Engine | None = None,
        zoo: Zoo | None = None,
    ) -> None:
        def get_engine() -> Engine:
            return shared_engine() if engine is None else engine

        self.viewer = viewer
        self.status = Status("")
        self.workspace = Workspace(viewer)
        self.ledger = Ledger(self.workspace)
        self.preview = Preview(viewer)
        self._channel = Channel(bridge, queue if queue is not None else shared_queue(), get_engine)
        self.asking = Asking(self.workspace, self.preview, self._channel, self._say)
        self.models = Choosing(zoo or shared_zoo(), self.asking, self._channel, self._say)
        self.wording = Wording(self.workspace, self.preview, self.asking, self._channel)
        self.outlining = Outlining(self.workspace, self.asking, self.models, self._channel, self._say, self._set_object)
        self.detecting = Detecting(self.outlining, self.asking, self._channel)
        self._classes = Classes(self.workspace, self.ledger, self.asking, self.outlining, self._change)
        self.comparing = Comparing(self.asking, self.models, self._channel)
        self._ahead = Ahead(self.workspace, self._channel, self._say_ahead)
        self._accept_next = False
        self._hints = Hints(self.workspace)
        self.workspace.chosen.connect(self._on_chosen)
        self.workspace.shapes_added.connect(self._on_shapes_added)
        self.workspace.tool_changed.connect(self.changed.emit)
        self.models.changed.connect(self.wording.on_model)
        self.models.changed.connect(self.changed.emit)
        self.wording.changed.connect(self.changed.emit)
        self.outlining.changed.connect(self.changed.emit)
        self.detecting.changed.connect(self.changed.emit)
        self.asking.looked.connect(self._on_looked)
        self.asking.lost.connect(self._ahead.cancel)
        self.asking.emptied.connect(self._invite)
        self.asking.answered.connect(self._on_answered)
        self.asking.failed.connect(self._on_failed)
        camera_of(viewer).events.center.connect(self._on_camera)
        viewer.layers.events.removed.connect(self._on_removed)
        self.asking.look()

    def close(self, *, keep_layers: bool = False) -> None:
        """Let go of the viewer; what still runs in the inference thread reports to nobody.

        Parameters
        ----------
        keep_layers : bool
            Leave the preview where it is: the viewer itself is going away.
        """
        if self._channel.is_closed:
            return
        self._channel.close()
        if not keep_layers and self.workspace.output is not None:
            self.workspace.output.show()
        camera_of(self.viewer).events.center.disconnect(self._on_camera)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.workspace.close()
        self.models.close()
        self.outlining.close()
        if not keep_layers:
            self.preview.remove()

    # What the dock shows

    @property
    def options(self) -> Options:
        """How the user wants to work."""
        return self.asking.options

    @property
    def model(self) -> ModelChoice:
        """The model in use."""
        return self.asking.model

    @property
    def spec(self) -> ModelSpec:
        """The row of the model list of the model in use."""
        return self.asking.spec

    @property
    def loading(self) -> ModelChoice | None:
        """The model that is being loaded to take over."""
        return self.models.loading

    @property
    def is_positive(self) -> bool:
        """Whether the next point lies on the object."""
        points = self.workspace.points
        return points is None or prompt_layers.next_value(points, SIGN, POSITIVE) != NEGATIVE

    @property
    def can_accept(self) -> bool:
        """Whether there is a preview, or one is on its way or can be had."""
        return self.asking.answer is not None or self.asking.is_waiting or self.asking.is_pending

    # Choices

    def set_options(self, **values: Any) -> None:
        """Change some of :class:`Options`."""
        self._change(**values)
        if "class_id" in values:
            self._classes.choose(values["class_id"])

    def _change(self, **values: Any) -> None:
        field = self.options.field
        self.asking.options = replace(self.options, **values)
        self.asking.look_soon()
        if self.options.field != field:
            self._ahead_soon(0)
        self.changed.emit()

    def set_model(self, choice: ModelChoice) -> None:
        """Load another model in the background; labels and prompts stay, and it answers them when it is there."""
        self.models.choose(choice)

    def begin(self, kind: str) -> None:
        """Make the layers for a kind of prompt where they are missing, and let the user draw: points, box or mask."""
        layer = self.workspace.make_points() if kind == "points" else self.workspace.make_shapes()
        if layer is None:
            self._report(InputError("There is no image to segment: open one, or choose one in the dock."))
            return
        self.viewer.layers.selection.active = layer
        # After that: napari puts a layer that was not active back to pan and zoom.
        layer.mode = _MODES[kind]
        self._channel.later("layers", 0, self._make_the_rest)
        self._ahead_soon(0)
        self.changed.emit()

    def _make_the_rest(self) -> None:
        """Make one missing layer at a time, so that the window can breathe between two."""
        workspace, image = self.workspace, self.workspace.image
        if image is None:
            return
        for held, make in (
            (workspace.points, workspace.make_points),
            (workspace.shapes, workspace.make_shapes),
            (workspace.output, workspace.make_labels),
            (self.preview.layer, lambda: self.preview.prepare(image, workspace.shapes)),
        ):
            if held is None:
                if self._try(make):
                    self._channel.later("layers", 0, self._make_the_rest)
                return

    # What becomes of a preview

    def next_candidate(self) -> None:
        """Show the next of the masks that an ambiguous click may mean."""
        self.asking.next_candidate()
        self.changed.emit()

    def predict(self) -> None:
        """Ask for a preview of the marks on the plane."""
        self.asking.predict()

    def accept(self) -> None:
        """Write the preview into the output; waits for it, or for the count of labels, where they are on their way."""
        asking = self.asking
        asking.catch_up()
        self._accept_next = False
        if asking.is_pending:
            asking.predict()
        if asking.is_waiting:
            self._accept_next = True
        elif asking.answer is None:
            self._say("Nothing to accept yet: click on an object, or draw a box around it", "warning")
        elif self._try(self.workspace.make_labels) and (output := self.workspace.output) is not None:
            if output.largest is None and not self.options.semantic and asking.answer.phrases is None:
                self._accept_next = True
                self._say(f"Counting the labels of '{output.layer.name}' …", "busy")
            else:
                self._try(self._write)

    def _write(self) -> None:
        asking = self.asking
        assert asking.answer is not None
        assert asking.plane is not None
        by_words = asking.answer.phrases is not None
        is_class = self.options.semantic or by_words
        class_id = self.options.class_id if self.options.semantic else None
        shown = asking.shown
        above = [i for i in asking.top_first if shown[i][1][2].any()]
        there = sorted(above)
        finished = [Finished.of(*shown[i], class_id) for i in there]
        if not finished:
            raise InputError("There is nothing in the preview to accept: click elsewhere, or draw a box.")
        output = self.workspace.output
        assert output is not None
        # drawing takes as long as writing: each has a turn of its own in the window's loop
        self._channel.later(f"draw {id(output)}", 0, output.show)
        order = [there.index(i) for i in above]
        step = self.ledger.accept(finished, asking.plane, self.options.policy, order, is_class=is_class)
        self._classes.look()
        if by_words:
            asking.settle()
        else:
            self._start_next(step.objects)
        self._say(step.sentence(), "good")

    def discard(self) -> None:
        """Drop the preview and the marks on this plane; undo brings the marks back."""
        asking = self.asking
        asking.catch_up()
        if asking.plane is None:
            return
        marks = asking.marks(asking.plane)
        if any(m.phrase for m in marks):
            asking.settle()
            self._say("Discarded; the words stay for other planes")
            return
        step = self.ledger.discard(marks, asking.plane)
        if marks:
            self._start_next([] if step is None else step.objects)
            self._say("Discarded; Ctrl-Z brings the prompts back")

    def undo(self) -> None:
        """Take back the last accept or discard, and bring its marks back."""
        self._resume(self.ledger.undo())

    def undo_in_labels(self) -> None:
        """Undo in the output layer as napari does, and bring the marks back of what that takes out."""
        labels = self.workspace.labels
        if labels is not None:
            self._resume(self.ledger.undo_in(labels))

    def _resume(self, undone: Undone | None) -> None:
        """Go on with what was taken back."""
        step = None if undone is None else undone.step
        image, asking = self.workspace.image, self.asking
        if step is not None and image is not None and step.place[0] == image.unique_id:
            if step.objects:
                self._set_object(step.objects[-1])
            was_written = [one.label for one in step.written]
            if step.picked is not None:
                asking.picked = (step.place, step.picked)
            elif asking.picked is not None and asking.picked[1].label in was_written:
                asking.picked = None
        if step is None:
            asking.look_soon()
        else:
            asking.ask_again()
        self._say("Nothing to take back" if undone is None else undone.text)

    def next_object(self) -> None:
        """Leave the present object as it is, in the preview, and let new marks describe another one."""
        self._set_object(max(self.asking.object_id, self.workspace.highest_object()) + 1)
        self._say(f"New marks describe object {self.asking.object_id}")

    def toggle_sign(self) -> None:
        """Let the next point lie on the object instead of on background, or the other way round."""
        points = self.workspace.make_points()
        if points is not None:
            prompt_layers.set_next(points, **{SIGN: NEGATIVE if self.is_positive else POSITIVE})
            self.changed.emit()

    def refine(self) -> None:
        """Pick up the output's selected label on this plane: its mask becomes the prompt, and its marks come back."""
        self._try(self._refine)

    def _refine(self) -> None:
        plane = self.workspace.plane()
        picked, objects = pick_up(self.workspace, self.ledger, plane, one_piece=self.options.semantic)
        self._set_object(objects[-1] if objects else self.workspace.highest_object() + 1)
        self.asking.pick(plane, picked)
        self.asking.look()
        self._say(f"Refining label {picked.label}: add points or a box, then accept", "busy")

    def _start_next(self, finished: list[int]) -> None:
        """Begin with a new object after some were accepted or discarded."""
        asking = self.asking
        asking.picked = None
        asking.withdraw()
        self._set_object(max([asking.object_id, self.workspace.highest_object(), *finished]) + 1)
        asking.look_soon()

    def _set_object(self, number: int) -> None:
        self.asking.object_id = number
        number_next(self.workspace, number)
        self.changed.emit()

    # What happens elsewhere

    def _on_looked(self) -> None:
        if PromptKind.POINTS in self.spec.accepts:
            self._invite()
        self._ahead_soon(_AFTER_SLIDER)

    def _invite(self) -> None:
        if self.asking.plane is not None:
            self.status = self._hints.on(self.asking.plane)
            self.changed.emit()

    def _on_shapes_added(self, fresh: range) -> None:
        number = separate_boxes(self.workspace, fresh)
        if number is not None:
            self._set_object(number)

    def _on_answered(self) -> None:
        self.models.find_devices()
        self.wording.renew_heat()
        if self._accept_next:
            self.accept()
        self.changed.emit()

    def _on_failed(self, error: Exception) -> None:
        self._accept_next = False
        self._report(error)

    def _on_camera(self) -> None:
        plane = self.asking.plane
        if self.viewer.dims.ndisplay == 2 and plane is not None and max(plane.shape) > LARGE_PLANE:
            self._ahead_soon(_AFTER_CAMERA)

    def _on_removed(self, event: Any) -> None:
        self.wording.heat.on_removed(event.value)
        if event.value is self.preview.layer:
            # The marks stay, and the preview comes back when they change.
            self.preview.layer = None
            self.asking.withdraw(ask_again=False)
            self.changed.emit()

    def _on_chosen(self) -> None:
        output = self.workspace.output
        if output is not None and output.largest is None:
            layer: Labels = output.layer
            count = partial(largest_label, layer.data[0] if layer.multiscale else layer.data)
            self._channel.submit("count", Priority.LOAD, count, partial(self._on_counted, output), self._on_failed)
        self.changed.emit()

    def _on_counted(self, output: Output, largest: int) -> None:
        if output.largest is None:
            output.largest = largest
        if self._accept_next and not self.asking.is_waiting:
            self.accept()

    def _ahead_soon(self, seconds: float) -> None:
        self._ahead.soon(seconds, self.asking.plane, self.model, self.options.field)

    # Talking to the user

    def _try(self, call: Callable[[], object]) -> bool:
        """Call; tell the user if it cannot be done."""
        try:
            call()
        except ZerosegError as error:
            self._report(error)
            return False
        return True

    def _report(self, error: Exception) -> None:
        self._say(self._channel.report(error), "warning")

    def _say(self, text: str, tone: str = "idle", *, yields: bool = False) -> None:
        self.status = Status(text, tone, yields)
        self.changed.emit()

    def _say_ahead(self, text: str, tone: str) -> None:
        if self.status.yields and not self.can_accept and self.asking.plane is not None:
            self._say(text, tone, yields=True)
