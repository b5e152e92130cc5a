"""Where to look: windows of a plane, and the clicks in each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg import tiling
from napari_zeroseg.automatic.candidates import Box
from napari_zeroseg.automatic.options import AutomaticOptions, rectangular_grid
from napari_zeroseg.tiling import LARGE_PLANE, Field

_SIDE = 2 * tiling.SMALLEST_SIDE
"""Side of windows over a large plane: what the network takes in without making it smaller."""

_WHOLE_INSTEAD = LARGE_PLANE / _SIDE
"""A plane this many times as wide as a window needs no windows of that side."""

_NEAR_CROP = 20.0
"""Pixels from the side of a crop within which segment-anything takes a mask to be cut."""

_NEAR_WINDOW = 5 / 256
"""The same in parts of a window's side: 20 pixels of 1024, and five cells of the network's answer everywhere."""


@dataclass(frozen=True, eq=False)
class Window:
    """A part of the plane that is searched by itself.

    Attributes
    ----------
    field : Field
    points : (N, 2) array
        Clicks as (row, column), in pixels of the window.
    near : float
        Pixels from a side of the window, if that is no side of the plane, within which a mask is taken to be cut.
    """

    field: Field
    points: NDArray[np.float64]
    near: float

    def cuts(self, box: Box, shape: tuple[int, int]) -> bool:
        """Whether a mask with `box` in pixels of the plane of `shape` (H, W) goes on outside of the window."""
        sides = zip(box, self.field, (0, 0, *shape), strict=True)
        return any(abs(edge - own) <= self.near < abs(edge - outermost) for edge, own, outermost in sides)


def windows_of(shape: tuple[int, int], options: AutomaticOptions) -> list[Window]:
    """All windows of a plane of `shape` (H, W), wider ones first."""
    as_crops = bool(options.crop_n_layers) or options.point_grids is not None
    if options.field == "plane" or as_crops or (options.field == "auto" and max(shape) <= LARGE_PLANE):
        return [
            Window(field, _inside(options.grid(layer) * field.shape, field.shape), _NEAR_CROP)
            for layer, field in _crops(shape, options)
        ]
    assert options.points_per_side is not None
    smallest = options.field if isinstance(options.field, int) else _SIDE
    return [window for side in _sides(max(shape), smallest) for window in _tiles(shape, side, options.points_per_side)]


def _crops(shape: tuple[int, int], options: AutomaticOptions) -> Iterator[tuple[int, Field]]:
    """The plane and segment-anything's layers of crops, column by column, each with its layer."""
    yield 0, tiling.whole(shape)
    for layer in range(1, options.crop_n_layers + 1):
        count = 2**layer
        overlap = int(options.crop_overlap_ratio * min(shape) * (2 / count))
        lengths = [math.ceil((overlap * (count - 1) + length) / count) for length in shape]
        for column, row in product(range(count), range(count)):
            r0, c0 = row * (lengths[0] - overlap), column * (lengths[1] - overlap)
            yield layer, Field(r0, c0, min(r0 + lengths[0], shape[0]), min(c0 + lengths[1], shape[1]))


def _sides(longest: int, smallest: int) -> list[int]:
    """Sides of windows, widest first: the plane's own, then twice, four times ... `smallest`, and that itself."""
    sides = [longest]
    side = smallest
    while longest > _WHOLE_INSTEAD * side:
        sides.insert(1, side)
        side *= 2
    return sides


def _tiles(shape: tuple[int, int], side: int, points_per_side: int) -> Iterator[Window]:
    """Windows of one side. A click is asked in that window alone whose middle is nearest."""
    counts = [max(1, round(length * points_per_side / side)) for length in shape]
    clicks = rectangular_grid(*counts) * shape
    members: dict[Field, list[NDArray[np.float64]]] = {}
    for click in clicks:
        members.setdefault(tiling.window(shape, (click[0], click[1]), side), []).append(click)
    for field, points in members.items():
        origin = (field.r0, field.c0)
        yield Window(field, _inside(np.array(points) - origin, field.shape), _NEAR_WINDOW * side)


def _inside(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """The far side of a grid's last cell is half a pixel outside of the last pixel."""
    return np.minimum(points, np.array(shape) - 0.5)
