"""The session: what one viewer asks of the model, what is shown of the answers, and what becomes of them. No Qt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from psygnal import Signal

from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.engine import (
    Answer,
    Answered,
    Encoded,
    Engine,
    ModelChoice,
    Request,
    compose,
    largest_label,
    shared_engine,
)
from napari_zeroseg._napari.layers import NEGATIVE, OBJECT, POSITIVE, SIGN, ShownPlane
from napari_zeroseg._napari.ledger import Finished, Ledger
from napari_zeroseg._napari.marks import Marks, Picked, by_object, each_its_own
from napari_zeroseg._napari.preview import Preview
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.jobs import CancelToken, InferenceQueue, Priority, shared_queue
from napari_zeroseg.registry import ModelSpec, find_model
from napari_zeroseg.tiling import LARGE_PLANE
from napari_zeroseg.view import FieldChoice

if TYPE_CHECKING:
    from napari.components import ViewerModel

_log = logging.getLogger(__name__)

_AFTER_SLIDER, _AFTER_CONTRAST, _AFTER_CAMERA = 0.15, 0.25, 0.4
"""Seconds of quiet before work that follows these begins."""


class Bridge(Protocol):
    """How the session reaches the window's thread and its user."""

    def post(self, call: Callable[[], None]) -> None:
        """Call in the window's thread soon; may be used from any thread."""
        ...

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call in the window's thread after that time, unless another call of that name takes its place."""
        ...

    def report(self, error: Exception) -> None:
        """Tell the user what is wrong."""
        ...

    def close(self) -> None:
        """Drop all calls that have not been made."""
        ...


@dataclass(frozen=True)
class Options:
    """How the user wants to work."""

    live: bool = True
    batched: bool = False
    semantic: bool = False
    class_id: int = 1
    policy: OverlapPolicy = OverlapPolicy.KEEP
    field: FieldChoice = "auto"


@dataclass(frozen=True)
class Status:
    """The status line: a sentence and its tone, "idle", "busy", "good" or "warning"."""

    text: str
    tone: str = "idle"


class Session:
    """Segments in one viewer. All methods are called in the window's thread and return at once."""

    changed = Signal()
    """Something that the dock shows is different."""

    def __init__(
        self, viewer: ViewerModel, bridge: Bridge, queue: InferenceQueue | None = None, engine: Engine | None = None
    ) -> None:
        self.viewer = viewer
        self.workspace = Workspace(viewer)
        self.ledger = Ledger(self.workspace)
        self.preview = Preview(viewer)
        self.options = Options()
        self.model = ModelChoice()
        self.loading: ModelChoice | None = None
        self.status = Status("")
        self.object_id = 1
        self.plane: ShownPlane | None = None
        self.answer: Answer | None = None
        self._chosen: list[int] = []
        self._picked: tuple[object, Picked] | None = None
        self._bridge = bridge
        self._queue = queue if queue is not None else shared_queue()
        self._make_engine = shared_engine if engine is None else lambda: engine
        self._generation = 0
        self._asked: object = None
        self._ahead_of: object = None
        self._waiting = self._unseen = self._accept_next = self._closed = False
        self.workspace.marks_changed.connect(self._on_marks)
        self.workspace.picture_changed.connect(self._on_picture)
        self.workspace.chosen.connect(self._on_chosen)
        viewer.camera.events.center.connect(self._on_camera)
        viewer.layers.events.removed.connect(self._on_removed)
        self._update()

    def close(self) -> None:
        """Let go of the viewer; what still runs in the inference thread reports to nobody."""
        if self._closed:
            return
        self._closed = True
        self._queue.cancel(self)
        self._bridge.close()
        self.viewer.camera.events.center.disconnect(self._on_camera)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.workspace.close()
        self.preview.remove()

    # What the dock shows

    @property
    def spec(self) -> ModelSpec:
        """The model in use."""
        return find_model(self.model.key)

    @property
    def is_positive(self) -> bool:
        """Whether the next point lies on the object."""
        points = self.workspace.points
        return points is None or prompt_layers.next_value(points, SIGN, POSITIVE) != NEGATIVE

    @property
    def current(self) -> tuple[Answered, int] | None:
        """The answered object whose candidates can be cycled, and which of them is shown."""
        if self.answer is None or not self.answer.objects:
            return None
        several = [i for i, one in enumerate(self.answer.objects) if len(one.scores) > 1]
        mine = [i for i, one in enumerate(self.answer.objects) if one.marks.object_id == self.object_id]
        both = [i for i in mine if i in several]
        i = (both or several or mine or [len(self.answer.objects) - 1])[-1]
        return self.answer.objects[i], self._chosen[i]

    @property
    def can_accept(self) -> bool:
        """Whether there is a preview, or one is on its way."""
        return self._waiting or self._unseen or self.answer is not None

    @property
    def can_predict(self) -> bool:
        """Whether marks wait for the Predict button."""
        return not self.options.live and not self._waiting and self.answer is None and self._asked is not None

    # Choices

    def set_options(self, **values: Any) -> None:
        """Change some of :class:`Options`."""
        self.options = replace(self.options, **values)
        self._on_marks()
        self._ahead_soon(_AFTER_SLIDER)
        self.changed.emit()

    def set_model(self, choice: ModelChoice) -> None:
        """Load another model in the background; the present one stays in use until it is there, or if it fails."""
        self.loading = None if choice == self.model else choice
        self._queue.cancel(self, "load")
        if self.loading is not None:
            self._submit("load", Priority.LOAD, lambda token: self._make_engine().model(choice), self._on_loaded)
            self._say(f"Loading {find_model(choice.key).title} …", "busy")
        self.changed.emit()

    def _on_loaded(self, _: object) -> None:
        if self.loading is not None:
            self.model, self.loading = self.loading, None
            self._say(f"{self.spec.title} is ready", "good")
            self._update()
            self._ahead_soon(0)
            self.changed.emit()

    def begin(self, kind: str) -> None:
        """Make the layers for a kind of prompt where they are missing, and let the user draw: points, box or mask."""
        workspace = self.workspace
        layer = workspace.make_points() if kind == "points" else workspace.make_shapes()
        if layer is None:
            self._bridge.report(InputError("There is no image to segment: open one, or choose one in the dock."))
            return
        self.viewer.layers.selection.active = layer
        # After that: napari puts a layer that was not active back to pan and zoom.
        layer.mode = {"points": "add", "box": "add_rectangle", "mask": "add_polygon_lasso"}[kind]
        self._bridge.later("layers", 0, self._make_the_rest)
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
                    self._bridge.later("layers", 0, self._make_the_rest)
                return

    # From marks to preview

    def _on_marks(self) -> None:
        """Look at the marks once, after everything that comes with one gesture has happened."""
        self._unseen = True
        self._bridge.later("update", 0, self._update)

    def _on_picture(self) -> None:
        self._unseen = True
        self._bridge.later("update", _AFTER_CONTRAST, self._update)

    def _on_camera(self) -> None:
        if self.plane is not None and max(self.plane.shape) > LARGE_PLANE:
            self._ahead_soon(_AFTER_CAMERA)

    def _on_removed(self, event: Any) -> None:
        if event.value is self.preview.layer:
            self.preview.layer = None
            self.discard()

    def _on_chosen(self) -> None:
        output = self.workspace.output
        if output is not None and output.largest is None:
            data = output.layer.data[0] if output.layer.multiscale else output.layer.data
            self._submit(
                "count", Priority.LOAD, partial(largest_label, data), lambda largest: self._on_counted(data, largest)
            )
        self.changed.emit()

    def _on_counted(self, data: object, largest: int) -> None:
        output = self.workspace.output
        if output is not None and output.layer.data is data:
            output.largest = largest
            if self._accept_next:
                self.accept()

    def marks(self, plane: ShownPlane) -> list[Marks]:
        """What describes each object on a plane: what was drawn there, and the label that was picked up."""
        drawn = self.workspace.drawn(plane)
        found = each_its_own(drawn) if self.options.batched else by_object(drawn)
        if self._picked is not None and self._picked[0] == plane.key:
            mine = next((m for m in found if m.object_id == self.object_id), Marks(self.object_id))
            found = [m for m in found if m is not mine] + [replace(mine, picked=self._picked[1])]
        return found

    def _update(self) -> None:
        """Ask for what the marks on the screen mean now, if that is not what was asked for already."""
        if self._closed:
            return
        self._unseen = False
        try:
            plane = self.workspace.plane()
            picture = self.workspace.picture(plane)
            marks = [m for m in self.marks(plane) if m.has_target]
        except ZerosegError as error:
            self.plane = None
            self._withdraw(None)
            self._say(str(error), "warning")
            return
        self.plane = plane
        if (picture.key, self.model) != self._ahead_of:
            self._ahead_of = (picture.key, self.model)
            self._say(self._invitation())
            self._ahead_soon(_AFTER_SLIDER)
        asked = (picture.key, plane.to_world.tobytes(), self.model, self.options.field, [m.signature for m in marks])
        if not marks:
            self._withdraw(None)
        elif asked != self._asked:
            self._withdraw(asked)
            if self.options.live:
                self.predict()
        self.changed.emit()

    def predict(self) -> None:
        """Ask for a preview of the marks on the plane."""
        if self.plane is None or self._asked is None:
            return
        marks = tuple(m for m in self.marks(self.plane) if m.has_target)
        if not marks:
            return
        self._generation += 1
        picture = self.workspace.picture(self.plane)
        request = Request(self._generation, picture, self.model, marks, self.options.field)
        self._waiting = True
        self._submit(
            "predict", Priority.CLICK, lambda token: self._make_engine().answer(request, token), self._on_answer
        )
        self._say("Segmenting …", "busy")

    def _withdraw(self, asked: object) -> None:
        """Forget the answer to what was asked before, whether it is there or on its way."""
        self._generation += 1
        self._queue.cancel(self, "predict")
        self._asked = asked
        self._waiting = self._accept_next = False
        self.answer, self._chosen = None, []
        self.preview.hide()

    def _on_answer(self, answer: Answer) -> None:
        if answer.generation != self._generation or self.plane is None:
            return
        self._waiting = False
        self.answer, self._chosen = answer, [0] * len(answer.objects)
        self._show()
        pixels = sum(int(patch[2].sum()) for patch in self._patches())
        if not pixels:
            self._say("Nothing was found there: click elsewhere, or draw a box.", "warning")
        else:
            self._say(f"{pixels:,} pixels · {answer.seconds:.2g} s · {answer.device}", "good")
        if self._accept_next:
            self.accept()
        self.changed.emit()

    def _patches(self) -> list[Any]:
        assert self.answer is not None
        return [one.patches[k] for one, k in zip(self.answer.objects, self._chosen, strict=True)]

    def _show(self) -> None:
        image, plane = self.workspace.image, self.plane
        composed = compose(self._patches(), last_on_top=self.options.policy is OverlapPolicy.REPLACE)
        if image is None or plane is None or composed is None:
            self.preview.hide()
        else:
            self.preview.show(image, plane, *composed)

    def next_candidate(self) -> None:
        """Show the next of the masks that an ambiguous click may mean."""
        if self.current is None or self.answer is None:
            return
        one, _ = self.current
        if len(one.patches) > 1:
            i = self.answer.objects.index(one)
            self._chosen[i] = (self._chosen[i] + 1) % len(one.patches)
            self._show()
            self.changed.emit()

    # What becomes of it

    def accept(self) -> None:
        """Write the preview into the output; waits for it, or for the count of labels, where they are on their way."""
        if self._unseen:
            self._update()
        if self._waiting or (not self.options.live and self._asked is not None and self.answer is None):
            self._accept_next = True
            if not self._waiting:
                self.predict()
            return
        if self.answer is None or self.plane is None:
            self._say("Nothing to accept yet: click on an object, or draw a box around it.", "warning")
            return
        if not self._try(self.workspace.make_labels) or self.workspace.output is None:
            return
        if self.workspace.output.largest is None and not self.options.semantic:
            self._accept_next = True
            self._say(f"Counting the labels of '{self.workspace.output.layer.name}' …", "busy")
            return
        self._try(self._write)

    def _write(self) -> None:
        assert self.answer is not None and self.plane is not None
        finished = [
            Finished(one.marks, patch, self._label_of(one.marks))
            for one, patch in zip(self.answer.objects, self._patches(), strict=True)
            if patch[2].any()
        ]
        if not finished:
            raise InputError("There is nothing in the preview to accept: click elsewhere, or draw a box.")
        step = self.ledger.accept(finished, self.plane, self.options.policy)
        self._start_next(step.objects)
        pixels = sum(one.pixels for one in step.written)
        if len(step.written) == 1:
            what = f"Class {step.written[0].label}" if self.options.semantic else f"Object {step.written[0].label}"
        else:
            what = f"{len(step.written)} objects"
        self._say(f"{what} accepted, {pixels:,} pixels", "good")

    def _label_of(self, marks: Marks) -> int | None:
        if marks.picked is not None:
            return marks.picked.label
        return self.options.class_id if self.options.semantic else None

    def discard(self) -> None:
        """Drop the preview and the marks on this plane; undo brings the marks back."""
        if self._closed or self.plane is None:
            return
        marks = self.marks(self.plane)
        step = self.ledger.discard(marks, self.plane)
        self._start_next([] if step is None else step.objects)
        if marks:
            self._say("Discarded; Ctrl-Z brings the prompts back")

    def undo(self) -> None:
        """Take back the last accept or discard."""
        step = self.ledger.undo()
        if step is None:
            self._say("Nothing to take back")
            return
        self._say(
            "Taken back" if step.layer is None or step not in self.ledger.steps else "The last paint is taken back"
        )
        if step not in self.ledger.steps and step.objects:
            self._set_object(step.objects[-1])
        self._on_marks()

    def undo_in_labels(self) -> None:
        """Undo in the output layer as napari does, and bring the marks back of what that takes out."""
        output = self.workspace.output
        if output is None:
            return
        output.layer.undo()
        step = self.ledger.follow_undo(output.layer)
        if step is not None and step.objects:
            self._set_object(step.objects[-1])
        self._on_marks()

    def next_object(self) -> None:
        """Leave the present object as it is, in the preview, and let new marks describe another one."""
        self._set_object(max(self.object_id, self.workspace.highest_object()) + 1)
        self._say(f"New marks describe object {self.object_id}")

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
        plane, output = self.workspace.plane(), self.workspace.output
        if output is None:
            raise InputError("There are no labels to refine: accept an object first, or choose a Labels layer.")
        label = int(output.layer.selected_label)
        patch = output.pixels_of(label, self.viewer.dims, plane) if label else None
        if patch is None:
            raise InputError(
                f"Label {label} is not on this plane: pick one with the picker of '{output.layer.name}', then refine it."
            )
        objects = self.ledger.recall(label, plane)
        self._set_object(objects[-1] if objects else self.workspace.highest_object() + 1)
        self._picked = (plane.key, Picked(label, patch))
        self._update()
        self._say(f"Refining label {label}: add points or a box, then accept", "busy" if self._waiting else "idle")

    def _start_next(self, finished: list[int]) -> None:
        """Begin with a new object after some were accepted or discarded."""
        self._picked = None
        self._withdraw(None)
        highest = max([self.object_id, self.workspace.highest_object(), *finished])
        self._set_object(highest + 1)
        self._on_marks()

    def _set_object(self, number: int) -> None:
        self.object_id = number
        for layer in (self.workspace.points, self.workspace.shapes):
            if layer is not None:
                values: dict[str, object] = {OBJECT: number}
                if layer is self.workspace.points:
                    values[SIGN] = POSITIVE
                prompt_layers.set_next(layer, **values)
        self.changed.emit()

    # Encoding ahead

    def _ahead_soon(self, seconds: float) -> None:
        # Only for someone who has begun: a dock that was merely opened loads no model.
        if self.workspace.points is not None or self.workspace.shapes is not None:
            self._bridge.later("ahead", seconds, self._encode_ahead)

    def _encode_ahead(self) -> None:
        plane = self.plane
        if plane is None or self.workspace.image is None:
            return
        picture, centre = self.workspace.picture(plane), self.workspace.centre(plane)
        model, field = self.model, self.options.field

        def work(token: CancelToken) -> Encoded:
            return self._make_engine().encode_ahead(picture, model, field, centre, token)

        self._submit("ahead", Priority.AHEAD, work, partial(self._on_encoded, plane), self._say_error)
        if not self._waiting and self.answer is None:
            self._say(f"Encoding {_name(plane)} …", "busy")

    def _on_encoded(self, plane: ShownPlane, encoded: Encoded) -> None:
        if self.plane is None or plane.key != self.plane.key:
            return
        if not self._waiting and self.answer is None:
            took = f"{encoded.seconds:.1f} s" if encoded.seconds else "from the cache"
            self._say(f"{_name(plane).capitalize()} encoded, {took}, {encoded.device}", "good")
        if encoded.left:
            self._bridge.later("ahead", 0, self._encode_ahead)

    # Talking to the queue and to the user

    def _submit(
        self,
        key: str,
        priority: Priority,
        work: Callable[[CancelToken], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Let the inference thread do `work`, and hear of it in the window's thread unless the session is closed."""
        generation = self._generation
        bridge = self._bridge
        bad = failed or partial(self._on_failure, key, generation)
        self._queue.submit(
            work,
            owner=self,
            key=key,
            priority=priority,
            done=lambda result: bridge.post(partial(self._hear, done, result)),
            failed=lambda error: bridge.post(partial(self._hear, bad, error)),
        )

    def _hear(self, call: Callable[[Any], None], what: Any) -> None:
        if not self._closed:
            call(what)

    def _on_failure(self, key: str, generation: int, error: Exception) -> None:
        if key == "predict":
            if generation != self._generation:
                return
            self._waiting = self._accept_next = False
        if key == "load":
            self.loading = None
        self._bridge.report(error)
        self._say_error(error)

    def _say_error(self, error: Exception) -> None:
        if not isinstance(error, ZerosegError):
            _log.error("The inference thread failed.", exc_info=error)
        self._say(str(error) or type(error).__name__, "warning")

    def _try(self, call: Callable[[], object]) -> bool:
        """Call; tell the user if it cannot be done."""
        try:
            call()
        except ZerosegError as error:
            self._bridge.report(error)
            self._say_error(error)
            return False
        return True

    def _say(self, text: str, tone: str = "idle") -> None:
        self.status = Status(text, tone)
        self.changed.emit()

    def _invitation(self) -> str:
        started = self.workspace.points is not None or self.workspace.shapes is not None
        return "Click on an object, or draw a box around it" if started else "Choose a kind of prompt to begin"


def _name(plane: ShownPlane) -> str:
    return f"plane {plane.number}" if plane.number else "picture"
