"""Holes of a volume, found and filled plane by plane."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.link.solve import connected
from napari_zeroseg.link.tidy import Background, background, touch
from napari_zeroseg.metrics import Ids


class VolumeHoles:
    """Background that one object encloses in three dimensions, as of :func:`fill_holes` of the whole volume.

    Parameters
    ----------
    planes : iterable of (H, W) int32
        The objects of each plane; two planes are kept at a time.
    max_voxels : float
        The largest hole that is filled.
    """

    def __init__(self, planes: Iterable[NDArray[np.int32]], max_voxels: float) -> None:
        self._offsets = [0]
        self._columns: list[tuple[Ids, Ids, Ids, NDArray[np.bool_]]] = []
        self._above: list[Ids] = []
        self._below: list[Ids] = []
        last: tuple[Background, NDArray[np.int32]] | None = None
        for labels in planes:
            parts = background(labels)
            if last is not None:
                self._join(*last, parts, labels)
            self._columns.append((parts.size, parts.lowest, parts.highest, parts.is_open))
            self._offsets.append(self._offsets[-1] + len(parts.size))
            last = parts, labels
        for column in (self._columns[0], self._columns[-1]) if self._columns else ():
            column[-1][:] = True  # the first and the last plane are the border of the volume
        self._enclosing = self._solve(max_voxels)

    def fill(self, index: int, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return plane `index`, counted from 0, with its share of the holes filled."""
        own = self._enclosing[self._offsets[index] : self._offsets[index + 1]]
        filled: NDArray[np.int32] = np.where(labels == 0, own[background(labels).which], labels)
        return filled

    def _join(
        self, parts_above: Background, above: NDArray[np.int32], parts_below: Background, below: NDArray[np.int32]
    ) -> None:
        # What is open in its plane is open in the volume, and so is what it is joined to: its neighbours do not matter.
        closed_above, closed_below = ~parts_above.is_open[parts_above.which], ~parts_below.is_open[parts_below.which]
        touch(parts_above, parts_above.which[closed_above], below[closed_above])
        touch(parts_below, parts_below.which[closed_below], above[closed_below])
        both = (closed_above & (below == 0)) | (closed_below & (above == 0))
        width = len(parts_below.size)
        pairs = np.unique(parts_above.which[both] * width + parts_below.which[both])
        offset = self._offsets[-1]
        self._above.append(pairs // width + offset - len(parts_above.size))
        self._below.append(pairs % width + offset)

    def _solve(self, max_voxels: float) -> NDArray[np.int32]:
        if not self._columns:
            return np.zeros(0, np.int32)
        size, lowest, highest, is_open = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        ends = [np.concatenate([np.zeros(0, np.int64), *part]) for part in (self._above, self._below)]
        which = connected(len(size), *ends)
        count = int(which.max()) + 1
        voxels, low = np.zeros(count, np.int64), np.full(count, np.iinfo(np.int64).max)
        high, outside = np.zeros(count, np.int64), np.zeros(count, bool)
        np.add.at(voxels, which, size)
        np.minimum.at(low, which, lowest)
        np.maximum.at(high, which, highest)
        np.logical_or.at(outside, which, is_open)
        enclosing = np.where(~outside & (low == high) & (voxels <= max_voxels), low, 0)
        return enclosing[which].astype(np.int32)
