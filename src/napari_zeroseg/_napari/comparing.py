"""Comparing: the same prompts through several models, side by side, to pick from. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_zeroseg._napari.asking import Asking
from napari_zeroseg._napari.channel import Channel, sentence
from napari_zeroseg._napari.choosing import Choosing
from napari_zeroseg._napari.engine import Answer, ModelChoice, PictureRef, Request
from napari_zeroseg._napari.marks import Marks
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.jobs import CancelToken, Priority
from napari_zeroseg.metrics import iou

MARGIN = 0.5
"""Part of the masks' own size that is shown around them."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What one model made of the prompts.

    Attributes
    ----------
    choice : ModelChoice
    title : str
    problem : str
        Why there is no answer; "" if there is one.
    answer : Answer or None
    picture : (H, W) or (H, W, 3) uint8 array or None
        The plane as the model saw it.
    mask : (H, W) bool array or None
        All that was found.
    score : float
        The IoU that the model predicts, or how probable its mask is; the mean of several objects.
    """

    choice: ModelChoice
    title: str
    problem: str = ""
    answer: Answer | None = None
    picture: NDArray[np.uint8] | None = None
    mask: NDArray[np.bool_] | None = None
    score: float = 0.0

    @property
    def pixels(self) -> int:
        """How many were found."""
        return 0 if self.mask is None else int(np.count_nonzero(self.mask))


class Comparing:
    """Runs one model after another, each a job of its own, so that a click in between need not wait for all.

    Parameters
    ----------
    asking : Asking
        Knows what is marked, and takes the answer that is picked.
    models : Choosing
    channel : Channel
    """

    changed = Signal()
    """There is another candidate, or the work has begun or ended."""

    def __init__(self, asking: Asking, models: Choosing, channel: Channel) -> None:
        self.candidates: list[Candidate] = []
        self.waiting: list[ModelChoice] = []
        self._asking = asking
        self._models = models
        self._channel = channel
        self._question: object = None

    @property
    def is_running(self) -> bool:
        """Whether a model is still to answer."""
        return bool(self.waiting)

    def start(self, keys: Sequence[str]) -> None:
        """Ask these models about what is marked on the plane for the object at hand."""
        self.cancel()
        try:
            self._question = self._asking.question()
            if not keys:
                raise InputError("Choose the models to compare.")
        except ZerosegError as error:
            self._channel.report(error)
            return
        now = self._asking.model
        self.candidates = []
        self.waiting = [replace(now, key=key) for key in keys]
        self._go_on()

    def cancel(self) -> None:
        """Ask no further models; what is there stays."""
        self.waiting = []
        self._channel.cancel("compare")
        self.changed.emit()

    def pick(self, candidate: Candidate) -> None:
        """Make a candidate the preview, and its model the one in use."""
        if candidate.answer is None:
            return
        try:
            if self._asking.question() != self._question:
                raise InputError("The prompts or the plane changed since the models were asked: compare again.")
        except ZerosegError as error:
            self._channel.report(error)
            return
        self._models.use(candidate.choice, candidate.answer)

    def agreement(self) -> NDArray[np.float64]:
        """IoU of each candidate's mask with each other's, (N, N); NaN where there is none."""
        masks = [candidate.mask for candidate in self.candidates]
        table = np.full((len(masks), len(masks)), np.nan)
        for i, one in enumerate(masks):
            for j, other in enumerate(masks):
                if one is not None and other is not None and (one.any() or other.any()):
                    table[i, j] = table[j, i] if j < i else iou(one, other)
        return table

    def window(self) -> tuple[slice, slice]:
        """The part of the plane that holds all masks, with a margin."""
        masks = [candidate.mask for candidate in self.candidates if candidate.mask is not None]
        shape = masks[0].shape if masks else (1, 1)
        together = np.logical_or.reduce(masks) if masks else np.zeros(shape, bool)
        spans = []
        for axis in (1, 0):
            there = np.flatnonzero(together.any(axis))
            first, last = (int(there[0]), int(there[-1]) + 1) if len(there) else (0, shape[1 - axis])
            spans.append((first, last))
        margin = round(MARGIN * max(last - first for first, last in spans)) + 4
        rows, columns = (
            slice(max(0, first - margin), min(length, last + margin))
            for (first, last), length in zip(spans, shape, strict=True)
        )
        return rows, columns

    def _go_on(self) -> None:
        self.changed.emit()
        if not self.waiting:
            return
        choice = self.waiting[0]
        spec = self._models.spec_of(choice.key)
        try:
            picture, marks = self._asking.current_question(spec)
        except ZerosegError as error:
            self._on_answer(Candidate(choice, spec.title, sentence(error)))
            return
        work = partial(self._answer, choice, spec.title, picture, tuple(marks))
        self._channel.submit("compare", Priority.LOAD, work, self._on_answer, partial(self._on_error, choice))

    def _answer(
        self, choice: ModelChoice, title: str, picture: PictureRef, marks: tuple[Marks, ...], token: CancelToken
    ) -> Candidate:
        engine, options = self._channel.engine(), self._asking.options
        answer = engine.answer(Request(0, picture, choice, marks, options.field, options.templates), token)
        seen = engine.view(picture, choice).picture
        if answer.phrases is not None:
            threshold = self._asking.options.threshold
            mask = answer.phrases.classes(threshold) > 0
            scores = [score for score in answer.phrases.scores(threshold) if score]
        else:
            mask = np.zeros(seen.shape[:2], bool)
            scores = [one.scores[0] for one in answer.objects]
            for one in answer.objects:
                rows, columns, patch = one.patches[0]
                mask[rows, columns] |= patch
        return Candidate(choice, title, "", answer, seen, mask, float(np.mean(scores)) if scores else 0.0)

    def _on_answer(self, candidate: Candidate) -> None:
        if self.waiting and self.waiting[0] == candidate.choice:
            self.candidates.append(candidate)
            self.waiting = self.waiting[1:]
            self._go_on()

    def _on_error(self, choice: ModelChoice, error: Exception) -> None:
        self._on_answer(Candidate(choice, self._models.spec_of(choice.key).title, sentence(error)))
