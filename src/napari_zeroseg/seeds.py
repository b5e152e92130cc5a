"""Prompts of flags and of napari's CSV files, gathered into numbered objects by plane."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import check_class, number_classes
from napari_zeroseg.io.csv import read_boxes, read_points
from napari_zeroseg.planes import Planes
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.stack import Seed

_log = logging.getLogger(__name__)

_LAST_LABEL = 2**31 - 1


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
    by_class : bool
        Objects get the number of their box's class, and come by score, what has none last; of equal ones in their
        order.
    """

    boxes: Sequence[tuple[float, ...]] = ()
    points: Sequence[tuple[float, ...]] = ()
    negatives: Sequence[tuple[float, ...]] = ()
    points_file: Path | None = None
    boxes_file: Path | None = None
    one_object: bool = False
    by_class: bool = False


@dataclass(frozen=True)
class _Mark:
    """One point or box of a flag or a file; without a plane it is for all."""

    plane: int | None
    point: tuple[float, ...] | None = None
    box: tuple[float, ...] | None = None
    sign: bool = True
    number: int | None = None
    class_id: int = 0
    score: float = math.inf

    @property
    def is_on_object(self) -> bool:
        return self.box is not None or self.sign


def gather_seeds(given: GivenPrompts, series: Planes, chosen: Sequence[int]) -> dict[int, list[Seed]]:
    """Number the objects and say which prompt each has on which of the `chosen` planes.

    Raises
    ------
    InputError
        If there is no prompt, none lies on a chosen plane, one lies outside it, or they contradict each other.
    """
    marks = _marks(given, series)
    if not marks:
        raise InputError("There is nothing to look for: give --point, --box, --points FILE or --boxes FILE.")
    if not any(mark.is_on_object for mark in marks):
        raise InputError("There are only points on background: give at least one point or box on an object.")
    names = _names(marks, given.one_object)
    by_plane: dict[int | None, list[int]] = {}
    for i, mark in enumerate(marks):
        by_plane.setdefault(mark.plane, []).append(i)
    labels: dict[object, int] = {}
    free = itertools.count(1 + max((mark.number for mark in marks if mark.number is not None), default=0))
    seeds: dict[int, list[Seed]] = {}
    for plane in chosen:
        groups: dict[object, list[_Mark]] = {}
        for i in sorted([*by_plane.get(None, []), *by_plane.get(plane, [])]):
            groups.setdefault(names[i], []).append(marks[i])
        _share_negatives(groups, plane)
        for name, members in _in_order(groups, given.by_class):
            if given.by_class:
                label = _class(members)
            else:
                label = labels[name] = labels.get(name) or _label(members, free)
            seed = Seed(label, _prompt(members))
            seed.prompt.check_on(series.plane_shape)
            seeds.setdefault(plane, []).append(seed)
    if not seeds:
        raise InputError("None of the prompts lies on the chosen planes: check --planes and the planes in the files.")
    left_out = sum(len(by_plane[plane]) for plane in by_plane.keys() - {None, *chosen})
    if left_out:
        _log.info("%d of %d points and boxes lie on planes outside --planes: left out.", left_out, len(marks))
    return seeds


def class_names(given: GivenPrompts) -> dict[str, int]:
    """Numbers of the classes that the boxes' file names, none where it numbers them."""
    if given.boxes_file is None:
        return {}
    return number_classes([row.class_ or "" for row in read_boxes(given.boxes_file)])[1]


def _in_order(groups: Mapping[object, list[_Mark]], by_score: bool) -> list[tuple[object, list[_Mark]]]:
    several = list(groups.items())
    return sorted(several, key=lambda group: _score(group[1])) if by_score else several


def _label(members: Sequence[_Mark], free: Iterator[int]) -> int:
    given = next((mark.number for mark in members if mark.is_on_object and mark.number is not None), None)
    return next(free) if given is None else given


def _class(members: Sequence[_Mark]) -> int:
    found = next((mark.class_id for mark in members if mark.class_id), 0)
    if not 1 <= found <= _LAST_LABEL:
        raise InputError(
            "With --classes each object needs the class of its box: give --boxes FILE with a column 'class' that has "
            "a name or a whole number from 1 in each line, and no points or boxes besides; or leave --classes out."
        )
    return found


def _score(members: Sequence[_Mark]) -> float:
    return next((mark.score for mark in members if mark.class_id), math.inf)


def _names(marks: Sequence[_Mark], one_object: bool) -> list[object]:
    """What tells the object of each mark from others."""
    numbers = {mark.number for mark in marks if mark.number is not None}
    if one_object and len(numbers) > 1:
        raise InputError(
            f"--one-object says that all prompts describe one object, but the column 'object' numbers {len(numbers)}: "
            "leave one of them out."
        )
    return [
        "one" if one_object else index if mark.number is None else ("object", mark.number)
        for index, mark in enumerate(marks)
    ]


def _marks(given: GivenPrompts, series: Planes) -> list[_Mark]:
    marks = [_Mark(None, box=box) for box in given.boxes]
    marks += [_Mark(None, point=point) for point in given.points]
    marks += [_Mark(None, point=point, sign=False) for point in given.negatives]
    if given.points_file is not None:
        for row in read_points(given.points_file):
            number = _number(row.object, given.points_file)
            marks.append(_Mark(_plane(row.plane, series), (row.row, row.column), None, row.sign, number))
    if given.boxes_file is not None:
        rectangles = read_boxes(given.boxes_file)
        if given.by_class:
            for rectangle in rectangles:
                check_class(rectangle.class_ or "", f"{rectangle.where}, column class")
        classes, _ = number_classes([rectangle.class_ or "" for rectangle in rectangles])
        for rectangle, class_id in zip(rectangles, classes, strict=True):
            number = _number(rectangle.object, given.boxes_file)
            score = math.inf if rectangle.score is None else rectangle.score
            plane = _plane(rectangle.plane, series)
            marks.append(_Mark(plane, None, rectangle.box, True, number, class_id, score))
    return marks


def _number(number: int | None, file: Path) -> int | None:
    if number is not None and not 1 <= number <= _LAST_LABEL:
        raise InputError(
            f"{file.name} names object {number}: objects are numbered from 1 to {_LAST_LABEL}, as 0 is background."
        )
    return number


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


def _share_negatives(groups: dict[object, list[_Mark]], plane: int) -> None:
    """Points on background that belong to no object tell the objects of the plane where these are not."""
    strays = {name: marks for name, marks in groups.items() if not any(mark.is_on_object for mark in marks)}
    for name in strays:
        del groups[name]
    unnumbered = [members for members in groups.values() if all(mark.number is None for mark in members)]
    for marks in strays.values():
        # A number may have been meant for a box, whose number napari does not save.
        numbered = any(mark.number is not None for mark in marks)
        meant = unnumbered if numbered else list(groups.values())
        if not meant and (groups or any(mark.plane is not None for mark in marks)):
            raise InputError(
                f"On plane {plane} an object has only points on background: give it a point or a box as well."
            )
        for members in meant:
            members += marks


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
