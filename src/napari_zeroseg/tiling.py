"""Fields of view: which window of a plane to encode for a prompt.

A network sees every picture at one size (SAM: 1024 pixels). A small object in a large plane is lost when the whole
plane is squeezed into that, so it is encoded in a window around it. Windows lie on a fixed grid of overlapping tiles,
so that neighbouring prompts share one, and an embedding is found again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SMALLEST_SIDE = 512
"""Side of the smallest window, in pixels; half of SAM's input, so that objects are drawn at twice their size."""

NARROWEST = 64
"""Smallest side that a user may choose for a window, in pixels."""

LARGE_PLANE = 1280
"""Longest side, in pixels, up to which a plane is encoded whole unless the prompt is about something small."""

CONTEXT = 2.0
"""A window is at least this many times as wide as the object it is for."""


class Field(NamedTuple):
    """A window of a plane: rows r0 up to r1 and columns c0 up to c1, ends excluded, in pixels."""

    r0: int
    c0: int
    r1: int
    c1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.r1 - self.r0, self.c1 - self.c0

    @property
    def slices(self) -> tuple[slice, slice]:
        """What cuts this window out of the plane."""
        return slice(self.r0, self.r1), slice(self.c0, self.c1)

    def holds(self, extent: tuple[float, float, float, float]) -> bool:
        """Whether the box (row0, column0, row1, column1) lies inside."""
        return (
            extent[0] >= self.r0 - 0.5
            and extent[1] >= self.c0 - 0.5
            and (extent[2] <= self.r1 - 0.5 and extent[3] <= self.c1 - 0.5)
        )


def whole(shape: tuple[int, int]) -> Field:
    """Return the field that is the whole plane of `shape` (H, W)."""
    return Field(0, 0, shape[0], shape[1])


def sides(shape: tuple[int, int]) -> list[int]:
    """Sides of the windows that a plane of `shape` (H, W) offers, smallest first; the last is its longest side."""
    longest = max(shape)
    offered = []
    side = SMALLEST_SIDE
    while side < longest:
        offered.append(side)
        side *= 2
    return [*offered, longest]


def window(shape: tuple[int, int], centre: tuple[float, float], side: int) -> Field:
    """Return the grid's window of `side` pixels whose centre is nearest to `centre` (row, column).

    Windows lie half a side apart, so anything up to half a side wide around `centre` is inside.
    """
    spans = [_span(length, position, side) for length, position in zip(shape, centre, strict=True)]
    (r0, r1), (c0, c1) = spans
    return Field(r0, c0, r1, c1)


def window_for(shape: tuple[int, int], extent: tuple[float, float, float, float], at_least: int = 0) -> Field:
    """Return the smallest window that shows the box `extent` (row0, column0, row1, column1) with its surroundings."""
    size = max(extent[2] - extent[0], extent[3] - extent[1]) + 1
    centre = ((extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2)
    for side in sides(shape):
        if side >= at_least and side >= CONTEXT * size:
            return window(shape, centre, side)
    return whole(shape)


def tiles(shape: tuple[int, int], side: int) -> Iterator[Field]:
    """All windows of `side` pixels of the grid over a plane of `shape` (H, W), row by row."""
    for r0 in _starts(shape[0], side):
        for c0 in _starts(shape[1], side):
            yield Field(r0, c0, min(r0 + side, shape[0]), min(c0 + side, shape[1]))


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    stride = side // 2
    starts = list(range(0, length - side, stride))
    return [*starts, length - side]


def _span(length: int, position: float, side: int) -> tuple[int, int]:
    start = min(_starts(length, side), key=lambda first: abs(first + side / 2 - position - 0.5))
    return start, min(start + side, length)
