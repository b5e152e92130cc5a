"""What the held-back part of a run cannot tell: classes and words that are missing from it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from napari_zeroseg.errors import InputError
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.split import Split


def untold(data: TrainingData, split: Split, config: TrainingConfig) -> list[str]:
    """Say which words or classes are on one side of the split only, in a sentence for each side."""
    learnt, held = _labels(data, split.train), _labels(data, (*split.choose, *split.report))
    named = list(_named(data, config))
    kind = ("The word", "The words") if config.words else ("Class", "Classes")
    unjudged = [name for name, labels in named if learnt & labels and not held & labels]
    unlearnt = [name for name, labels in named if held & labels and not learnt & labels]
    told = []
    if unjudged:
        names, are, them = _in_words(kind, unjudged)
        told.append(
            f"{names} {are} on none of the planes that are held back, so the figures say nothing of {them}: label "
            f"{them} there."
        )
    if unlearnt:
        names, are, them = _in_words(kind, unlearnt)
        told.append(
            f"{names} {are} only on planes that are held back, and not learnt: label {them} elsewhere too, or leave "
            f"{them} out."
        )
    return told


def _in_words(kind: tuple[str, str], names: list[str]) -> tuple[str, str, str]:
    """Names with what they are, and the verb and pronoun that go with so many."""
    if len(names) == 1:
        return f"{kind[0]} {names[0]}", "is", "it"
    return f"{kind[1]} {', '.join(names[:-1])} and {names[-1]}", "are", "them"


def check_words_held(data: TrainingData, split: Split, config: TrainingConfig) -> None:
    """Raise, with a sentence, if nothing that is held back has a word: there would be no figure at all.

    Raises
    ------
    InputError
    """
    for part, where in (
        (split.train, "learnt from"),
        (split.choose, "held back to choose the weights by"),
        (split.report, "held back for the figures"),
    ):
        there = _labels(data, part)
        if config.words and not any(not labels or there & set(labels) for labels in config.words.values()):
            raise InputError(
                f"None of the words names anything on what is {where}: label it on more planes, or name pairs for "
                "validation."
            )


def _named(data: TrainingData, config: TrainingConfig) -> Iterator[tuple[str, set[int]]]:
    """What is asked for by name, and its labels; numbers of single objects are no names."""
    if config.words:
        every = {one.label for one in data.objects}
        yield from ((repr(word), set(labels) or every) for word, labels in config.words.items())
    elif data.as_classes or config.classes:
        yield from ((str(label), {label}) for label in sorted({one.label for one in data.objects}))


def _labels(data: TrainingData, objects: tuple[int, ...]) -> set[int]:
    return {data.objects[i].label for i in objects}
