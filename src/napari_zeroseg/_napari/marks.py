"""Marks: what the user drew for one object, in pixels of the plane, and the prompt that it makes. No napari."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from napari_zeroseg.errors import InputError
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.segmenter import Patch

Vertices = NDArray[np.floating[Any]]
"""(N, 2) rows and columns in pixels of the plane."""

Box = tuple[float, float, float, float]

SCRIBBLE_POINTS = 8
"""A scribble becomes at most this many points: more tell a model nothing new."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """One point or shape on the plane.

    Attributes
    ----------
    kind : str
        "point", or the shape's type as napari has it.
    row : int
        Which point or shape of its layer it is.
    object_id : int
        Which object it is for.
    vertices : (N, 2) array
    positive : bool
        Whether it lies on its object.
    text : str
        What is to be looked for inside it; "" for most.
    class_id : int
        Class that its object is of; 0 where the shape does not say.
    score : float
        How sure whoever drew it is, 0 to 1; infinite where the shape does not say.
    """

    kind: str
    row: int
    object_id: int
    vertices: Vertices
    positive: bool
    text: str = ""
    class_id: int = 0
    score: float = np.inf


@dataclass(frozen=True, eq=False)
class Picked:
    """A label that was picked up to be refined.

    Attributes
    ----------
    label : int
    patch : Patch
        Where it is, in pixels of the image's plane.
    own : Patch, optional
        The same in pixels of the output.
    """

    label: int
    patch: Patch
    own: Patch | None = None


@dataclass(frozen=True, eq=False)
class Marks:
    """Everything that describes one object: what was drawn for it, and the label that it starts from.

    Or a phrase, looked for all over the plane or `within` a box (row0, column0, row1, column1); then `object_id` is the
    number of its class.
    """

    object_id: int
    drawn: tuple[Drawn, ...] = ()
    picked: Picked | None = None
    phrase: str = ""
    within: Box | None = None
    is_unwanted: bool = False
    """Whether the phrase only takes pixels from others."""

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal where the prompt is, and what is written of its answer."""
        drawn = tuple((d.kind, d.positive, d.vertices.tobytes(), d.class_id, d.score) for d in self.drawn)
        picked = None if self.picked is None else id(self.picked)
        return (self.object_id, drawn, picked, self.phrase, self.within, self.is_unwanted)

    @property
    def has_target(self) -> bool:
        """Whether anything says where the object is, rather than only where it is not."""
        return self.picked is not None or bool(self.phrase) or any(d.positive for d in self.drawn)

    @property
    def class_id(self) -> int | None:
        """Class that the first shape with one names; None where none does."""
        return next((d.class_id for d in self.drawn if d.class_id > 0), None)

    @property
    def score(self) -> float:
        """How sure whoever drew its first shape with a class is; infinite where that does not say."""
        return next((d.score for d in self.drawn if d.class_id > 0), np.inf)

    def is_for(self, accepts: frozenset[PromptKind]) -> bool:
        """Whether a model that takes the kinds `accepts` can be asked with these marks."""
        if self.phrase:
            return PromptKind.TEXT in accepts
        if needs_words(accepts):
            return False
        given = {PromptKind.MASK, PromptKind.BOX} if self.picked is not None else set()
        for d in self.drawn:
            if d.kind in ("polygon", "ellipse"):
                given |= {PromptKind.MASK, PromptKind.BOX}
            elif d.positive:
                given.add(PromptKind.BOX if d.kind == "rectangle" else PromptKind.POINTS)
        return bool(given & accepts)

    def rows(self, *, points: bool) -> list[int]:
        """Which points, or else which shapes, of their layer these are."""
        return [d.row for d in self.drawn if (d.kind == "point") is points]

    def prompt(self, shape: tuple[int, int], accepts: frozenset[PromptKind]) -> Prompt:
        """Make the prompt for a model that takes the kinds `accepts`, on a plane of `shape` (H, W).

        A rectangle is the box. Filled shapes are a rough mask, and give the box where there is none.

        Raises
        ------
        InputError
            If what is drawn cannot be a prompt, such as a box of no area, a point outside the picture or two boxes.
        """
        if self.phrase:
            return Prompt(box=self.within, text=self.phrase)
        points, labels = self._points()
        boxes = [extent_of(d.vertices) for d in self.drawn if d.kind == "rectangle"]
        if len(boxes) > 1:
            raise InputError(
                f"Two boxes describe object {self.object_id} of this plane: give each its own number in the feature "
                "'object', or delete one."
            )
        mask = self._mask(shape)
        box = boxes[0] if boxes else None
        if mask is not None and box is None:
            box = _box_around(mask, points[labels])
        mask = mask if PromptKind.MASK in accepts else None
        box = box if PromptKind.BOX in accepts else None
        if PromptKind.POINTS not in accepts:
            points, labels = points[:0], labels[:0]
        return Prompt(points, labels, box, mask)

    def _points(self) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
        found: list[Vertices] = []
        labels: list[bool] = []
        for d in self.drawn:
            if d.kind in ("point", "path", "line", "polyline"):
                vertices = d.vertices if d.kind == "point" else _along(d.vertices)
                found.append(vertices)
                labels += [d.positive] * len(vertices)
        return np.concatenate([np.zeros((0, 2)), *found]), np.array(labels, bool)

    def _mask(self, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
        filled = [_outline(d) for d in self.drawn if d.kind in ("polygon", "ellipse")]
        if not filled and self.picked is None:
            return None
        mask = np.zeros(shape, bool)
        if self.picked is not None:
            rows, columns, patch = self.picked.patch
            mask[rows, columns] |= patch
        for outline in filled:
            mask[polygon(outline[:, 0], outline[:, 1], shape)] = True
        if not mask.any():
            raise InputError("The outline holds no pixel of the picture: draw it over the picture, around the object.")
        return mask


def top_first(marks: Sequence[Marks]) -> list[int]:
    """Say which of several objects has the pixels where they meet: the places of all, the uppermost first.

    Without classes, an earlier object keeps its pixels. Shapes with classes lie over each other by score, and of equal
    ones the later over the earlier.
    """
    places = range(len(marks))
    if all(m.class_id is None for m in marks):
        return list(places)
    return sorted(places, key=lambda i: (-marks[i].score, -max(marks[i].rows(points=False), default=-1)))


def needs_words(accepts: frozenset[PromptKind]) -> bool:
    """Whether a model answers to words alone, so that a box only tells it where to look."""
    return PromptKind.TEXT in accepts and PromptKind.POINTS not in accepts


def by_object(drawn: Iterable[Drawn]) -> list[Marks]:
    """Group what was drawn by the object that each mark names."""
    groups: dict[int, list[Drawn]] = {}
    for d in drawn:
        groups.setdefault(d.object_id, []).append(d)
    return [Marks(number, tuple(groups[number])) for number in sorted(groups)]


def each_its_own(drawn: Iterable[Drawn]) -> list[Marks]:
    """Make every shape and every positive point an object; a negative point belongs to the nearest of them."""
    drawn = list(drawn)
    marks = [Marks(d.object_id, (d,)) for d in drawn if d.positive]
    for negative in (d for d in drawn if not d.positive):
        if not marks:
            return [Marks(negative.object_id, (negative,))]
        position = negative.vertices[0]
        nearest = min(range(len(marks)), key=lambda i: _distance(position, marks[i].drawn[0].vertices))
        marks[nearest] = replace(marks[nearest], drawn=(*marks[nearest].drawn, negative))
    return marks


def _distance(position: NDArray[np.floating[Any]], vertices: Vertices) -> float:
    """Distance to the box around `vertices`; 0 inside, where the smaller box is the nearer."""
    r0, c0, r1, c1 = extent_of(vertices)
    outside = np.hypot(max(r0 - position[0], 0, position[0] - r1), max(c0 - position[1], 0, position[1] - c1))
    return float(outside) if outside else -1 / (1 + (r1 - r0) * (c1 - c0))


def extent_of(vertices: Vertices) -> Box:
    """Box around vertices."""
    r0, c0 = vertices.min(0)
    r1, c1 = vertices.max(0)
    return float(r0), float(c0), float(r1), float(c1)


def _outline(d: Drawn) -> Vertices:
    if d.kind != "ellipse":
        return d.vertices
    centre = d.vertices.mean(0)
    first, second = (d.vertices[1] - d.vertices[0]) / 2, (d.vertices[3] - d.vertices[0]) / 2
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(angles) * first + np.sin(angles) * second)


def _along(path: Vertices) -> Vertices:
    """Points at equal distances along a path, away from its ends, which seldom lie well inside the object."""
    steps = np.hypot(*np.diff(path, axis=0).T)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    count = int(np.clip(length[-1] // 4, 1, SCRIBBLE_POINTS))
    places = (np.arange(count) + 0.5) / count * length[-1]
    return np.stack([np.interp(places, length, path[:, axis]) for axis in (0, 1)], axis=1)


def _box_around(mask: NDArray[np.bool_], on_object: NDArray[np.floating[Any]]) -> Box | None:
    """Box of a mask; None where a click asks for more than the mask, or there is nothing to put a box around."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    r0, c0, r1, c1 = rows[0] - 0.5, columns[0] - 0.5, rows[-1] + 0.5, columns[-1] + 0.5
    inside = (on_object >= (r0, c0)).all() and (on_object <= (r1, c1)).all()
    return (float(r0), float(c0), float(r1), float(c1)) if inside else None
