"""Asking: from the marks on the screen to the preview. The newest question wins; stale answers are dropped. No Qt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from psygnal import Signal

from napari_zeroseg._napari.channel import Channel, sentence
from napari_zeroseg._napari.engine import Answer, Answered, ModelChoice, PictureRef, Request, compose
from napari_zeroseg._napari.hints import what_was_found, why_nothing
from napari_zeroseg._napari.layers import ShownPlane
from napari_zeroseg._napari.marks import Marks, Picked, by_object, each_its_own, needs_words, top_first
from napari_zeroseg._napari.phrase_map import phrase_marks
from napari_zeroseg._napari.preview import Preview
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg.catalogue import MOBILE_SAM
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.jobs import Priority
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Patch
from napari_zeroseg.view import FieldChoice

if TYPE_CHECKING:
    from napari_zeroseg.registry import ModelSpec

_AFTER_CONTRAST = 0.25
"""Seconds for which the contrast must rest: a slider that is dragged changes it many times a second."""

_REMEMBERED = 100
"""Questions whose chosen candidates are remembered."""


@dataclass(frozen=True)
class Options:
    """How the user wants to work."""

    live: bool = True
    batched: bool = False
    semantic: bool = False
    class_id: int = 1
    policy: OverlapPolicy = OverlapPolicy.KEEP
    field: FieldChoice = "auto"
    text: str = ""
    threshold: float = 0.5
    templates: tuple[str, ...] = ("{}",)


class Asking:
    """What is asked about the plane on the screen, and what is shown of the answer.

    Parameters
    ----------
    workspace : Workspace
    preview : Preview
    channel : Channel
    say : callable
        Told a sentence and its tone.
    """

    looked = Signal()
    """The plane on the screen, its picture or the model is another one."""
    lost = Signal()
    """There is no plane on the screen."""
    emptied = Signal()
    """The marks on the plane are gone, or there are new ones on others."""
    answered = Signal()
    """A preview is there."""
    failed = Signal(object)
    """There was an error instead of an answer."""

    def __init__(
        self, workspace: Workspace, preview: Preview, channel: Channel, say: Callable[[str, str], None]
    ) -> None:
        self.options = Options()
        self.model = ModelChoice()
        self.spec = MOBILE_SAM
        self.object_id = 1
        self.picked: tuple[tuple[object, ...], Picked] | None = None
        self.plane: ShownPlane | None = None
        self.answer: Answer | None = None
        self.is_waiting = False
        self._workspace = workspace
        self._preview = preview
        self._channel = channel
        self._say = say
        self._chosen: list[int] = []
        self._choices: OrderedDict[Hashable, tuple[int, ...]] = OrderedDict()
        self._elsewhere: set[tuple[int, ...]] = set()
        self._generation = 0
        self._asked: Hashable = None
        self._seen: object = None
        self._is_overdue = False
        self._is_settled = False
        workspace.marks_changed.connect(self.look_soon)
        workspace.picture_changed.connect(self._look_when_calm)
        workspace.chosen.connect(self._put_down)

    @property
    def is_pending(self) -> bool:
        """Whether there are marks whose preview is neither there nor on its way."""
        return self._asked is not None and self.answer is None and not (self.is_waiting or self._is_settled)

    @property
    def current(self) -> tuple[Answered, int] | None:
        """The answered object whose candidates can be cycled, and which of them is shown."""
        if self.answer is None or not self.answer.objects:
            return None
        i = self._current()
        return self.answer.objects[i], self._chosen[i]

    @property
    def current_name(self) -> str:
        """Which object that is, where the preview shows several: by its number, or in batched mode by its turn."""
        if self.answer is None or len(self.answer.objects) < 2:
            return ""
        i = self._current()
        return f"object {i + 1 if self.options.batched else self.answer.objects[i].marks.object_id}"

    def _current(self) -> int:
        assert self.answer is not None
        objects = self.answer.objects
        # Rather the object at hand than another, rather one with a choice than without, rather a later one.
        return max(
            range(len(objects)),
            key=lambda i: (objects[i].marks.object_id == self.object_id, len(objects[i].scores) > 1, i),
        )

    @property
    def patches(self) -> list[Patch]:
        """The mask shown of each object or class of the answer."""
        if self.answer is None:
            return []
        if self.answer.phrases is not None:
            return self.answer.phrases.patches(self.options.threshold)
        return [one.patches[k] for one, k in zip(self.answer.objects, self._chosen, strict=True)]

    @property
    def shown(self) -> list[tuple[Marks, Patch]]:
        """What is shown of each object or class of the answer, and what describes it."""
        if self.answer is None:
            return []
        phrases = self.answer.phrases
        marks = [one.marks for one in self.answer.objects]
        if phrases is not None:
            marks = [Marks(number, phrase=phrase) for number, phrase in enumerate(phrases.phrases, start=1)]
        return list(zip(marks, self.patches, strict=True))

    @property
    def top_first(self) -> list[int]:
        """Places of what is shown, that which has the pixels where several meet first."""
        marks = [marks for marks, _ in self.shown]
        if self.options.policy is OverlapPolicy.REPLACE and all(m.class_id is None for m in marks):
            return list(reversed(range(len(marks))))
        return top_first(marks)

    @property
    def scores(self) -> list[float]:
        """The IoU that the model predicts for the mask shown of each object, or how probable that of each class is.

        Networks predict a little more than 1 at times.
        """
        if self.answer is None:
            return []
        if self.answer.phrases is not None:
            return self.answer.phrases.scores(self.options.threshold)
        return [min(1.0, one.scores[k]) for one, k in zip(self.answer.objects, self._chosen, strict=True)]

    def marks(self, plane: ShownPlane, spec: ModelSpec | None = None) -> list[Marks]:
        """What describes each object on a plane: what was drawn there, and the label that was picked up.

        Where the model (that in use, or of `spec`) takes text and there is some, that is what is asked for instead.
        """
        drawn = self._workspace.drawn(plane)
        if PromptKind.TEXT in (spec or self.spec).accepts:
            phrases = phrase_marks(self.options.text, drawn)
            if phrases:
                return phrases
        found = each_its_own(drawn) if self.options.batched else by_object(drawn)
        if self.picked is not None and self.picked[0] == self._workspace.place(plane):
            mine = next((m for m in found if m.object_id == self.object_id), Marks(self.object_id))
            found = [m for m in found if m is not mine] + [replace(mine, picked=self.picked[1])]
        return found

    def pick(self, plane: ShownPlane, picked: Picked | None) -> None:
        """Refine that label on that plane, or none any more."""
        self.picked = None if picked is None else (self._workspace.place(plane), picked)

    def _put_down(self) -> None:
        """Forget the label being refined where the image or the output is another one: it is none of theirs."""
        image, labels = self._workspace.image, self._workspace.labels
        there = (image and image.unique_id, labels and labels.unique_id)
        if self.picked is not None and tuple(self.picked[0][:2]) != there:
            self.picked = None

    def question(self) -> object:
        """Equal as long as the same is marked on the same picture, whichever model is asked.

        Raises
        ------
        InputError
            If there is no plane.
        """
        plane = self._workspace.plane()
        drawn = [m.signature for m in by_object(self._workspace.drawn(plane))]
        picked = None if self.picked is None else id(self.picked)
        words = (self.options.text, self.options.templates, self.options.field, self.options.batched)
        return (self._workspace.picture(plane).key, plane.to_world.tobytes(), drawn, picked, words)

    def current_question(self, spec: ModelSpec) -> tuple[PictureRef, list[Marks]]:
        """What a model would be asked about the object at hand, or about all where each mark is one.

        Raises
        ------
        InputError
            If nothing is marked that it takes.
        """
        plane = self._workspace.plane()
        marks = [m for m in self.marks(plane, spec) if m.is_for(spec.accepts)]
        if not marks:
            raise InputError(why_nothing(spec)[0])
        mine = [m for m in marks if m.object_id == self.object_id and not m.phrase]
        if not self.options.batched and not marks[0].phrase:
            marks = mine or marks[-1:]
        return self._workspace.picture(plane), marks

    def look_soon(self) -> None:
        """Look at the marks once, after everything that comes with one gesture has happened."""
        self._is_overdue = True
        self._channel.later("look", 0, self.look)

    def _look_when_calm(self) -> None:
        self._is_overdue = True
        self._channel.later("look", _AFTER_CONTRAST, self.look)

    def catch_up(self) -> None:
        """Take notice of what has changed since the last look, so that nothing stale is shown or accepted."""
        if self._is_overdue:
            self.look()

    def look(self) -> None:
        """Ask for what the marks on the screen mean now, if that is not what was asked already."""
        if self._channel.is_closed:
            return
        self._is_overdue = False
        try:
            plane = self._workspace.plane()
            marks = self.marks(plane)
        except ZerosegError as error:
            self.plane, self._seen = None, None
            self.withdraw()
            self.lost.emit()
            self._say(sentence(error), "idle" if self._workspace.image is None else "warning")
            return
        self.plane = plane
        picture = self._workspace.picture(plane)
        if (picture.key, self.model) != self._seen:
            self._seen = (picture.key, self.model)
            self.looked.emit()
        elsewhere = self._workspace.elsewhere(plane)
        others, self._elsewhere = self._elsewhere, elsewhere
        accepts = self.spec.accepts
        targets = tuple(m.signature for m in marks if m.is_for(accepts))
        how = (self.options.field, self.options.templates)
        asked = (picture.key, plane.to_world.tobytes(), self.model, how, targets)
        if not targets:
            had_some = self._asked is not None
            self.withdraw()
            if marks or needs_words(accepts):
                self._say(*why_nothing(self.spec))
            elif had_some or elsewhere - others:
                self.emptied.emit()
        elif asked != self._asked:
            self.withdraw()
            self._asked = asked
            if self.options.live:
                self.predict()
            else:
                self._say("The prompts changed: press Predict", "idle")

    def predict(self) -> None:
        """Ask for a preview of the marks on the plane."""
        if self.plane is None or self._asked is None:
            return
        self._generation += 1
        self.is_waiting = True
        picture = self._workspace.picture(self.plane)
        marks = tuple(m for m in self.marks(self.plane) if m.is_for(self.spec.accepts))
        request = Request(self._generation, picture, self.model, marks, self.options.field, self.options.templates)
        self._channel.submit(
            "predict",
            Priority.CLICK,
            lambda token: self._channel.engine().answer(request, token),
            self._on_answer,
            partial(self._on_error, request.generation),
        )
        self._say("Segmenting …", "busy")

    def withdraw(self, *, ask_again: bool = True) -> None:
        """Forget the answer, whether it is there or on its way.

        Parameters
        ----------
        ask_again : bool
            Whether the same marks would be asked about again; else only other ones.
        """
        self._generation += 1
        self._channel.cancel("predict")
        if ask_again:
            self._asked = None
        self._is_settled = False
        self.is_waiting = False
        self.answer, self._chosen = None, []
        self._preview.hide()

    def settle(self) -> None:
        """Be done with what is asked, which stays for other planes: words, once they are accepted or discarded."""
        self.withdraw(ask_again=False)
        self._is_settled = True

    def ask_again(self) -> None:
        """Ask about the same marks once more, although nothing has changed."""
        self._asked = None
        self.look_soon()

    def use(self, model: ModelChoice, spec: ModelSpec, answer: Answer | None = None) -> None:
        """Use another model: what is marked stays, and is answered by it; or by `answer`, which it gave already."""
        self.model, self.spec = model, spec
        self.look()
        if answer is not None and self._asked is not None:
            self.withdraw(ask_again=False)
            self._take(answer)

    def set_threshold(self, threshold: float) -> None:
        """Cut the probabilities elsewhere; the model does not run."""
        self.options = replace(self.options, threshold=threshold)
        if self.answer is not None and self.answer.phrases is not None:
            self._show()
            self._tell()

    def next_candidate(self) -> None:
        """Show the next of the masks that an ambiguous click may mean."""
        self.catch_up()
        if self.answer is not None and self.answer.objects:
            i = self._current()
            self._chosen[i] = (self._chosen[i] + 1) % len(self.answer.objects[i].patches)
            self._choices[self._asked] = tuple(self._chosen)
            self._choices.move_to_end(self._asked)
            while len(self._choices) > _REMEMBERED:
                self._choices.popitem(last=False)
            self._show()
            self._tell()

    def _on_answer(self, answer: Answer) -> None:
        self.catch_up()
        if answer.generation != self._generation:
            return
        self._take(answer)

    def _take(self, answer: Answer) -> None:
        self.is_waiting = False
        chosen = self._choices.get(self._asked, ())
        fits = [k < len(one.patches) for k, one in zip(chosen, answer.objects, strict=False)]
        kept = len(fits) == len(answer.objects) and all(fits)
        self.answer, self._chosen = answer, list(chosen) if kept else [0] * len(answer.objects)
        self._show()
        self._tell()
        self.answered.emit()

    def _tell(self) -> None:
        """Say how large what is shown is."""
        answer = self.answer
        if answer is not None:
            phrases = answer.phrases
            if phrases is None:
                pixels = sum(int(mask.sum()) for _, _, mask in self.patches)
            else:
                pixels = sum(phrases.pixels(self.options.threshold))
            self._say(*what_was_found(answer, pixels, batched=self.options.batched))
            if phrases is not None and phrases.notes:
                self._say(phrases.notes[0], "warning")

    def _on_error(self, generation: int, error: Exception) -> None:
        if generation == self._generation:
            self.is_waiting = False
            self.failed.emit(error)

    def _show(self) -> None:
        image, plane = self._workspace.image, self.plane
        composed: tuple[int, int, NDArray[Any]] | None
        if self.answer is not None and self.answer.phrases is not None:
            composed = (0, 0, self.answer.phrases.classes(self.options.threshold))
        else:
            composed = compose(self.patches, self.top_first)
        if image is None or plane is None or composed is None:
            self._preview.hide()
        else:
            self._preview.show(image, plane, *composed)
