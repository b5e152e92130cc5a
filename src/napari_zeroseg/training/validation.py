"""How good a model is on held-back objects, before and after: IoU and Dice by kind of prompt, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.metrics import Counts
from napari_zeroseg.models.sam import SamSegmenter
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.segmenter import Prediction
from napari_zeroseg.training.classes import ClassSegmenter
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import IGNORE, TrainingData, TrainingObject
from napari_zeroseg.training.patches import prompt_on
from napari_zeroseg.training.prompts import NEEDS, corrected
from napari_zeroseg.training.split import Region
from napari_zeroseg.view import View

SAMPLES = 2000
"""Resamples of a bootstrap interval."""

MOST_REPORTED = 1000
"""Objects at most in the final figures."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MaskScores:
    """IoU and Dice of each outline, (N,) each, for one kind of prompt.

    Attributes
    ----------
    iou, dice : (N,) float64
    groups : (N,) int64
        Which outlines are sections of one object, as of :func:`~napari_zeroseg.training.sections.sections_of`; empty
        where each stands for itself.
    """

    iou: Floats
    dice: Floats
    groups: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


class Judge(Protocol):
    """Says how good a model is on held-back objects, and shows it."""

    def score(
        self,
        model: Any,
        objects: Sequence[TrainingObject],
        all_kinds: bool,
        store: EmbeddingStore,
        step: Callable[[], None],
    ) -> dict[str, MaskScores]:
        """Scores by what was asked; `all_kinds` of what is trained, or those that say most. `step` may end it."""
        ...

    def answers(self, model: Any, objects: Sequence[TrainingObject], store: EmbeddingStore) -> list[NDArray[np.bool_]]:
        """(H, W) bool, what the model answers when it is asked for each object."""
        ...

    def truth(self, one: TrainingObject, numbers: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(H, W) bool, the right answer, from the numbered objects of its plane."""
        ...


class MaskJudge:
    """Asks for each object by clicks and boxes.

    Parameters
    ----------
    config : TrainingConfig
    data : TrainingData
    """

    def __init__(self, config: TrainingConfig, data: TrainingData) -> None:
        self._config, self._data = config, data
        self._trained = [kind for kind, weight in config.prompts.items() if weight > 0]

    def score(
        self,
        model: SamSegmenter,
        objects: Sequence[TrainingObject],
        all_kinds: bool,
        store: EmbeddingStore,
        step: Callable[[], None],
    ) -> dict[str, MaskScores]:
        """Scores of each object by kind of prompt."""
        config = self._config
        kinds = kinds_to_score(self._trained, model.spec.accepts, all_kinds)
        return score_masks(model, self._data, objects, kinds, store, config.seed, config.box_margin, step)

    def answers(
        self, model: SamSegmenter, objects: Sequence[TrainingObject], store: EmbeddingStore
    ) -> list[NDArray[np.bool_]]:
        """(H, W) bool of each object, asked for by a click in its middle, or its box."""
        kind = kinds_to_score(self._trained, model.spec.accepts, False)[0]
        found = []
        for one in objects:
            picture, numbers = self._data.read(one.plane)
            prompt = prompt_on(kind, self.truth(one, numbers), np.random.default_rng(0))
            (prediction,) = View(model, picture, store).predict([prompt], multimask=None)
            found.append(prediction.mask)
        return found

    def truth(self, one: TrainingObject, numbers: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(H, W) bool of the object."""
        mask: NDArray[np.bool_] = numbers == one.number
        return mask


def kinds_to_score(prompts: Sequence[str], accepts: frozenset[PromptKind], all_kinds: bool) -> list[str]:
    """Kinds of prompt that are judged: one click in the middle, a tight box, and a correction if that is trained.

    At the end they are joined by every other kind that is.
    """
    trained = set(prompts) if all_kinds else {"correction"} & set(prompts)
    kinds = ["centre", "box", *sorted(trained)]
    return [kind for kind in dict.fromkeys(kinds) if NEEDS[kind] in accepts]


def score_masks(
    model: SamSegmenter,
    data: TrainingData,
    objects: Sequence[TrainingObject],
    kinds: Sequence[str],
    store: EmbeddingStore,
    seed: int,
    margin: tuple[float, float],
    step: Callable[[], None] = lambda: None,
) -> dict[str, MaskScores]:
    """Ask for every object as a user would, window and choice of candidate included.

    A "correction" is a click in the middle and, with it, a second one where the answer to the first is most wrong.

    Parameters
    ----------
    model : SamSegmenter
    data : TrainingData
    objects : sequence of TrainingObject
    kinds : sequence of str
        Kinds of prompt.
    store : EmbeddingStore
    seed : int
        Of the prompts: the same ones for every model.
    margin : tuple of float
        Of loose boxes.
    step : callable
        Called before each plane; what it raises ends the scoring.

    Returns
    -------
    dict of str to MaskScores
        In the order of `objects`.
    """
    found = {kind: (np.zeros(len(objects)), np.zeros(len(objects))) for kind in kinds}
    for plane in sorted({one.plane for one in objects}):
        step()
        places = [i for i, one in enumerate(objects) if one.plane == plane]
        picture, numbers = data.read(plane)
        view, asked_for = View(model, picture, store), [objects[i] for i in places]
        for kind, answers in _answers(view, numbers, asked_for, kinds, seed, margin):
            for i, prediction in zip(places, answers, strict=True):
                counts = _counts(prediction, numbers, objects[i].number)
                found[kind][0][i], found[kind][1][i] = counts.iou, counts.dice
    return {kind: MaskScores(*both) for kind, both in found.items()}


@dataclass(frozen=True)
class ClassCounts(Counts):
    """Pixels of a class on a plane, drawn and true.

    Attributes
    ----------
    pixels : int
        Pixels that were judged, of the class or not.
    """

    pixels: int = 0


def score_class(
    model: SamSegmenter,
    segmenter: ClassSegmenter,
    data: TrainingData,
    planes: Sequence[int],
    store: EmbeddingStore,
    held: Sequence[Region] = (),
    step: Callable[[], None] = lambda: None,
) -> list[ClassCounts]:
    """Foreground of the class on each plane, or on the part of it that was held back."""
    found = []
    for plane in planes:
        step()
        picture, numbers = data.read(plane)
        drawn = segmenter.segment(model, View(model, picture, store)).probability > 0.5
        counts = numbers != IGNORE
        for where, r0, c0, r1, c1 in held:
            if where == plane:
                inside = np.zeros(numbers.shape, bool)
                inside[r0:r1, c0:c1] = True
                counts = counts & inside
        true, drawn = (numbers > 0) & counts, drawn & counts
        found.append(ClassCounts(*(int(np.count_nonzero(mask)) for mask in (true & drawn, drawn, true, counts))))
    return found


def pooled(counts: Sequence[Counts]) -> Counts:
    """All pixels together."""
    return Counts(*(sum(getattr(one, name) for one in counts) for name in ("both", "prediction", "truth")))


def pooled_interval(counts: Sequence[Counts], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the IoU of all pixels together, by resampling planes: see :func:`interval`.

    Of a single plane there is no telling how far it is from others: its interval is as wide as can be.
    """
    if len(counts) < 2:
        return 0.0, 1.0
    rng = np.random.default_rng(seed)
    pixels = np.array([(one.both, one.prediction, one.truth) for one in counts])
    sums = (pixels[rng.integers(len(pixels), size=len(pixels))].sum(0) for _ in range(SAMPLES))
    ious = np.array([Counts(*one.tolist()).iou for one in sums])
    low, high = np.quantile(ious, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval(
    values: Floats, seed: int = 0, level: float = 0.95, groups: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """Bootstrap interval of a mean: resampling with replacement, percentiles; Efron, 1979.

    Parameters
    ----------
    values : (N,) float64
        One an outline, or the difference of two models on the same one.
    seed : int
    level : float
        Part of the resampled means that lies inside.
    groups : (N,) int64, optional
        Values that are drawn together, since they are sections of one object.
    """
    if not len(values):
        return 0.0, 0.0
    if groups is None or not len(groups):
        groups = np.arange(len(values))
    _, groups = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(sums), size=len(sums)) for _ in range(SAMPLES))
    means = np.array([sums[chosen].sum() / counts[chosen].sum() for chosen in drawn])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compared(before: MaskScores, after: MaskScores) -> dict[str, float | list[float]]:
    """Means before and after, their difference and its interval, of IoU; means of Dice.

    Of a single object there is no telling how far it is from the mean: its intervals are as wide as can be.
    """
    gain, groups = after.iou - before.iou, after.groups
    count = len(np.unique(groups)) if len(groups) else len(gain)
    if count == 1:
        unknown = {name: [0.0, 1.0] for name in ("iou_before_interval", "iou_after_interval")}
        return {**_means(before, after, count), **unknown, "gain_interval": [-1.0, 1.0]}
    return {
        **_means(before, after, count),
        "iou_before_interval": list(interval(before.iou, groups=groups)),
        "iou_after_interval": list(interval(after.iou, groups=groups)),
        "gain_interval": list(interval(gain, groups=groups)),
    }


def _means(before: MaskScores, after: MaskScores, count: int) -> dict[str, float | list[float]]:
    return {
        "objects": len(after.iou),
        "independent": count,
        "iou_before": float(before.iou.mean()),
        "iou_after": float(after.iou.mean()),
        "gain": float((after.iou - before.iou).mean()),
        "dice_before": float(before.dice.mean()),
        "dice_after": float(after.dice.mean()),
    }


def some_of(objects: Sequence[TrainingObject], most: int) -> list[TrainingObject]:
    """At most so many objects, evenly taken from all."""
    if len(objects) <= most:
        return list(objects)
    return [objects[int(i)] for i in np.linspace(0, len(objects) - 1, most).round()]


def some_planes(planes: Sequence[int], labelled: Collection[int], most: int) -> list[int]:
    """At most so many planes, evenly taken from the labelled ones and from the others, the first labelled one too."""
    ordered = sorted(planes, key=lambda plane: (plane not in labelled, plane))
    if len(ordered) > most:
        ordered = [ordered[int(i)] for i in np.linspace(0, len(ordered) - 1, most).round()]
    return sorted(ordered)


def _answers(
    view: View,
    numbers: NDArray[np.int32],
    objects: Sequence[TrainingObject],
    kinds: Sequence[str],
    seed: int,
    margin: tuple[float, float],
) -> Iterator[tuple[str, list[Prediction]]]:
    """Each kind of prompt, and what a model answers to it for each object of a plane."""
    clicked: list[Prediction] = []
    for kind in kinds:
        first = "centre" if kind == "correction" else kind
        prompts = [_prompt(first, numbers == one.number, one, seed, margin) for one in objects]
        if kind == "correction":
            # nobody corrects what does not count
            counts = numbers != IGNORE
            clicked = clicked or view.predict(prompts, multimask=None)
            prompts = [
                corrected(prompt, numbers == one.number, answer.mask & counts)
                for prompt, one, answer in zip(prompts, objects, clicked, strict=True)
            ]
        answers = view.predict(prompts, multimask=None)
        if kind == "centre":
            clicked = answers
        yield kind, answers


def _prompt(kind: str, mask: NDArray[np.bool_], one: TrainingObject, seed: int, margin: tuple[float, float]) -> Prompt:
    return prompt_on(kind, mask, np.random.default_rng([seed, 4, one.plane, one.number]), margin)


def _counts(prediction: Prediction, numbers: NDArray[np.int32], number: int) -> Counts:
    rows, columns, mask = prediction.patch()
    window = numbers[rows, columns]
    drawn = mask & (window != IGNORE)
    both = int(np.count_nonzero(drawn & (window == number)))
    return Counts(both, int(np.count_nonzero(drawn)), int(np.count_nonzero(numbers == number)))
