"""What is held back for validation: whole blocks of planes or whole pictures, with a gap. Imports no torch.

Neighbouring planes of a stack are near-duplicates, and objects go through several of them. A random choice of planes
would let the network see what it is asked afterwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        Parts of training planes that are held back, where there were too few planes to hold back whole ones.
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
    """Hold back a block of planes, whole pictures, or a strip of one to three planes that lie close together.

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
    free = [plane for plane in rest if data.role(plane) == "auto"] or rest
    others = [plane for plane in rest if plane not in free]
    train, held = _last_block(data, free, config)
    if _lie_close(data, train, free) and (strip := _strip(data, free, config)) is not None:
        parted = _of_strip(data, strip, free, others, config)
        if parted is not None:
            return parted
        if not train:
            raise _not_parted(len(free))
    # what lies beside the block is not learnt from, even where it was named to be
    train = sorted([*train, *(p for p in others if not any(_is_near(data, p, h, config.gap) for h in held))])
    return _of_planes(data, train, held, config, f"the last {_planes(len(held))}{_left_out(train, rest, held)}")


def folds(data: TrainingData, config: TrainingConfig, split: Split) -> list[Split]:
    """Every block held back in turn, for small sets; empty where one block is enough or cannot be avoided."""
    planes = [plane for plane in range(len(data.planes)) if data.role(plane) == "auto"]
    if len(split.report) >= ENOUGH_TO_JUDGE or len(planes) < len(data.planes):
        return []
    if split.held:
        return next((strips for count in range(BLOCKS, 1, -1) if (strips := _strips(data, planes, count))), [])
    if len(planes) < 3:
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


@dataclass(frozen=True)
class _Strip:
    """Rows (axis 0) or columns (axis 1) from `first` to `last`, excluded, of every plane."""

    axis: int
    first: int
    last: int

    def region(self, plane: int, shape: tuple[int, int]) -> Region:
        if self.axis == 0:
            return plane, self.first, 0, self.last, shape[1]
        return plane, 0, self.first, shape[0], self.last

    def holds(self, one: TrainingObject) -> bool:
        return self.first <= one.box[self.axis] and one.box[self.axis + 2] < self.last

    def is_apart(self, one: TrainingObject) -> bool:
        return one.box[self.axis + 2] < self.first or one.box[self.axis] >= self.last


def _lie_close(data: TrainingData, train: Sequence[int], free: Sequence[int]) -> bool:
    """Whether holding back a whole plane would leave too little: nothing, or less than half of one to three planes."""
    return not train or len(free) == 1 or (len(free) <= 3 and 2 * len(_on(data, train)) < len(_on(data, free)))


def _ends(data: TrainingData, planes: Sequence[int]) -> tuple[int, int, list[int]] | None:
    """The longer axis of planes of one shape, its length, and where objects end on it; None for several shapes."""
    shapes = {data.planes[plane].shape for plane in planes}
    if len(shapes) != 1:
        return None
    ((height, width),) = shapes
    axis = 0 if height >= width else 1
    return axis, max(height, width), sorted(data.objects[i].box[axis + 2] for i in _on(data, planes))


def _strip(data: TrainingData, planes: Sequence[int], config: TrainingConfig) -> _Strip | None:
    """A strip at the end of the longer side with about the wanted part of all objects."""
    found = _ends(data, planes)
    if found is None or not found[2]:
        return None
    axis, length, ends = found
    cut = min(ends[min(len(ends) - 1, math.floor(len(ends) * (1 - config.validation)))], length - 1)
    return _Strip(axis, cut, length)


def _of_strip(
    data: TrainingData, strip: _Strip, planes: Sequence[int], others: Sequence[int], config: TrainingConfig
) -> Split | None:
    """Hold back one strip of all planes; objects on its border count for neither. None if that leaves nothing."""
    others = [p for p in others if not any(_is_near(data, p, plane, config.gap) for plane in planes)]
    split = _around(data, strip, planes, "")
    if split is None:
        return None
    where = "lower" if strip.axis == 0 else "right"
    sentence = f"the {where} part of the only plane; label more planes for a figure that says more"
    if len(planes) > 1:
        sentence = (
            f"the {where} part of all {len(planes)} planes, which lie too close together to hold back one; label "
            "others farther apart for a figure that says more"
        )
    train, train_planes = sorted({*split.train, *_on(data, others)}), sorted({*planes, *others})
    return replace(split, train=tuple(train), train_planes=tuple(train_planes), sentence=sentence)


def _not_parted(count: int) -> InputError:
    which = "is one labelled plane" if count == 1 else f"are {count} labelled planes, close together"
    return InputError(
        f"There {which}, and the objects cannot be parted into some to learn from and some to validate on: label "
        f"{'a second plane' if count == 1 else 'planes that are farther apart'}."
    )


def _strips(data: TrainingData, planes: Sequence[int], count: int) -> list[Split]:
    """Every one of so many strips held back in turn; empty if one holds no whole object, or leaves none."""
    found = _ends(data, planes)
    if found is None or len(found[2]) < count:
        return []
    axis, length, ends = found
    cuts = [0, *(ends[round(i * len(ends) / count) - 1] + 1 for i in range(1, count)), length]
    splits: list[Split] = []
    for first, last in itertools.pairwise(cuts):
        split = _around(data, _Strip(axis, first, last), planes, f"strip {len(splits) + 1} of {count}")
        if split is None:
            return []
        splits.append(split)
    return splits


def _around(data: TrainingData, strip: _Strip, planes: Sequence[int], sentence: str) -> Split | None:
    """Learn from what lies apart from a strip of these planes; None if nothing does, or nothing lies in it."""
    there = _on(data, planes)
    learnt = tuple(i for i in there if strip.is_apart(data.objects[i]))
    held = tuple(i for i in there if strip.holds(data.objects[i]))
    if not learnt or not held:
        return None
    regions = tuple(strip.region(plane, data.planes[plane].shape) for plane in planes)
    return Split(learnt, held, held, tuple(planes), regions, sentence, tuple(planes), tuple(planes))


def _left_out(train: Sequence[int], rest: Sequence[int], held: Sequence[int]) -> str:
    """How many planes are used for neither, where any are."""
    count = len(rest) - len(train) - len(held)
    return f", {count} beside them left out" if count else ""


def _is_near(data: TrainingData, one: int, other: int, gap: int) -> bool:
    return data.planes[one].distance(data.planes[other]) <= gap


def _on(data: TrainingData, planes: Sequence[int]) -> tuple[int, ...]:
    chosen = set(planes)
    return tuple(i for i, one in enumerate(data.objects) if one.plane in chosen)


def objects_of(data: TrainingData, indices: Sequence[int]) -> list[TrainingObject]:
    """The objects of `indices`."""
    return [data.objects[i] for i in indices]


def _planes(count: int) -> str:
    return "1 plane" if count == 1 else f"{count} planes"
