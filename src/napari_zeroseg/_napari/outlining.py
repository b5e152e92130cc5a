"""Outlining: what words or a detector find becomes boxes and clicks in the layers, for a model that draws. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.engine import ModelChoice, PictureRef
from napari_zeroseg._napari.find_work import counted
from napari_zeroseg._napari.layers import (
    CLASS,
    NEGATIVE,
    OBJECT,
    POSITIVE,
    SCORE,
    SIGN,
    TEXT,
    class_numbers,
    name_classes,
)
from napari_zeroseg._napari.marks import Box, extent_of
from napari_zeroseg._napari.taught import shared_taught
from napari_zeroseg.cascade.text import TextOptions, checked_phrases, draw_regions
from napari_zeroseg.cascade.words import find_word, load_word, taught_words
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.jobs import CancelToken, Priority
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from napari.layers import Image, Points, Shapes

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


_SAME = 0.7
"""IoU of boxes from which they are those of one object."""

_LABELLED = 0.5
"""Part of an object's pixels that have a label, from which it is there already."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """What was to be found, on which picture, and with which model in use."""

    picture: PictureRef
    words: str
    drawer: ModelChoice
    model: ModelChoice
    turn: int
    dropped: int = 0


@dataclass(frozen=True, eq=False)
class Drawing:
    """What was found and is new.

    Attributes
    ----------
    outlines : list of Outline
    dropped : int
        Regions that gave no mask that fits.
    words : list of str
        What was found, where that is known only now.
    """

    outlines: list[Outline]
    dropped: int = 0
    words: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Target:
    """Where the marks go."""

    image: Image | None
    shapes: Shapes
    points: Points
    plane: ShownPlane


@dataclass(frozen=True, eq=False)
class Outline:
    """What describes one object that was found: its class, the box around it, clicks, and how sure that is.

    `place` is that of its class among those that were looked for, from 1.
    """

    name: str
    place: int
    box: Box
    points: NDArray[np.float32]
    positive: NDArray[np.bool_]
    score: float

    @classmethod
    def of(cls, name: str, place: int, patch: Patch, prompt: Prompt, score: float) -> Outline:
        """Take the box of what was drawn, and the clicks by which it was."""
        rows, columns, _ = patch
        box = (rows.start - 0.5, columns.start - 0.5, rows.stop - 0.5, columns.stop - 0.5)
        inside = (prompt.points >= box[:2]).all(1) & (prompt.points <= box[2:]).all(1)
        keep = inside | ~prompt.labels  # a click that lies outside of its object would contradict the box
        return cls(name, place, box, prompt.points[keep], prompt.labels[keep], score)

    @classmethod
    def boxed(cls, name: str, place: int, box: Box, score: float) -> Outline:
        """Take a box alone."""
        return cls(name, place, box, np.zeros((0, 2), np.float32), np.zeros(0, bool), score)


class Outlining:
    """From what was found to boxes and clicks: by words, by words that were taught, or by a detector.

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
        self._turn = 0
        models.changed.connect(self._on_model)
        shared_taught().changed.connect(self._look_for_words)
        self._on_model()

    @property
    def is_drawer(self) -> bool:
        """Whether the model in use draws what a click or a box means."""
        return PromptKind.TEXT not in self._asking.spec.accepts

    def _on_model(self) -> None:
        if self.is_drawer and PromptKind.POINTS in self._asking.spec.accepts:
            self._drawer = self._asking.model.key
        self._look_for_words()

    def _look_for_words(self) -> None:
        self._channel.submit("words", Priority.AHEAD, lambda _: taught_words(), self._on_words, lambda _: None)

    def _on_words(self, words: list[str]) -> None:
        if words != self.words:
            self.words = words
            self.changed.emit()

    def close(self) -> None:
        """Hear no more of words."""
        shared_taught().changed.disconnect(self._look_for_words)

    def outline(self) -> None:
        """Let a model that draws outline each region that words have found, and use it from now on."""
        answer, threshold = self._asking.answer, self._asking.options.threshold
        found = None if answer is None else answer.phrases
        if found is None:
            self._say("Nothing to outline yet: name what to find", "warning")
            return

        def draw(view: View, labels: NDArray[Any] | None, token: CancelToken) -> Drawing:
            return _outlines(view, found, threshold, labels, token)

        self.begin(list(found.phrases), self.drawer(), draw, "Outlining what was found …")

    def drawer(self, needs: PromptKind = PromptKind.POINTS) -> ModelChoice:
        """The model in use if it draws what such prompts mean, else the one used last for clicks, else MobileSAM."""
        now, models = self._asking.model, self._models
        if self.is_drawer and needs in self._asking.spec.accepts:
            return now
        is_able = models.zoo.is_ready(self._drawer) and needs in models.spec_of(self._drawer).accepts
        return ModelChoice(self._drawer if is_able else DEFAULT_MODEL, now.device, now.precision)

    def stop(self) -> None:
        """Give up what is being looked for; boxes that are there already stay."""
        if self.is_busy:
            self._turn += 1
            self._channel.cancel("outline")
            self._end("Stopped", "idle")

    def find(self, line: str) -> None:
        """Look for words that were taught to the model in use."""
        try:
            words = checked_phrases(line)
        except ZerosegError as error:
            self._say(self._channel.report(error), "warning")
            return

        def draw(view: View, labels: NDArray[Any] | None, token: CancelToken) -> Drawing:
            return _of_words(view, words, labels, token)

        self.begin(words, self._asking.model, draw, f"Looking for {', '.join(words)} …")

    def begin(
        self,
        words: list[str],
        drawer: ModelChoice,
        draw: Callable[[View, NDArray[Any] | None, CancelToken], Drawing],
        doing: str,
    ) -> None:
        """Have the inference thread find objects; whatever was begun before is not heard of any more.

        Parameters
        ----------
        words : list of str
            What is looked for.
        drawer : ModelChoice
            That takes over when the objects are in the layers.
        draw : callable
            Finds them, from the plane as that model sees it, and the labels that are there (None if they are of other
            pixels).
        doing : str
            For the status line.
        """
        workspace = self._workspace
        try:
            plane = workspace.plane()
            picture, labels = workspace.picture(plane), self._labels_on(plane)
        except ZerosegError as error:
            self._say(self._channel.report(error), "warning")
            return
        self._turn += 1
        asked = _Asked(picture, ", ".join(words), drawer, self._asking.model, self._turn)

        def work(token: CancelToken) -> Drawing:
            view = self._channel.engine().view(picture, drawer)
            return draw(view, None if labels is None else labels(), token)

        self.is_busy = True
        done, failed = partial(self._on_outlines, asked), partial(self._on_failed, asked.turn)
        self._channel.submit("outline", Priority.CLICK, work, done, failed)
        self._say(doing, "busy")
        self.changed.emit()

    def _labels_on(self, plane: ShownPlane) -> Callable[[], NDArray[Any]] | None:
        """What reads the labels that are there already, where they have the picture's pixels."""
        output = self._workspace.output
        if output is None or output.layer.multiscale:
            return None
        own = output.plane(self._workspace.viewer.dims)
        return output.reader_of(own) if own.shape == plane.shape else None

    def _on_outlines(self, asked: _Asked, drawn: Drawing) -> None:
        workspace, found = self._workspace, drawn.outlines
        if asked.turn != self._turn:
            return
        if drawn.words:
            asked = replace(asked, words=", ".join(drawn.words))
        try:
            plane: ShownPlane | None = workspace.plane()
        except ZerosegError:
            plane = None
        # another contrast is the same picture still
        if plane is None or workspace.picture(plane).key[:3] != asked.picture.key[:3]:
            self._end("Another picture is on the screen, so nothing was outlined: look for it again", "warning")
            return
        boxes = [extent_of(d.vertices) for d in workspace.drawn(plane) if d.kind == "rectangle"]
        new = [one for one in found if all(_box_iou(one.box, box) < _SAME for box in boxes)]
        if not new:
            told = "everything has a box already" if found else "nothing new was found that a mask fits"
            self._end(f"{asked.words}: {told}", "warning")
            return
        for held, make in ((workspace.shapes, workspace.make_shapes), (workspace.points, workspace.make_points)):
            if held is None:  # each in a turn of its own: napari takes as long for a layer as a window may stand still
                make()
                self._channel.later("outline", 0, partial(self._on_outlines, asked, drawn))
                return
        shapes, points = workspace.shapes, workspace.points
        assert shapes is not None
        assert points is not None
        prompt_layers.give_classes(shapes)
        spelt = name_classes(shapes, {one.name: one.place for one in new})
        new = [replace(one, name=spelt[one.name]) for one in new]
        self._asking.options = replace(self._asking.options, batched=False)
        asked = replace(asked, dropped=drawn.dropped)
        self._write(asked, _Target(workspace.image, shapes, points, plane), new, workspace.highest_object() + 1)

    def _write(self, asked: _Asked, target: _Target, found: Sequence[Outline], first: int, done: int = 0) -> None:
        """Put some of the marks into the layers, the rest in later turns; then the model that draws takes over."""
        workspace, dims = self._workspace, self._workspace.viewer.dims
        if asked.turn != self._turn:
            return
        if (workspace.image, workspace.shapes, workspace.points) != (target.image, target.shapes, target.points):
            told = f"Stopped, since other layers were chosen: {done} of {len(found)} objects have their boxes"
            self._end(told, "warning")
            return
        some = found[done : done + _AT_ONCE]
        numbers = list(range(first + done, first + done + len(some)))
        clicks = [
            (place, POSITIVE if on else NEGATIVE, number)
            for one, number in zip(some, numbers, strict=True)
            for place, on in zip(
                target.plane.coordinates(target.points, one.points, dims), one.positive.tolist(), strict=True
            )
        ]
        if clicks:
            places, signs, objects = zip(*clicks, strict=True)
            prompt_layers.add(target.points, list(places), [], {SIGN: list(signs), OBJECT: list(objects)})
        prompt_layers.add(
            target.shapes,
            [target.plane.coordinates(target.shapes, _corners(one.box), dims) for one in some],
            ["rectangle"] * len(some),
            {
                OBJECT: numbers,
                CLASS: [one.name for one in some],
                SCORE: [one.score for one in some],
                TEXT: [""] * len(some),
            },
        )
        done += len(some)
        self._begin_object(first + done)
        if done < len(found):
            self._channel.later("outline", 0, partial(self._write, asked, target, found, first, done))
            return
        what = "1 object" if done == 1 else f"{done} objects"
        lost = f" ({counted(asked.dropped, 'region')} gave no mask that fits)" if asked.dropped else ""
        classes = self._to_classes(target.shapes)
        self._end(f"{what} of {asked.words}{lost}: correct their boxes and clicks, then accept{classes}", "good")
        # the user may have chosen another model meanwhile
        if self._asking.model == asked.model != asked.drawer and self._models.loading is None:
            self._models.use(asked.drawer)

    def _to_classes(self, shapes: Shapes) -> str:
        """Let classes be written where the layer has several; say so."""
        if self._asking.options.semantic or len(set(class_numbers(shapes)) - {0}) < 2:
            return ""
        self._asking.options = replace(self._asking.options, semantic=True)
        return ". Since there are several classes, their numbers are written: 'As' is Semantic now"

    def _end(self, words: str, tone: str) -> None:
        self.is_busy = False
        self._say(words, tone)
        self.changed.emit()

    def _on_failed(self, turn: int, error: Exception) -> None:
        if turn == self._turn:
            self._end(self._channel.report(error), "warning")


def _box_iou(one: Box, other: Box) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, height) * max(0.0, width)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / max(sum(areas) - both, 1e-9)


def is_labelled(patch: Patch, labels: NDArray[Any] | None) -> bool:
    """Whether an object is labelled already, by most of its pixels."""
    return labels is not None and bool((labels[patch[0], patch[1]][patch[2]] > 0).mean() > _LABELLED)


def _outlines(
    view: View, found: PhraseMap, threshold: float, labels: NDArray[Any] | None, cancel: CancelToken
) -> Drawing:
    """What a model draws of the regions of a map of phrases, where it is trusted and fits its region."""
    options = TextOptions(min(max(threshold, 0.01), 0.99))
    regions, heat = found.regions(threshold, options.min_area)
    cancel.raise_if_cancelled()
    kept, _ = draw_regions(view, regions, heat, found.phrases, options, cancel)
    new = [
        Outline.of(found.phrases[one.label - 1], one.label, one.patch, one.prompt, one.certainty)
        for one in kept
        if not is_labelled(one.patch, labels)
    ]
    return Drawing(new, len(regions) - len(kept))


def _of_words(view: View, words: Sequence[str], labels: NDArray[Any] | None, cancel: CancelToken) -> Drawing:
    """What looks like taught words and is not labelled yet."""
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
    for place, word in enumerate(words, start=1):
        for one in find_word(view.model, view, load_word(word), labels=labels, cancel=cancel):
            found.append(Outline.of(word, place, one.patch, one.prompt, one.certainty))
    return Drawing(found)


def _corners(box: Box) -> NDArray[np.float64]:
    r0, c0, r1, c1 = box
    return np.array([(r0, c0), (r0, c1), (r1, c1), (r1, c0)], float)
