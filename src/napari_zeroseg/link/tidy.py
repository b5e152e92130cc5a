"""Holes and specks of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError
from napari_zeroseg.metrics import Ids

Labels = NDArray[np.integer]
_NONE = int(np.iinfo(np.int64).max)


def fill_holes(labels: Labels, max_size: float = math.inf, spacing: Sequence[float] | None = None) -> Labels:
    """Fill background that one label encloses.

    Background is connected through faces. It is a hole if it touches neither the border of the picture nor a second
    label: what holds another object is none.

    Parameters
    ----------
    labels : integer array of any number of axes
        0 is background. It is not changed.
    max_size : float
        Largest area or volume of a hole that is filled.
    spacing : sequence of float, optional
        Distance of neighbours along each axis; left out, 1.

    Returns
    -------
    array of the shape and type of `labels`

    Raises
    ------
    InputError
        If the spacing has another length.
    """
    parts = background(labels)
    pixel = _size_of_one(labels, spacing)
    enclosing = np.where(
        ~parts.is_open & (parts.lowest == parts.highest) & (parts.size * pixel <= max_size), parts.lowest, 0
    )
    return np.where(labels == 0, enclosing[parts.which].astype(labels.dtype), labels)


def remove_specks(labels: Labels, min_size: float, spacing: Sequence[float] | None = None) -> Labels:
    """Remove the pieces of labels that are smaller than `min_size`; a piece is connected through faces.

    Parameters
    ----------
    labels : integer array of any number of axes
        0 is background. It is not changed.
    min_size : float
        Smallest area or volume that stays.
    spacing : sequence of float, optional
        Distance of neighbours along each axis; left out, 1.

    Returns
    -------
    array of the shape and type of `labels`

    Raises
    ------
    InputError
        If the spacing has another length.
    """
    which, count = pieces(labels)
    sizes = np.bincount(which.ravel(), minlength=count + 1) * _size_of_one(labels, spacing)
    return np.where(sizes[which] >= min_size, labels, np.zeros((), labels.dtype))


def pieces(labels: Labels) -> tuple[Ids, int]:
    """Number the pieces of labels that are connected through faces, from 1; and how many there are."""
    from skimage.measure import label

    which, count = label(labels, background=0, return_num=True, connectivity=1)
    return which.astype(np.int64), int(count)


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """The connected parts of the background.

    Attributes
    ----------
    which : integer array of the labels' shape
        Number of the part of each pixel, from 1; 0 where there is a label.
    size, lowest, highest : (N + 1,) int64
        Pixels of each part, and the lowest and highest label that touch it; the latter only of parts that are not open.
        Entry 0 is not used.
    is_open : (N + 1,) bool
        Whether the part touches the border of the picture.
    """

    which: Ids
    size: Ids
    lowest: Ids
    highest: Ids
    is_open: NDArray[np.bool_]


def background(labels: Labels) -> Background:
    """Find the parts of the background and what touches them."""
    which, count = pieces(labels == 0)
    lowest, highest = np.full(count + 1, _NONE), np.zeros(count + 1, np.int64)
    is_open = np.zeros(count + 1, bool)
    is_open[0] = True
    for axis in range(labels.ndim):
        for side in (0, -1) if labels.size else ():
            is_open[which.take(side, axis)] = True
    parts = Background(which, np.bincount(which.ravel(), minlength=count + 1), lowest, highest, is_open)
    # Pixels of closed parts are not at the border, so that each has all its neighbours.
    flat = np.ascontiguousarray(labels).ravel()
    at = np.flatnonzero(~is_open[which])
    for step in np.cumprod([1, *labels.shape[:0:-1]]).tolist():
        for there in (at - step, at + step):
            touch(parts, which.ravel()[at], flat[there])
    return parts


def touch(parts: Background, which: Ids, label: Labels) -> None:
    """Note in place which labels touch which parts; pairs of one length, where a label of 0 is none."""
    at = label != 0
    np.minimum.at(parts.lowest, which[at], label[at])
    np.maximum.at(parts.highest, which[at], label[at])


def _size_of_one(labels: Labels, spacing: Sequence[float] | None) -> float:
    if spacing is None:
        return 1.0
    if len(spacing) != labels.ndim:
        raise InputError(f"Spacing is one number for each of {labels.ndim} axes; got {tuple(spacing)}.")
    return math.prod(spacing)
