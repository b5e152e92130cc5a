"""Outlining: what words find becomes boxes and clicks in the layers, which a model that draws answers. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.engine import ModelChoice, PictureRef
from napari_zeroseg._napari.layers import CLASS, NEGATIVE, OBJECT, POSITIVE, SIGN, TEXT
from napari_zeroseg._napari.marks import Box
from napari_zeroseg.cascade.text import TextOptions, checked_phrases, draw_regions
from napari_zeroseg.cascade.words import find_word, load_word, taught_words
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.jobs import CancelToken, Priority
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from napari_zeroseg._napari.asking import Asking
    from napari_zeroseg._napari.channel import Channel
    from napari_zeroseg._napari.choosing import Choosing
    from napari_zeroseg._napari.layers import ShownPlane
    from napari_zeroseg._napari.phrase_map import PhraseMap
    from napari_zeroseg._napari.workspace import Workspace
    from napari_zeroseg.segmenter import Patch
    from napari_zeroseg.view import View

_AT_ONCE = 8
"""Boxes that are put into a layer in one turn of the window's loop: napari takes two milliseconds for each."""


@dataclass(frozen=True, eq=False)
class Outline:
    """What describes one object that was found: its class, the box around it, and clicks."""

    class_id: int
    box: Box
    points: NDArray[np.float32]
    positive: NDArray[np.bool_]

    @classmethod
    def of(cls, class_id: int, patch: Patch, prompt: Prompt) -> Outline:
        """Take the box of what was drawn, and the clicks by which it was."""
        rows, columns, _ = patch
        box = (rows.start - 0.5, columns.start - 0.5, rows.stop - 0.5, columns.stop - 0.5)
        inside = (prompt.points >= box[:2]).all(1) & (prompt.points <= box[2:]).all(1)
        keep = inside | ~prompt.labels  # a click that lies outside of its object would contradict the box
        return cls(class_id, box, prompt.points[keep], prompt.labels[keep])


class Outlining:
    """From words to boxes and clicks: those of a model that reads, or words that were taught to one that draws.

    Parameters
    ----------
    workspace : Workspace
    asking : Asking
    models : Choosing
    channel : Channel
    say : callable
        Told a sentence and its tone.
    begin_object : callable
        Lets new marks describe that object.
    """

    changed = Signal()

    def __init__(
        self,
        workspace: Workspace,
        asking: Asking,
        models: Choosing,
        channel: Channel,
        say: Callable[[str, str], None],
        begin_object: Callable[[int], None],
    ) -> None:
        self.words: list[str] = []
        """That were taught to models that draw."""
        self.is_busy = False
        self._workspace = workspace
        self._asking = asking
        self._models = models
        self._channel = channel
        self._say = say
        self._begin_object = begin_object
        self._drawer = DEFAULT_MODEL
        models.changed.connect(self._on_model)
        self._on_model()

    @property
    def is_drawer(self) -> bool:
        """Whether the model in use draws what a click or a box means."""
        return PromptKind.TEXT not in self._asking.spec.accepts

    def _on_model(self) -> None:
        if self.is_drawer and PromptKind.POINTS in self._asking.spec.accepts:
            self._drawer = self._asking.model.key
        self._channel.submit("words", Priority.AHEAD, lambda _: taught_words(), self._on_words, lambda _: None)

    def _on_words(self, words: list[str]) -> None:
        if words != self.words:
            self.words = words
            self.changed.emit()

    def outline(self) -> None:
        """Let a model that draws outline each region that words have found, and use it from now on."""
        answer, threshold = self._asking.answer, self._asking.options.threshold
        found = None if answer is None else answer.phrases
        if found is None:
            self._say("Nothing to outline yet: name what to find", "warning")
            return
        now = self._asking.model
        key = self._drawer if self._models.zoo.is_ready(self._drawer) else DEFAULT_MODEL
        drawer = ModelChoice(key, now.device, now.precision)
        plane, picture = self._asked()
        if plane is None or picture is None:
            return

        def work(token: CancelToken) -> list[Outline]:
            return _outlines(self._channel.engine().view(picture, drawer), found, threshold, token)

        self._submit(work, partial(self._on_outlines, plane, picture, list(found.phrases), drawer))
        self._say("Outlining what was found …", "busy")

    def find(self, line: str) -> None:
        """Look for words that were taught to the model in use."""
        try:
            words = checked_phrases(line)
        except ZerosegError as error:
            self._on_failed(error)
            return
        plane, picture = self._asked()
        if plane is None or picture is None:
            return
        choice = self._asking.model

        def work(token: CancelToken) -> list[Outline]:
            return _of_words(self._channel.engine().view(picture, choice), words, token)

        self._submit(work, partial(self._on_outlines, plane, picture, words, choice))
        self._say(f"Looking for {', '.join(words)} …", "busy")

    def _asked(self) -> tuple[ShownPlane | None, PictureRef | None]:
        try:
            plane = self._workspace.plane()
        except ZerosegError as error:
            self._on_failed(error)
            return None, None
        return plane, self._workspace.picture(plane)

    def _submit(self, work: Callable[[CancelToken], list[Outline]], done: Callable[[list[Outline]], None]) -> None:
        self.is_busy = True
        self._channel.submit("outline", Priority.CLICK, work, done, self._on_failed)
        self.changed.emit()

    def _on_outlines(
        self, asked: ShownPlane, picture: PictureRef, words: list[str], drawer: ModelChoice, found: list[Outline]
    ) -> None:
        self.is_busy = False
        self.changed.emit()
        named = ", ".join(words)
        if not found:
            self._say(f"Nothing was found of {named}: no mask fits", "warning")
            return
        plane, seen = self._asked()
        if plane is None or seen is None or (plane.key, seen.key) != (asked.key, picture.key):
            self._say("Another picture is on the screen, so nothing was outlined: look for it again", "warning")
            return
        several = len(words) > 1
        self._asking.options = replace(
            self._asking.options, batched=False, semantic=several or self._asking.options.semantic
        )
        self._write(plane, found, self._workspace.highest_object() + 1, named, drawer)

    def _write(
        self, plane: ShownPlane, found: Sequence[Outline], first: int, named: str, drawer: ModelChoice, done: int = 0
    ) -> None:
        """Put some of the marks into the layers, the rest in later turns; then the model that draws takes over."""
        shapes, points = self._workspace.make_shapes(), self._workspace.make_points()
        if shapes is None or points is None:
            return
        dims, some = self._workspace.viewer.dims, found[done : done + _AT_ONCE]
        numbers = list(range(first + done, first + done + len(some)))
        prompt_layers.give_classes(shapes)
        prompt_layers.add(
            shapes,
            [plane.coordinates(shapes, _corners(one.box), dims) for one in some],
            ["rectangle"] * len(some),
            {OBJECT: numbers, CLASS: [one.class_id for one in some], TEXT: [""] * len(some)},
        )
        clicks = [
            (place, POSITIVE if on else NEGATIVE, number)
            for one, number in zip(some, numbers, strict=True)
            for place, on in zip(plane.coordinates(points, one.points, dims), one.positive.tolist(), strict=True)
        ]
        if clicks:
            places, signs, objects = zip(*clicks, strict=True)
            prompt_layers.add(points, list(places), [], {SIGN: list(signs), OBJECT: list(objects)})
        done += len(some)
        self._begin_object(first + done)
        if done < len(found):
            self._channel.later("outline", 0, partial(self._write, plane, found, first, named, drawer, done))
            return
        what = "1 object" if done == 1 else f"{done} objects"
        self._say(f"{what} of {named}: correct their boxes and clicks, then accept", "good")
        if self._asking.model != drawer:
            self._models.use(drawer)

    def _on_failed(self, error: Exception) -> None:
        self.is_busy = False
        self._say(self._channel.report(error), "warning")
        self.changed.emit()


def _outlines(view: View, found: PhraseMap, threshold: float, cancel: CancelToken) -> list[Outline]:
    """What a model draws of the regions of a map of phrases, where it is trusted and fits its region."""
    options = TextOptions(min(max(threshold, 0.01), 0.99))
    regions, heat = found.regions(threshold, options.min_area)
    cancel.raise_if_cancelled()
    kept, _ = draw_regions(view, regions, heat, found.phrases, options, cancel)
    return [Outline.of(one.label, one.patch, one.prompt) for one in kept]


def _of_words(view: View, words: Sequence[str], cancel: CancelToken) -> list[Outline]:
    """What looks like taught words."""
    known = taught_words()
    alike = {word.casefold() for word in known}
    unknown = [word for word in words if word.casefold() not in alike]
    if unknown:
        there = f"those taught are {', '.join(known)}" if known else "none was taught yet"
        raise InputError(
            f"{view.model.spec.title} reads no text, and {unknown[0]!r} was not taught to it: {there}. Teach it in the "
            "Stack dock, or choose a model that takes text."
        )
    found = []
    for number, word in enumerate(words, start=1):
        for one in find_word(view.model, view, load_word(word), labels=None, cancel=cancel):
            found.append(Outline.of(number, one.patch, one.prompt))
    return found


def _corners(box: Box) -> NDArray[np.float64]:
    r0, c0, r1, c1 = box
    return np.array([(r0, c0), (r0, c1), (r1, c1), (r1, c0)], float)
