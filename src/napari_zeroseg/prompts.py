"""Prompt: what points at one object on one plane, in (row, column)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.errors import InputError, InputTypeError


class PromptKind(StrEnum):
    """The kinds of prompt that a model can accept."""

    POINTS = "points"
    BOX = "box"
    MASK = "mask"
    TEXT = "text"


def _no_points() -> NDArray[np.float32]:
    return np.zeros((0, 2), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One object on one plane.

    Pixel centres are at whole numbers: the first pixel covers -0.5 to 0.5.

    Parameters
    ----------
    points : (N, 2) array_like of float, optional
        (row, column) of each click, in pixels of the plane.
    labels : (N,) array_like of bool, optional
        True where the click is on the object, False where it is on background. Left out, all are True.
    box : (4,) array_like of float, optional
        (row0, column0, row1, column1) in pixels; corners in any order are sorted.
    mask : (H, W) array_like of bool, optional
        A rough mask of the object, of the plane's shape.
    text : str, optional
        A phrase that names the object.

    Raises
    ------
    InputError
        If shapes do not match, a number is not finite, a box has no area or nothing is given.
    """

    points: NDArray[np.float32] = field(default_factory=_no_points)
    labels: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    box: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None
    text: str | None = None

    def __init__(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        text: str | None = None,
    ) -> None:
        checked = _checked_points(points)
        object.__setattr__(self, "points", checked)
        object.__setattr__(self, "labels", _checked_labels(labels, len(checked)))
        object.__setattr__(self, "box", None if box is None else _checked_box(box))
        object.__setattr__(self, "mask", None if mask is None else _checked_mask(mask))
        object.__setattr__(self, "text", _checked_text(text))
        if not self.kinds:
            raise InputError("The prompt is empty: give at least a point, a box, a mask or a text.")

    @property
    def kinds(self) -> frozenset[PromptKind]:
        """Which kinds of prompt this one holds."""
        held = {
            PromptKind.POINTS: len(self.points) > 0,
            PromptKind.BOX: self.box is not None,
            PromptKind.MASK: self.mask is not None,
            PromptKind.TEXT: self.text is not None,
        }
        return frozenset(kind for kind, there in held.items() if there)

    @property
    def is_ambiguous(self) -> bool:
        """Whether this is one single click, which may mean a part, an object or a group."""
        return len(self.points) == 1 and self.box is None and self.mask is None

    def extent(self) -> tuple[float, float, float, float] | None:
        """Box (row0, column0, row1, column1) that holds what lies on the object, or None for text alone."""
        rows: list[float] = []
        columns: list[float] = []
        on_object = self.points[self.labels]
        if not len(on_object) and self.box is None and self.mask is None:
            on_object = self.points  # clicks on background alone: there is nothing else to look at
        if len(on_object):
            rows += [float(on_object[:, 0].min()), float(on_object[:, 0].max())]
            columns += [float(on_object[:, 1].min()), float(on_object[:, 1].max())]
        if self.box is not None:
            rows += [float(self.box[0]), float(self.box[2])]
            columns += [float(self.box[1]), float(self.box[3])]
        if self.mask is not None:
            filled = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
            rows += [float(filled[0][0]), float(filled[0][-1])]
            columns += [float(filled[1][0]), float(filled[1][-1])]
        if not rows:
            return None
        return min(rows), min(columns), max(rows), max(columns)

    def check_on(self, shape: tuple[int, int]) -> None:
        """Raise if this prompt does not lie on a plane of `shape` (H, W).

        Raises
        ------
        InputError
            If a point or the whole box is outside, or the mask has another shape.
        """
        height, width = shape
        if len(self.points):
            inside = ((self.points >= -0.5) & (self.points <= np.array([height - 0.5, width - 0.5]))).all(1)
            if not inside.all():
                row, column = self.points[~inside][0]
                raise InputError(
                    f"The point at row {row:g}, column {column:g} lies outside the picture of {height} rows and "
                    f"{width} columns: give (row, column) inside it, counted from 0."
                )
        if self.box is not None:
            r0, c0, r1, c1 = self.box
            if r1 <= -0.5 or c1 <= -0.5 or r0 >= height - 0.5 or c0 >= width - 0.5:
                raise InputError(
                    f"The box from row {r0:g}, column {c0:g} to row {r1:g}, column {c1:g} lies outside the picture of "
                    f"{height} rows and {width} columns: draw it over the picture."
                )
        if self.mask is not None and self.mask.shape != (height, width):
            raise InputError(
                f"The mask prompt has shape {self.mask.shape} but the plane has {(height, width)}: "
                "give a mask of the plane's own shape."
            )


def _as_floats(values: ArrayLike, what: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{what} must be numbers (rows and columns in pixels): {error}.") from error
    if not np.isfinite(array).all():
        raise InputError(f"{what} must be finite numbers; one is NaN or infinite.")
    return array


def _checked_points(points: ArrayLike | None) -> NDArray[np.float32]:
    if points is None or (isinstance(points, Sequence) and len(points) == 0):
        return _no_points()
    array = _as_floats(points, "Points")
    if array.size == 0:
        return _no_points()
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"Points must be pairs (row, column), an array of shape (N, 2); got shape {array.shape}.")
    return array


def _checked_labels(labels: ArrayLike | None, count: int) -> NDArray[np.bool_]:
    if labels is None:
        return np.ones(count, bool)
    array = np.asarray(labels)
    if array.size == 0 and count == 0:
        return np.zeros(0, bool)
    if array.shape != (count,):
        raise InputError(f"There are {count} points but labels of shape {array.shape}: give one True or False a point.")
    if not np.isin(array, (0, 1)).all():
        raise InputError("Labels of points must be True (on the object) or False (on background).")
    return array.astype(bool)


def _checked_box(box: ArrayLike) -> NDArray[np.float32]:
    array = _as_floats(box, "A box")
    if array.shape != (4,):
        raise InputError(f"A box is (row0, column0, row1, column1), four numbers; got shape {array.shape}.")
    r0, r1 = sorted((array[0], array[2]))
    c0, c1 = sorted((array[1], array[3]))
    if r0 == r1 or c0 == c1:
        raise InputError(
            f"The box from row {r0:g}, column {c0:g} to row {r1:g}, column {c1:g} has no area: "
            "draw it around the object, at least one pixel high and wide."
        )
    return np.array([r0, c0, r1, c1], np.float32)


def _checked_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.ndim != 2:
        raise InputError(f"A mask prompt is one plane (H, W); got {array.ndim} dimensions.")
    array = array.astype(bool)
    if not array.any():
        raise InputError("The mask prompt is empty: mark at least one pixel of the object.")
    return array


def _checked_text(text: str | None) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise InputTypeError(f"A text prompt must be a string, not {type(text).__name__}.")
    if not text.strip():
        raise InputError("The text prompt is empty: name what to find, for example 'lung'.")
    return text.strip()
