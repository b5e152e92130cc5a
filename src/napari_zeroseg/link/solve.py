"""Between the passes: from links to objects and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError
from napari_zeroseg.link.options import LinkOptions
from napari_zeroseg.link.sections import Links, tidied
from napari_zeroseg.link.tidy import Labels
from napari_zeroseg.metrics import Ids

_MOST = int(np.iinfo(np.int32).max)


@dataclass(frozen=True, slots=True)
class LinkedObject:
    """An object of the volume.

    Attributes
    ----------
    label : int
    first, last : int
        The planes between which it lies.
    planes : int
        Number of planes where it is.
    voxels : int
    volume : float
        In the unit of the spacing.
    """

    label: int
    first: int
    last: int
    planes: int
    voxels: int
    volume: float


class Relabelling:
    """Which object each section belongs to: the second pass.

    Attributes
    ----------
    objects : list of LinkedObject
        Sorted by label; sizes are those before holes of the volume are filled.
    """

    def __init__(self, links: Links, new: Ids, options: LinkOptions) -> None:
        self._options = options
        bounds = np.searchsorted(links.plane, np.arange(links.start, links.stop + 1))
        self._numbers = Numbers(links.start, bounds, links.label, new.astype(np.int32))
        self.objects = _objects(links, new, options)

    def apply(self, index: int, plane: Labels) -> NDArray[np.int32]:
        """Return the objects on a plane, (H, W) int32.

        Parameters
        ----------
        index : int
            Number of the plane.
        plane : (H, W) integer array
            The labels as they were given to the :class:`Linker`.

        Raises
        ------
        InputError
            If there is no such plane, or it has labels that it did not have then.
        """
        return self._numbers.apply(index, plane, self._options)

    def numbers(self, start: int, stop: int) -> Numbers:
        """Return what another process needs to do some of the planes."""
        return self._numbers.part(start, stop)


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """The objects of the sections of some planes; small enough to be sent between processes.

    Attributes
    ----------
    start : int
        The first plane.
    bounds : (planes + 1,) int64
        Where each plane's sections begin.
    label : (N,) int64
        Their labels, ascending on each plane.
    new : (N,) int32
        Their objects.
    """

    start: int
    bounds: Ids
    label: Ids
    new: NDArray[np.int32]

    def apply(self, index: int, plane: Labels, options: LinkOptions) -> NDArray[np.int32]:
        """Return the objects on a plane, as :meth:`Relabelling.apply`."""
        at = index - self.start
        if not 0 <= at < len(self.bounds) - 1:
            raise InputError(f"Plane {index} was not linked: planes go from {self.start}.")
        own = slice(self.bounds[at], self.bounds[at + 1])
        return renamed(tidied(plane, options), self.label[own], self.new[own])

    def part(self, start: int, stop: int) -> Numbers:
        """Those of some of the planes."""
        bounds = self.bounds[start - self.start : stop - self.start + 1]
        own = slice(bounds[0], bounds[-1])
        return Numbers(start, bounds - bounds[0], self.label[own], self.new[own])


def renamed(pixels: Labels, known: Ids, new: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give pixels of the labels `known`, ascending, the labels `new`.

    Raises
    ------
    InputError
        If there is a label that is not known.
    """
    pixels = pixels.astype(np.int64, copy=False)
    table = np.concatenate([[0], new]).astype(np.int32)
    labels = np.concatenate([[0], known])
    at = np.searchsorted(labels, pixels).clip(max=len(labels) - 1)
    strange = labels[at] != pixels
    if strange.any():
        raise InputError(f"Label {pixels[strange][0]} was not there when the planes were linked: link them again.")
    result: NDArray[np.int32] = table[at]
    return result


def solve(links: Links, options: LinkOptions | None = None) -> Relabelling:
    """Decide on the objects.

    Possible links form chains; a chain without a sure link falls apart into its sections. What then is connected is an
    object. Objects are numbered by their first voxel, or keep numbers with `preserve`: an object wants the number that
    most of its pixels had, the lowest one among equals; if several want the same, that with the most such pixels gets
    it, the first one among equals, and the others get new numbers above all that were used.

    Parameters
    ----------
    links : Links
        Of all planes.
    options : LinkOptions, optional

    Raises
    ------
    InputError
        If a number is above 2^31 − 1.
    """
    options = options or LinkOptions()
    count = len(links.plane)
    chain = connected(count, links.above, links.below)
    is_sure = np.zeros(count, bool)
    is_sure[chain[links.above[links.iou >= options.high]]] = True
    holds = is_sure[chain[links.above]]
    which = connected(count, links.above[holds], links.below[holds])
    which = _without_small(links, which, options)
    new = _preserved(links, which) if options.preserve else which
    if new.max(initial=0) > _MOST:
        raise InputError(f"Labels go up to {_MOST}; got {new.max()}: link without keeping numbers.")
    return Relabelling(links, new, options)


def connected(count: int, above: Ids, below: Ids) -> Ids:
    """Number of the connected component of each of `count` nodes, from 0, by the first node in each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(above), bool), (above, below)), shape=(count, count))
    _, which = connected_components(graph, directed=False)
    return ranked(which, np.arange(count))


def ranked(which: Ids, order: Ids) -> Ids:
    """Number groups anew, from 0, in the order of their smallest `order`."""
    if not len(which):
        return np.zeros(0, np.int64)
    least = np.full(int(which.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, which, order)
    rank = np.empty(len(least), np.int64)
    rank[np.argsort(least, kind="stable")] = np.arange(len(least))
    result: Ids = rank[which]
    return result


def _without_small(links: Links, which: Ids, options: LinkOptions) -> Ids:
    """Number from 1 the objects that are large enough, by their first voxel; the others are 0."""
    if not len(which):
        return which
    voxels = np.bincount(which, links.area)
    planes = _planes_of_each(links.plane, which)
    large = (planes >= options.min_planes) & (voxels * options.voxel >= options.min_volume)
    kept = np.flatnonzero(large[which])
    place = np.empty(len(which), np.int64)
    place[np.lexsort((links.first, links.plane))] = np.arange(len(which))
    result = np.zeros(len(which), np.int64)
    result[kept] = ranked(np.unique(which[kept], return_inverse=True)[1], place[kept]) + 1
    return result


def _planes_of_each(plane: Ids, which: Ids) -> Ids:
    """Number of different planes of each group."""
    pairs = np.unique(np.stack([which, plane], 1), axis=0)
    return np.bincount(pairs[:, 0], minlength=int(which.max()) + 1)


def _preserved(links: Links, which: Ids) -> Ids:
    kept = which > 0
    pairs, index = np.unique(np.stack([which[kept], links.label[kept]], 1), axis=0, return_inverse=True)
    votes = np.zeros(len(pairs), np.int64)
    np.add.at(votes, index.ravel(), links.area[kept])
    names = np.zeros(int(which.max(initial=0)) + 1, np.int64)
    # First what each object wants most, then who gets it.
    wants = _first_of(pairs[:, 0], np.lexsort((pairs[:, 1], -votes, pairs[:, 0])))
    gets = wants[_first_of(pairs[wants, 1], np.lexsort((pairs[wants, 0], -votes[wants], pairs[wants, 1])))]
    names[pairs[gets, 0]] = pairs[gets, 1]
    unnamed = np.flatnonzero(names[1:] == 0) + 1
    names[unnamed] = int(links.label.max(initial=0)) + 1 + np.arange(len(unnamed))
    result: Ids = names[which]
    return result


def _first_of(groups: Ids, order: Ids) -> Ids:
    """The first index of each group in `order`, which lists groups one after the other."""
    ordered = groups[order]
    result: Ids = order[np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))] if len(order) else order
    return result


def _objects(links: Links, new: Ids, options: LinkOptions) -> Sequence[LinkedObject]:
    kept = new > 0
    labels, which = np.unique(new[kept], return_inverse=True)
    if not len(labels):
        return []
    plane = links.plane[kept]
    voxels = np.zeros(len(labels), np.int64)
    np.add.at(voxels, which, links.area[kept])
    first = np.full(len(labels), links.stop)
    last = np.zeros(len(labels), np.int64)
    np.minimum.at(first, which, plane)
    np.maximum.at(last, which, plane)
    columns = (labels, first, last, _planes_of_each(plane, which), voxels)
    return [
        LinkedObject(label, begin, end, planes, size, size * options.voxel)
        for label, begin, end, planes, size in zip(*(column.tolist() for column in columns), strict=True)
    ]
