"""Holes of a volume, found and filled plane by plane."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.link.solve import connected
from napari_zeroseg.link.tidy import Background, background, touch
from napari_zeroseg.metrics import Ids


@dataclass(frozen=True, slots=True, eq=False)
class Hollows:
    """The background of planes in connected parts, and what joins those of neighbouring planes; small enough to send.

    Attributes
    ----------
    bounds : (planes + 1,) int64
        Where each plane's parts begin.
    size, lowest, highest : (N,) int64
        As of :class:`Background`; labels of the planes above and below touch too.
    is_open : (N,) bool
    above, below : (M,) int64
        Parts that are joined, the earlier plane first.
    """

    bounds: Ids
    size: Ids
    lowest: Ids
    highest: Ids
    is_open: NDArray[np.bool_]
    above: Ids
    below: Ids


def hollows_of(planes: Iterable[NDArray[np.int32]]) -> Hollows:
    """Find the parts of the background; two of the planes, (H, W) int32, are kept at a time."""
    bounds = [0]
    columns: list[tuple[Ids, Ids, Ids, NDArray[np.bool_]]] = []
    pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    last: tuple[Background, NDArray[np.int32]] | None = None
    for labels in planes:
        parts = background(labels)
        if last is not None:
            above, below = _joined(*last, parts, labels)
            pairs.append((above + bounds[-2], below + bounds[-1]))
        columns.append((parts.size, parts.lowest, parts.highest, parts.is_open))
        bounds.append(bounds[-1] + len(parts.size))
        last = parts, labels
    none = np.zeros(0, np.int64)
    size, lowest, highest, is_open = (
        np.concatenate(column) for column in zip((none, none, none, none.astype(bool)), *columns, strict=True)
    )
    ends = [np.concatenate(side) for side in zip(*pairs, strict=True)]
    return Hollows(np.array(bounds), size, lowest, highest, is_open, *ends)


def join_hollows(blocks: Sequence[Hollows]) -> Hollows:
    """Join what was found in blocks of planes, in order, each of which begins with the last plane of the one before.

    The result is that of all planes in one go.
    """
    starts = [0, *itertools.accumulate(int(block.bounds[-2]) for block in blocks[:-1])]
    count = starts[-1] + int(blocks[-1].bounds[-1])
    size, is_open = np.zeros(count, np.int64), np.zeros(count, bool)
    lowest, highest = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    for start, block in zip(starts, blocks, strict=True):
        own = slice(start, start + len(block.size))
        size[own], is_open[own] = block.size, block.is_open
        # On the plane that two blocks share, one has seen the plane above it and the other the plane below.
        np.minimum(lowest[own], block.lowest, out=lowest[own])
        np.maximum(highest[own], block.highest, out=highest[own])
    bounds = [blocks[0].bounds[:2], *(block.bounds[2:] + start for start, block in zip(starts, blocks, strict=True))]
    above, below = (
        np.concatenate([getattr(block, side) + start for start, block in zip(starts, blocks, strict=True)])
        for side in ("above", "below")
    )
    return Hollows(np.concatenate(bounds), size, lowest, highest, is_open, above, below)


@dataclass(frozen=True, slots=True, eq=False)
class VolumeHoles:
    """Background that one object encloses in three dimensions, as of :func:`fill_holes` of the whole volume.

    Attributes
    ----------
    start : int
        The first plane.
    bounds : (planes + 1,) int64
        Where each plane's parts of the background begin.
    enclosing : (N,) int32
        The object that each part becomes, or 0.
    """

    start: int
    bounds: Ids
    enclosing: NDArray[np.int32]

    @classmethod
    def of(cls, hollows: Hollows, max_voxels: float) -> VolumeHoles:
        """Decide which parts are holes of at most so many voxels; the first plane is number 0."""
        return cls(0, hollows.bounds, _enclosing(hollows, max_voxels))

    def part(self, start: int, stop: int) -> VolumeHoles:
        """What another process needs to fill some of the planes."""
        bounds = self.bounds[start - self.start : stop - self.start + 1]
        return VolumeHoles(start, bounds - bounds[0], self.enclosing[bounds[0] : bounds[-1]])

    def fill(self, index: int, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return plane `index` with its share of the holes filled."""
        at = index - self.start
        own = self.enclosing[self.bounds[at] : self.bounds[at + 1]]
        filled: NDArray[np.int32] = np.where(labels == 0, own[background(labels).which], labels)
        return filled


def _joined(
    parts_above: Background, above: NDArray[np.int32], parts_below: Background, below: NDArray[np.int32]
) -> tuple[Ids, Ids]:
    """Parts of two neighbouring planes that are one; what touches them from the other plane is noted in place."""
    # What is open in its plane is open in the volume, and so is what it is joined to: its neighbours do not matter.
    closed_above, closed_below = ~parts_above.is_open[parts_above.which], ~parts_below.is_open[parts_below.which]
    touch(parts_above, parts_above.which[closed_above], below[closed_above])
    touch(parts_below, parts_below.which[closed_below], above[closed_below])
    both = (closed_above & (below == 0)) | (closed_below & (above == 0))
    width = len(parts_below.size)
    pairs = np.unique(parts_above.which[both] * width + parts_below.which[both])
    return pairs // width, pairs % width


def _enclosing(hollows: Hollows, max_voxels: float) -> NDArray[np.int32]:
    if not len(hollows.size):
        return np.zeros(0, np.int32)
    is_open = hollows.is_open.copy()
    is_open[: hollows.bounds[1]] = True  # the first and the last plane are the border of the volume
    is_open[hollows.bounds[-2] :] = True
    which = connected(len(hollows.size), hollows.above, hollows.below)
    count = int(which.max()) + 1
    voxels, low = np.zeros(count, np.int64), np.full(count, np.iinfo(np.int64).max)
    high, outside = np.zeros(count, np.int64), np.zeros(count, bool)
    np.add.at(voxels, which, hollows.size)
    np.minimum.at(low, which, hollows.lowest)
    np.maximum.at(high, which, hollows.highest)
    np.logical_or.at(outside, which, is_open)
    enclosing = np.where(~outside & (low == high) & (voxels <= max_voxels), low, 0)
    return enclosing[which].astype(np.int32)
