"""Which outlines on neighbouring planes are sections of one object. Imports no torch.

They are alike, so they are no independent evidence: intervals resample whole objects (cluster bootstrap; Field and
Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69, 2007).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_zeroseg.training.data import TrainingData, TrainingObject

_COVERED = 0.5
"""Part of the smaller of two outlines that lies within the other one if they are of one object."""


def sections_of(data: TrainingData, objects: Sequence[TrainingObject]) -> NDArray[np.int64]:
    """Number the objects that outlines are sections of.

    Parameters
    ----------
    data : TrainingData
    objects : sequence of TrainingObject
        Outlines on any planes.

    Returns
    -------
    (N,) int64 array
        The same number for outlines of one label that lie over each other on neighbouring planes of a stack.
    """
    planes: dict[int, list[int]] = {}
    for place, one in enumerate(objects):
        planes.setdefault(one.plane, []).append(place)
    pairs = [
        pair
        for plane in planes
        for other in planes
        if data.planes[plane].number + 1 == data.planes[other].number
        and data.planes[plane].stack == data.planes[other].stack
        for pair in _linked(data, objects, planes[plane], planes[other])
    ]
    first, second = np.array(pairs, int).reshape(-1, 2).T
    links = coo_array((np.ones(len(pairs), bool), (first, second)), shape=(len(objects), len(objects)))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _linked(
    data: TrainingData, objects: Sequence[TrainingObject], ones: Sequence[int], others: Sequence[int]
) -> list[tuple[int, int]]:
    """Places of outlines on two planes that are of one object."""
    below, above = (data.read(objects[places[0]].plane)[1] for places in (ones, others))
    found = []
    for one in ones:
        a = objects[one]
        r0, c0, r1, c1 = a.box
        window = slice(r0, r1 + 1), slice(c0, c1 + 1)
        within = above[window][below[window] == a.number]
        for other in others:
            b = objects[other]
            covered = np.count_nonzero(within == b.number)
            if a.label == b.label and covered >= _COVERED * min(a.pixels, b.pixels):
                found.append((one, other))
    return found
