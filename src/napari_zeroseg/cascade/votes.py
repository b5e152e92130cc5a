"""Votes: the outlines of masks for a map of classes that is right in its places and rough in its outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_zeroseg.automatic.masks import AutomaticMask
from napari_zeroseg.errors import InputError
from napari_zeroseg.segmenter import Patch


def vote(masks: Sequence[Patch | AutomaticMask], classes: ArrayLike, majority: float = 0.5) -> NDArray[np.integer]:
    """Give each mask the class of most of its pixels.

    Parameters
    ----------
    masks : sequence of Patch or AutomaticMask
        As :func:`napari_zeroseg.segment_everything` finds them, or any others of the plane, in any order.
    classes : (H, W) array_like of int
        A class for each pixel, 0 for none: of CLIPSeg, of a pixel classifier, of a threshold.
    majority : float
        A mask votes if more than this part of its pixels is of one class, 0 to 1.

    Returns
    -------
    (H, W) integer array
        Of the type of `classes`. Where masks overlap, the smaller one decides; pixels of no mask stay as they are.

    Raises
    ------
    InputError
        If the map is not a plane of whole numbers from 0, a mask lies outside of it, or `majority` is none.
    """
    plane = np.asarray(classes)
    if plane.ndim != 2 or plane.dtype.kind not in "biu" or (plane.size and plane.min() < 0):
        raise InputError(
            f"A map of classes is a plane (H, W) of whole numbers from 0; got {plane.dtype} of shape {plane.shape}."
        )
    if not 0 <= majority < 1:
        raise InputError(f"A majority is a part of a mask's pixels, from 0 to below 1; got {majority!r}.")
    given = plane.astype(np.uint8) if plane.dtype.kind == "b" else plane
    patches = [one.patch if isinstance(one, AutomaticMask) else one for one in masks]
    voted: NDArray[np.integer] = given.copy()
    for rows, columns, mask in sorted(patches, key=lambda patch: -int(np.count_nonzero(patch[2]))):
        if rows.stop > plane.shape[0] or columns.stop > plane.shape[1]:
            raise InputError(
                f"A mask lies outside of the map of classes {plane.shape}: give a map of the masks' own plane."
            )
        values, counts = np.unique(given[rows, columns][mask], return_counts=True)
        if counts.size and counts.max() > majority * counts.sum():
            voted[rows, columns][mask] = values[counts.argmax()]
    return voted
