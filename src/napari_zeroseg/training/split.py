"""What is held back for validation: whole blocks of planes or whole pictures, with a gap. Imports no torch.

Neighbouring planes of a stack are near-duplicates, and objects go through several of them. A random choice of planes
would let the network see what it is asked afterwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from napari_zeroseg.errors import InputError
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData, TrainingObject

ENOUGH_TO_JUDGE = 20
"""Validation objects from which one held-back block is enough; with fewer, every block is held back in turn."""

BLOCKS = 4
"""Blocks into which a small set is cut for that."""

Region = tuple[int, int, int, int, int]
"""(plane, row0, column0, row1, column1), ends excluded: a part of a plane that is held back."""


@dataclass(frozen=True)
class Split:
    """Which objects are learnt from, which one chooses by, and which give the figures.

    Attributes
    ----------
    train, choose, report : tuple of int
        Indices into the data's objects. `choose` decides which weights are the best, `report` gives the figures; they
        are the same where there are too few planes for two parts.
    train_planes : tuple of int
        Planes that objects and background are learnt from.
    held : tuple of Region
        Parts of training planes that are held back, where there was only one plane.
    sentence : str
        What was held back, for people.
    choose_planes, report_planes : tuple of int
        Planes that are held back for either, those without an object among them: what is found there is found wrongly.
    """

    train: tuple[int, ...]
    choose: tuple[int, ...]
    report: tuple[int, ...]
    train_planes: tuple[int, ...]
    held: tuple[Region, ...] = ()
    sentence: str = ""
    choose_planes: tuple[int, ...] = ()
    report_planes: tuple[int, ...] = ()

    @property
    def chosen_on_itself(self) -> bool:
        """Whether the figures come from the objects by which the weights were chosen."""
        return self.choose == self.report


def split_for(data: TrainingData, config: TrainingConfig) -> Split:
    """Hold back a block of planes, whole pictures, or, of a single plane, a strip.

    Raises
    ------
    InputError
        If nothing is left to learn from or to validate on.
    """
    given = [plane for plane in range(len(data.planes)) if data.role(plane) == "validation"]
    rest = [plane for plane in range(len(data.planes)) if data.role(plane) != "validation"]
    if not given and any(pair.role == "validation" for pair in config.pairs):
        raise InputError(
            "The pictures named for validation hold no object of what is to be learnt: label some there, choose other "
            "classes, or let the run hold back a block by itself."
        )
    if given:
        apart = [plane for plane in rest if not any(_is_near(data, plane, one, config.gap) for one in given)]
        sentence = f"{_planes(len(given))} that were named for it"
        if len(apart) < len(rest):
            sentence += f", {len(rest) - len(apart)} of the same stack left out, beside them or the same"
        return _of_planes(data, apart, given, config, sentence)
    if len(rest) == 1:
        return _of_strip(data, rest[0], config)
    free = [plane for plane in rest if data.role(plane) == "auto"] or rest
    train, held = _last_block(data, free, config)
    train = sorted(train + [plane for plane in rest if plane not in free])
    return _of_planes(data, train, held, config, f"the last {_planes(len(held))}, {config.gap} before them left out")


def folds(data: TrainingData, config: TrainingConfig, split: Split) -> list[Split]:
    """Every block held back in turn, for small sets; empty where one block is enough or cannot be avoided."""
    planes = [plane for plane in range(len(data.planes)) if data.role(plane) == "auto"]
    if len(split.report) >= ENOUGH_TO_JUDGE or len(planes) < len(data.planes) or len(planes) < 3:
        return []
    count = min(BLOCKS, len(planes))
    bounds = [round(i * len(planes) / count) for i in range(count + 1)]
    found: list[Split] = []
    for first, last in itertools.pairwise(bounds):
        held = planes[first:last]
        near = {p for p in planes for h in held if _is_near(data, p, h, config.gap)}
        train = [plane for plane in planes if plane not in near]
        inside = _on(data, held)
        if not inside or not _on(data, train):
            return []
        sentence, planes_held = f"block {len(found) + 1} of {count}", tuple(held)
        found.append(Split(_on(data, train), inside, inside, tuple(train), (), sentence, planes_held, planes_held))
    return found


def _last_block(data: TrainingData, free: Sequence[int], config: TrainingConfig) -> tuple[list[int], list[int]]:
    """The last planes that hold about the wanted part of all objects, and those far enough from them."""
    wanted = config.validation * sum(len(data.of_plane(plane)) for plane in free)
    held: list[int] = []
    for plane in reversed(free[1:]):
        if held and sum(len(data.of_plane(one)) for one in held) >= wanted:
            break
        held.insert(0, plane)
    train = [p for p in free if p not in held and not any(_is_near(data, p, h, config.gap) for h in held)]
    while not train and len(held) > 1:  # a short stack: rather less to validate on than nothing to learn from
        held.pop(0)
        train = [p for p in free if p not in held and not any(_is_near(data, p, h, config.gap) for h in held)]
    return train, held


def _of_planes(
    data: TrainingData, train: Sequence[int], held: Sequence[int], config: TrainingConfig, sentence: str
) -> Split:
    learnt, validated = _on(data, train), _on(data, held)
    if not learnt or not validated:
        which = "no object is left to learn from" if not learnt else "the part for validation holds no object"
        raise InputError(
            f"When the block for validation is held back, {which}: label planes that are farther apart, make the gap "
            "smaller, or name the pairs for validation."
        )
    first, second = _halves(data, held, config)
    return Split(learnt, _on(data, first), _on(data, second), tuple(train), (), sentence, first, second)


def _halves(data: TrainingData, held: Sequence[int], config: TrainingConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Planes to choose by and planes to report, which differ where both parts hold enough objects."""
    for count in range(max(1, len(held) // 3), len(held)):
        choose = held[:count]
        report = [p for p in held[count:] if not any(_is_near(data, p, c, config.gap) for c in choose)]
        first, second = len(_on(data, choose)), len(_on(data, report))
        if first >= ENOUGH_TO_JUDGE and second >= ENOUGH_TO_JUDGE:
            return tuple(choose), tuple(report)
        if second < ENOUGH_TO_JUDGE:
            break
    return tuple(held), tuple(held)


def _of_strip(data: TrainingData, plane: int, config: TrainingConfig) -> Split:
    """Of a single plane, hold back a strip at the end of its longer side; objects on its border count for neither."""
    height, width = data.planes[plane].shape
    axis = 0 if height >= width else 1
    objects = data.of_plane(plane)
    ends = sorted(one.box[axis + 2] for one in objects)
    cut = ends[min(len(ends) - 1, math.floor(len(ends) * (1 - config.validation)))]
    cut = min(cut, (height, width)[axis] - 1)
    learnt = tuple(i for i, one in enumerate(data.objects) if one.plane == plane and one.box[axis + 2] < cut)
    held = tuple(i for i, one in enumerate(data.objects) if one.plane == plane and one.box[axis] >= cut)
    if not learnt or not held:
        raise InputError(
            "There is one labelled plane, and its objects cannot be parted into some to learn from and some to "
            "validate on: label a second plane."
        )
    region = (plane, cut, 0, height, width) if axis == 0 else (plane, 0, cut, height, width)
    where = "lower" if axis == 0 else "right"
    sentence = f"the {where} part of the only plane; label more planes for a figure that says more"
    return Split(learnt, held, held, (plane,), (region,), sentence, (plane,), (plane,))


def _is_near(data: TrainingData, one: int, other: int, gap: int) -> bool:
    a, b = data.planes[one], data.planes[other]
    same_stack = a.pair == b.pair or (a.file and a.file == b.file)
    return bool(same_stack) and abs(a.index - b.index) <= gap


def _on(data: TrainingData, planes: Sequence[int]) -> tuple[int, ...]:
    chosen = set(planes)
    return tuple(i for i, one in enumerate(data.objects) if one.plane in chosen)


def objects_of(data: TrainingData, indices: Sequence[int]) -> list[TrainingObject]:
    """The objects of `indices`."""
    return [data.objects[i] for i in indices]


def _planes(count: int) -> str:
    return "1 plane" if count == 1 else f"{count} planes"
