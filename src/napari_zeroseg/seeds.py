"""Prompts of flags and of napari's CSV files, gathered into numbered objects by plane."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_zeroseg.errors import InputError
from napari_zeroseg.io.csv import read_boxes, read_points
from napari_zeroseg.planes import Planes
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.stack import Seed


@dataclass(frozen=True)
class GivenPrompts:
    """Prompts as a user gives them to a run.

    Attributes
    ----------
    boxes : sequence of (row0, column0, row1, column1)
        For every plane, as are `points` and `negatives`.
    points, negatives : sequence of (row, column)
        On an object, and on background.
    points_file, boxes_file : Path, optional
        CSV that napari saved for a Points and a Shapes layer.
    one_object : bool
        All prompts of a plane describe one object; else each is one, unless a file numbers them.
    """

    boxes: Sequence[tuple[float, ...]] = ()
    points: Sequence[tuple[float, ...]] = ()
    negatives: Sequence[tuple[float, ...]] = ()
    points_file: Path | None = None
    boxes_file: Path | None = None
    one_object: bool = False


@dataclass(frozen=True)
class _Mark:
    """One point or box of a flag or a file; without a plane it is for all."""

    plane: int | None
    point: tuple[float, ...] | None = None
    box: tuple[float, ...] | None = None
    sign: bool = True
    number: int | None = None


def gather_seeds(given: GivenPrompts, series: Planes, chosen: Sequence[int]) -> dict[int, list[Seed]]:
    """Number the objects and say which prompt each has on which of the `chosen` planes.

    Raises
    ------
    InputError
        If there is no prompt, none lies on a chosen plane, or they contradict each other.
    """
    marks = _marks(given, series)
    if not marks:
        raise InputError("There is nothing to look for: give --point, --box, --points FILE or --boxes FILE.")
    names: list[object] = [
        "one" if given.one_object else index if mark.number is None else ("object", mark.number)
        for index, mark in enumerate(marks)
    ]
    labels: dict[object, int] = {}
    free = 1 + max((mark.number for mark in marks if mark.number is not None), default=0)
    seeds: dict[int, list[Seed]] = {}
    for plane in chosen:
        groups: dict[object, list[_Mark]] = {}
        for name, mark in zip(names, marks, strict=True):
            if mark.plane in (None, plane):
                groups.setdefault(name, []).append(mark)
        _share_negatives(groups)
        for name, members in groups.items():
            if name not in labels:
                labels[name] = members[0].number or free
                free = max(free, labels[name] + 1)
            seeds.setdefault(plane, []).append(Seed(labels[name], _prompt(members)))
    if not seeds:
        raise InputError("None of the prompts lies on the chosen planes: check --planes and the planes in the files.")
    return seeds


def _marks(given: GivenPrompts, series: Planes) -> list[_Mark]:
    marks = [_Mark(None, box=box) for box in given.boxes]
    marks += [_Mark(None, point=point) for point in given.points]
    marks += [_Mark(None, point=point, sign=False) for point in given.negatives]
    if given.points_file is not None:
        for row in read_points(given.points_file):
            marks.append(_Mark(_plane(row.plane, series), (row.row, row.column), None, row.sign, row.object))
    if given.boxes_file is not None:
        for rectangle in read_boxes(given.boxes_file):
            marks.append(_Mark(_plane(rectangle.plane, series), None, rectangle.box, True, rectangle.object))
    return marks


def _plane(index: tuple[int, ...], series: Planes) -> int | None:
    """Running number of a plane that a file names by its index; None where the file has no axis for planes."""
    if not index:
        return None
    if len(index) == 1 and not series.index_shape:
        return 0 if index[0] == 0 else _no_plane(index)
    if len(index) != len(series.index_shape):
        raise InputError(
            f"The prompts' file has {len(index) + 2} axes but the picture has {len(series.index_shape) + 2}: save the "
            "layer that lies over this picture."
        )
    number = 0
    for i, length in zip(index, series.index_shape, strict=True):
        if not 0 <= i < length:
            return _no_plane(index)
        number = number * length + i
    return number


def _no_plane(index: tuple[int, ...]) -> int:
    raise InputError(
        f"The prompts' file names plane {index}, which the picture does not have: check that both belong together."
    )


def _share_negatives(groups: dict[object, list[_Mark]]) -> None:
    """Points on background that belong to no object tell every object of the plane where it is not."""
    strays = [name for name, members in groups.items() if all(m.point is not None and not m.sign for m in members)]
    if len(strays) == len(groups):
        raise InputError("There are only points on background: give at least one point or box on an object.")
    negatives = [mark for name in strays for mark in groups.pop(name)]
    for members in groups.values():
        members += negatives


def _prompt(members: Sequence[_Mark]) -> Prompt:
    boxes = [mark.box for mark in members if mark.box is not None]
    if len(boxes) > 1:
        raise InputError(
            "Two boxes describe one object of a plane: give each its own number in the column 'object', or leave "
            "--one-object out."
        )
    points = [mark for mark in members if mark.point is not None]
    return Prompt(
        points=[mark.point for mark in points if mark.point is not None],
        labels=[mark.sign for mark in points],
        box=boxes[0] if boxes else None,
    )


def planes_of(text: str | None, count: int) -> list[int]:
    """Read a choice of planes: "3", "0:20", "0:20:2", "1,4,7" or None for all.

    Raises
    ------
    InputError
        If the text is no such choice or names no plane of the stack.
    """
    if text is None:
        return list(range(count))
    chosen: list[int] = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*(-?\d+|(-?\d*):(-?\d*)(:\d+)?)\s*", part):
            raise InputError(f"--planes {text!r} was not understood: write 3, 0:20, 0:20:2 or 1,4,7.")
        if ":" not in part:
            number = int(part)
            if not 0 <= number < count:
                raise InputError(f"There is no plane {number}: planes are counted from 0 to {count - 1}.")
            chosen.append(number)
        else:
            bounds = [int(bound) if bound.strip() else None for bound in part.split(":")]
            if len(bounds) == 3 and bounds[2] == 0:
                raise InputError(f"--planes {text!r} was not understood: a step is at least 1.")
            chosen += range(count)[slice(*bounds)]
    if not chosen:
        raise InputError(f"--planes {text!r} names none of the planes 0 to {count - 1}.")
    return sorted(set(chosen))
