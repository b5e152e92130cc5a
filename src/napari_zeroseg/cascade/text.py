"""Words to instances: where a text model finds them, as prompts for a model that draws well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg import instances
from napari_zeroseg.automatic.search import check_takes_points
from napari_zeroseg.cascade.heat import Region, heat_of, regions_of
from napari_zeroseg.cascade.planes import as_view, overlap
from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.phrases import parted, split_phrases
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.segmenter import Patch, Prediction, Segmenter
from napari_zeroseg.view import View

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

MOST = 255
"""Phrases at once, so that a class fits a byte."""


_SAME = 0.5
"""Two masks are the same object if they share this part of the smaller one."""


@runtime_checkable
class _SaysWhatIsCut(Protocol):
    """A text model whose phrases have a limit."""

    def cut(self, phrase: str) -> str:
        """The end of a phrase that is not read."""
        ...


@dataclass(frozen=True)
class TextOptions:
    """How phrases become masks.

    Attributes
    ----------
    threshold : float
        Probability above which a pixel is taken to be what the phrase names.
    negatives : sequence of str
        Phrases for what is not wanted: where one of them is the most probable, nothing is looked for.
    templates : sequence of str
        Sentences with ``{}`` in them for the phrase, such as "a photo of a {}"; probabilities are averaged.
    tile : int or None
        Side of the overlapping windows in which the text model looks at a plane, in pixels; None takes a plane up to
        1280 pixels as a whole, and windows of 1024 pixels of a larger one.
    min_area : int
        Pixels from which a region of the heat map is asked for.
    least_agreement : float
        Masks whose IoU with the region that they come from is lower are dropped. It is low: the region is blocks.
    least_score : float
        Masks for which the mask model predicts a lower IoU are dropped.

    Raises
    ------
    InputError
        If a value is none that can be worked with.
    """

    threshold: float = 0.5
    negatives: Sequence[str] = ()
    templates: Sequence[str] = ("{}",)
    tile: int | None = None
    min_area: int = 64
    least_agreement: float = 0.2
    least_score: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"A threshold is a probability between 0 and 1; got {self.threshold!r}.")
        if not self.templates or not all("{}" in template for template in self.templates):
            raise InputError("A template is a sentence with {} where the phrase goes, such as 'a photo of a {}'.")
        numbers: dict[str, Any] = {"min_area": self.min_area, "tile": 1 if self.tile is None else self.tile}
        for name, value in numbers.items():
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is a number of pixels from 1; got {value!r}.")
        if isinstance(self.negatives, str):
            raise InputError("Negative phrases are a list, such as ['background']; got a string.")
        for name in ("least_agreement", "least_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a number from 0 to 1; got {getattr(self, name)!r}.")


@dataclass(frozen=True, eq=False)
class TextInstance:
    """One object that a phrase has found.

    Attributes
    ----------
    patch : tuple of (rows, columns, mask)
        Where it is, as from :meth:`Prediction.patch`.
    phrase : str
    label : int
        Running number of the phrase, from 1: the object's class.
    score : float
        IoU that the mask model predicts.
    heat : float
        Mean probability of the phrase under the mask.
    agreement : float
        IoU of the mask with the region of the heat map.
    prompt : Prompt
        What the mask model was asked.
    """

    patch: Patch
    phrase: str
    label: int
    score: float
    heat: float
    agreement: float
    prompt: Prompt

    @property
    def certainty(self) -> float:
        """By which objects are ranked: the predicted IoU, less where the mask does not fit its region."""
        return self.score * self.agreement


@dataclass(frozen=True, eq=False)
class TextResult:
    """All stages of the way from phrases to instances.

    Attributes
    ----------
    shape : tuple of int
        (H, W) of the plane.
    phrases : tuple of str
    heat : (phrases, H, W) float16 array
        Probability of each phrase.
    regions : list of Region
        Where a phrase is more probable than the threshold and than all others; each with its peak.
    prompts : list of Prompt
        What the mask model was asked: first a click with negative points for each region, then a box for each.
    instances : list of TextInstance
        What was kept, the most certain first.
    dropped : list of TextInstance
        What was not: too low a score, no agreement with its region, or found twice.
    notes : list of str
        Sentences for the user: phrases that were found nowhere, and what of a phrase was not read.
    """

    shape: tuple[int, int]
    phrases: tuple[str, ...]
    heat: NDArray[np.float16]
    regions: list[Region]
    prompts: list[Prompt]
    instances: list[TextInstance]
    dropped: list[TextInstance] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_labels(self, by: str = "instance") -> NDArray[np.int32]:
        """Draw what was found, (H, W) int32: "instance" numbers objects from 1, "class" gives their phrase's number.

        Where objects overlap, the more certain one is seen.

        Raises
        ------
        InputError
            If `by` is neither.
        """
        if by not in ("instance", "class"):
            raise InputError(f"Labels are by 'instance' or by 'class'; got {by!r}.")
        labels = np.zeros(self.shape, np.int32)
        for number, one in enumerate(self.instances, start=1):
            instances.write(labels, one.patch, number if by == "instance" else one.label, OverlapPolicy.EMPTY)
        return labels


def segment_text(
    picture: ArrayLike | View,
    phrases: str | Sequence[str],
    text_model: Segmenter,
    mask_model: Segmenter,
    options: TextOptions | None = None,
    *,
    cancel: CancelToken | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TextResult:
    """Find what phrases name, and draw it sharply.

    Parameters
    ----------
    picture : (H, W) or (H, W, 3) array_like, or View
        Any real dtype; a view of the mask model brings its own embeddings.
    phrases : str or sequence of str
        A line of phrases with commas between them, or a list of phrases; one class each. One with a minus before it
        is not wanted, as those of `options.negatives`.
    text_model : Segmenter
        One that takes text, such as clipseg_rd64.
    mask_model : Segmenter
        One that takes points and boxes.
    options : TextOptions, optional
    cancel : CancelToken, optional
        Looked at between windows.
    progress : callable, optional
        Called with the windows that the text model has seen, and how many there are.

    Returns
    -------
    TextResult
        With no instances, and notes that say so, where nothing is found.

    Raises
    ------
    InputError, InputTypeError
        If there is no phrase or more than 255, or a model takes other prompts.
    WeightsError
        If the text model's vocabulary is missing.
    CancelledError
    """
    options = options or TextOptions()
    asked, minus = parted(checked_phrases(phrases))
    _check_models(text_model, mask_model)
    view = as_view(mask_model, picture)
    named = checked_phrases([*options.negatives, *minus], may_be_none=True)
    unwanted = [phrase for phrase in named if phrase not in asked]
    probable = heat_of(text_model, view.picture, [*asked, *unwanted], options.templates, options.tile, cancel, progress)
    regions = regions_of(probable, len(asked), options.threshold, options.min_area)
    kept, dropped = draw_regions(view, regions, probable, asked, options, cancel)
    prompts = [region.click for region in regions] + [region.boxed for region in regions]
    notes = [
        *not_read(text_model, asked, options.templates),
        *_not_found(asked, probable, regions, kept, options),
    ]
    return TextResult(view.shape, tuple(asked), probable[: len(asked)], regions, prompts, kept, dropped, notes)


def draw_regions(
    view: View,
    regions: Sequence[Region],
    heat: NDArray[np.float16],
    phrases: Sequence[str],
    options: TextOptions,
    cancel: CancelToken | None = None,
) -> tuple[list[TextInstance], list[TextInstance]]:
    """Let a model draw regions of a heat map, each by a click and by a box, and sort out what came of it.

    Parameters
    ----------
    view : View
        The plane as the model that draws sees it.
    regions : sequence of Region
    heat : (phrases, H, W) float16 array
    phrases : sequence of str
    options : TextOptions
    cancel : CancelToken, optional

    Returns
    -------
    tuple of list of TextInstance
        What is kept, the most certain first, and what is not.
    """
    prompts = [region.click for region in regions] + [region.boxed for region in regions]
    answers = view.predict(prompts, None, cancel=cancel) if prompts else []
    judged = [
        _judged(answer, region, heat, phrases, prompt)
        for answer, region, prompt in zip(answers, [*regions, *regions], prompts, strict=True)
    ]
    found = [_better(judged[i :: len(regions)]) for i in range(len(regions))]
    return _sorted_out([one for one in found if one is not None], options)


def checked_phrases(phrases: str | Sequence[str], may_be_none: bool = False) -> list[str]:
    """Return phrases, each once.

    Raises
    ------
    InputError
        If there is none, one is empty, or there are more than 255.
    """
    if isinstance(phrases, str):
        found = split_phrases(phrases)
    else:
        several: Any = phrases
        if not isinstance(several, Sequence) or not all(isinstance(phrase, str) for phrase in several):
            raise InputTypeError(f"Phrases are a line of text, or a list of texts; got {phrases!r}.")
        # as in a line: of those that differ only in capitals or spaces, the first
        spoken: dict[str, str] = {}
        for phrase in several:
            spoken.setdefault(" ".join(phrase.casefold().split()), " ".join(phrase.split()))
        found = list(spoken.values())
        if "" in found:
            raise InputError("A phrase is empty: name what to find, for example 'lung'.")
    if not found and not may_be_none:
        raise InputError("There is no phrase: name what to find, for example 'lung, heart'.")
    if len(found) > MOST:
        raise InputError(f"{len(found)} phrases are too many: ask for at most {MOST} at once.")
    return found


def _check_models(text_model: Segmenter, mask_model: Segmenter) -> None:
    if PromptKind.TEXT not in text_model.spec.accepts:
        raise InputError(f"{text_model.spec.title} takes no text: choose a model that does, such as clipseg_rd64.")
    check_takes_points(mask_model)


def _judged(
    answer: Prediction, region: Region, heat: NDArray[np.float16], phrases: Sequence[str], prompt: Prompt
) -> TextInstance | None:
    """The candidate of an answer that fits its region and is trusted."""
    best: TextInstance | None = None
    for k, score in enumerate(answer.scores):
        rows, columns, mask = patch = answer.patch(k)
        if not mask.any():
            continue
        warm = heat[region.label - 1, rows, columns][mask].astype(np.float32)
        agreement = region.iou(patch)
        one = TextInstance(
            patch, phrases[region.label - 1], region.label, float(score), float(warm.mean()), agreement, prompt
        )
        if best is None or one.certainty > best.certainty:
            best = one
    return best


def _better(several: Sequence[TextInstance | None]) -> TextInstance | None:
    return max((one for one in several if one is not None), key=lambda one: one.certainty, default=None)


def _sorted_out(found: Sequence[TextInstance], options: TextOptions) -> tuple[list[TextInstance], list[TextInstance]]:
    """What is good and new, the most certain first, and the rest."""
    kept: list[TextInstance] = []
    dropped: list[TextInstance] = []
    for one in sorted(found, key=lambda one: one.certainty, reverse=True):
        good = (
            one.score >= options.least_score
            and one.agreement >= options.least_agreement
            and one.heat > options.threshold / 2
        )
        if good and all(overlap(one.patch, other.patch) < _SAME for other in kept):
            kept.append(one)
        else:
            dropped.append(one)
    return kept, dropped


def _not_found(
    phrases: Sequence[str],
    heat: NDArray[np.float16],
    regions: Sequence[Region],
    kept: Sequence[TextInstance],
    options: TextOptions,
) -> list[str]:
    """Why a phrase has no object, in a sentence each."""
    there, drawn = [region.label for region in regions], {one.label for one in kept}
    notes = []
    for number, phrase in enumerate(phrases, start=1):
        highest, count = float(heat[number - 1].max()), there.count(number)
        if number in drawn:
            continue
        if count:
            many = "1 region was" if count == 1 else f"{count} regions were"
            why = f"{phrase!r}: {many} found, and no mask drawn there is good enough."
        elif highest > options.threshold:
            why = (
                f"{phrase!r} is above {options.threshold:g} only where another phrase is likelier, or on spots of "
                f"fewer than {options.min_area} pixels."
            )
        else:
            why = (
                f"{phrase!r} is nowhere more probable than {options.threshold:g}: its highest probability is "
                f"{highest:.2f}. Look at its heat map in the Segment dock, lower the threshold, or find other words."
            )
        notes.append(why)
    return notes


def not_read(text_model: Segmenter, phrases: Sequence[str], templates: Sequence[str] = ("{}",)) -> list[str]:
    """Sentences on what a model with room for so many tokens has not read."""
    if not isinstance(text_model, _SaysWhatIsCut):
        return []
    sentences = (template.replace("{}", phrase) for phrase in phrases for template in templates)
    cut = {sentence: text_model.cut(sentence) for sentence in sentences}
    return [f"{phrase!r} is too long for the model, which does not read {end!r}." for phrase, end in cut.items() if end]
