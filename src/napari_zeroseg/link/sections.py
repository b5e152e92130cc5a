"""First pass: the sections of each plane, and what links them to those of the planes before."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.link.options import Branches, LinkOptions
from napari_zeroseg.link.tidy import Labels, fill_holes, remove_specks
from napari_zeroseg.metrics import Ids, overlaps


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """The sections of planes and the links between them; small enough to be sent between processes.

    Attributes
    ----------
    start, stop : int
        The planes that were looked at.
    reach : int
        How many planes a link may span.
    plane, label, area, first : (N,) int64
        The sections, sorted by plane and label; `first` is the flat index of the first pixel.
    above, below : (M,) int64
        Indices of the sections that each link joins, the earlier plane first.
    iou : (M,) float64
    """

    start: int
    stop: int
    reach: int
    plane: Ids
    label: Ids
    area: Ids
    first: Ids
    above: Ids
    below: Ids
    iou: NDArray[np.float64]


@dataclass(slots=True, eq=False)
class _Plane:
    """A plane that may still be linked."""

    pixels: Labels
    label: Ids
    area: Ids
    first: Ids
    offset: int  # index of its first section
    is_linked: NDArray[np.bool_]  # downwards


class Linker:
    """Collects sections and links, plane by plane, and keeps no more than `gap` + 1 planes.

    Parameters
    ----------
    options : LinkOptions
    start : int
        Number of the first plane.
    """

    def __init__(self, options: LinkOptions | None = None, start: int = 0) -> None:
        self._options = options or LinkOptions()
        self._start = start
        self._window: deque[_Plane] = deque(maxlen=self._options.gap + 1)
        self._sections: list[tuple[Ids, Ids, Ids, Ids]] = []
        self._links: list[tuple[Ids, Ids, NDArray[np.float64]]] = []
        self._count = 0

    def add(self, plane: Labels) -> None:
        """Take the next plane.

        Parameters
        ----------
        plane : (H, W) integer array
            Labels of this plane, 0 is background; that a label is used on another plane too means nothing.

        Raises
        ------
        InputError, InputTypeError
            If it is no such array, or has another shape than the plane before.
        """
        pixels = tidied(plane, self._options)
        if self._window and self._window[-1].pixels.shape != pixels.shape:
            raise InputError(
                f"All planes must have one shape; got {pixels.shape} after {self._window[-1].pixels.shape}."
            )
        label, first, area = sections_of(pixels)
        now = _Plane(pixels, label, area, first, self._count, np.zeros(len(label), bool))
        reached = np.zeros(len(label), bool)
        for distance, earlier in enumerate(reversed(self._window), start=1):
            # What has a link to a nearer plane is not missing there.
            free = ~reached, ~earlier.is_linked
            above, below, iou = self._candidates(earlier, now, *(free if distance > 1 else (None, None)))
            earlier.is_linked[above] = True
            reached[below] = True
            self._links.append((above + earlier.offset, below + now.offset, iou))
        number = self._start + len(self._sections)
        self._sections.append((np.full(len(label), number), label, area, first))
        self._count += len(label)
        self._window.append(now)

    def links(self) -> Links:
        """Return what was found so far."""
        none = np.zeros(0, np.int64)
        plane, label, area, first = (
            np.concatenate([none, *column]) for column in zip(*self._sections, (none,) * 4, strict=True)
        )
        return Links(
            self._start,
            self._start + len(self._sections),
            self._options.gap + 1,
            plane,
            label,
            area,
            first,
            np.concatenate([none, *(above for above, _, _ in self._links)]),
            np.concatenate([none, *(below for _, below, _ in self._links)]),
            np.concatenate([np.zeros(0), *(iou for _, _, iou in self._links)]),
        )

    def _candidates(
        self, a: _Plane, b: _Plane, free_b: NDArray[np.bool_] | None, free_a: NDArray[np.bool_] | None
    ) -> tuple[Ids, Ids, NDArray[np.float64]]:
        """Links that are possible between two planes, as indices of their sections."""
        shared = overlaps(a.pixels, b.pixels).of_objects()
        above, below = np.searchsorted(a.label, shared.first), np.searchsorted(b.label, shared.second)
        iou = shared.count / (a.area[above] + b.area[below] - shared.count)
        inside = shared.count / np.minimum(a.area[above], b.area[below])
        kept = (iou >= self._options.low) | (inside >= self._options.inside)
        if free_a is not None and free_b is not None:
            kept &= free_a[above] & free_b[below]
        above, below, iou = above[kept], below[kept], iou[kept]
        if self._options.branches is Branches.CUT:
            order = np.lexsort((b.first[below], a.first[above], -iou))
            chosen = one_to_one(above[order], below[order])
            above, below, iou = above[order][chosen], below[order][chosen], iou[order][chosen]
        order = np.lexsort((below, above))
        return above[order], below[order], iou[order]


def one_to_one(above: Ids, below: Ids) -> Ids:
    """Indices of the pairs that are taken if each section has one partner and the earlier pairs choose first."""
    taken_above: set[int] = set()
    taken_below: set[int] = set()
    chosen = []
    for index, (a, b) in enumerate(zip(above.tolist(), below.tolist(), strict=True)):
        if a not in taken_above and b not in taken_below:
            taken_above.add(a)
            taken_below.add(b)
            chosen.append(index)
    return np.asarray(chosen, np.int64)


def tidied(plane: Labels, options: LinkOptions) -> Labels:
    """Return a plane without specks and holes, as far as the options ask for it.

    Raises
    ------
    InputError, InputTypeError
        If it is not (H, W) integers from 0.
    """
    pixels = np.asarray(plane)
    if pixels.dtype.kind not in "iu":
        raise InputTypeError(f"Labels to link are integers; got {pixels.dtype}.")
    if pixels.ndim != 2:
        raise InputError(f"Labels are linked plane by plane, (rows, columns); got shape {pixels.shape}.")
    if pixels.size and (int(pixels.min()) < 0 or int(pixels.max()) > np.iinfo(np.int64).max):
        raise InputError(f"Labels go from 0, the background, to 2^63 - 1; got {pixels.min()} to {pixels.max()}.")
    if options.min_area > options.pixel:
        pixels = remove_specks(pixels, options.min_area, options.spacing[1:])
    if options.max_hole_area >= options.pixel:
        pixels = fill_holes(pixels, options.max_hole_area, options.spacing[1:])
    return pixels.astype(np.int64, copy=False)


def sections_of(pixels: Labels) -> tuple[Ids, Ids, Ids]:
    """Return the labels of an array in ascending order, the flat index of the first pixel of each, and their pixels."""
    at = np.flatnonzero(pixels)
    label, first, area = np.unique(pixels.ravel()[at], return_index=True, return_counts=True)
    return label.astype(np.int64), at[first].astype(np.int64), area.astype(np.int64)


def join_links(parts: Sequence[Links]) -> Links:
    """Join the links of blocks of planes, so that the result is that of all planes in one go.

    Parameters
    ----------
    parts : sequence of Links
        Of blocks in any order, found with the same options; neighbours share at least `gap` + 1 planes, which were the
        same in both.

    Raises
    ------
    InputError
        If there are none, planes are missing between them, or shared planes differ.
    """
    parts = sorted(parts, key=lambda part: (part.start, part.stop))
    if not parts:
        raise InputError("There are no blocks to join.")
    reach = parts[0].reach
    for one, other in itertools.pairwise(parts):
        if one.stop - other.start < reach or other.reach != reach:
            raise InputError(
                f"Blocks must share {reach} or more planes to be joined; one ends before plane {one.stop} and the next "
                f"begins at {other.start}."
            )
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ("plane", "label", "area", "first")]
    keys, kept, which = np.unique(np.stack(columns, 1), axis=0, return_index=True, return_inverse=True)
    if len(np.unique(keys[:, :2], axis=0)) < len(keys):
        raise InputError("Planes that two blocks share must have the same labels in both: segment them alike.")
    offsets = np.cumsum([0, *(len(part.plane) for part in parts[:-1])])
    ends = [
        which.ravel()[np.concatenate([getattr(part, name) + at for part, at in zip(parts, offsets, strict=True)])]
        for name in ("above", "below")
    ]
    links, once = np.unique(np.stack(ends, 1), axis=0, return_index=True)
    iou = np.concatenate([part.iou for part in parts])[once]
    plane, label, area, first = (column[kept] for column in columns)
    stop = max(part.stop for part in parts)
    return Links(parts[0].start, stop, reach, plane, label, area, first, links[:, 0], links[:, 1], iou)
