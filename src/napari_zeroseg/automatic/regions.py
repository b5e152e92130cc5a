"""Small holes filled and small separate regions removed, as segment-anything does it on request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.automatic.masks import AutomaticMask
from napari_zeroseg.automatic.overlap import suppress
from napari_zeroseg.segmenter import Patch

_NEIGHBOURS = np.ones((3, 3), bool)


def without_small_regions(masks: Sequence[AutomaticMask], least: int, nms_threshold: float) -> list[AutomaticMask]:
    """Fill holes and remove regions of fewer than `least` pixels; drop masks that have become alike.

    Of those, one that was left as it was is preferred.
    """
    cleaned = [mask_without_small_regions(mask.patch, least) for mask in masks]
    changed = [
        mask.with_patch(patch) if patch is not mask.patch else mask for mask, patch in zip(masks, cleaned, strict=True)
    ]
    unchanged = [patch is mask.patch for mask, patch in zip(masks, cleaned, strict=True)]
    return [changed[i] for i in suppress([mask.box for mask in changed], unchanged, nms_threshold)]


def mask_without_small_regions(patch: Patch, least: int) -> Patch:
    """Fill holes, then remove regions, of fewer than `least` pixels; a mask of small regions keeps the largest.

    Pixels that touch at a corner belong together. What lies outside of the mask's box is never filled.

    Returns
    -------
    Patch
        The one given if nothing is to be done.
    """
    from scipy import ndimage

    rows, columns, mask = patch
    # a margin joins everything that is open to the outside
    regions, sizes = _regions(ndimage, ~np.pad(mask, 1))
    holes = sizes < least
    holes[[0, regions[0, 0]]] = False
    filled = np.pad(mask, 1) | holes[regions]
    regions, sizes = _regions(ndimage, filled)
    stay = sizes >= least
    stay[0] = False
    if not stay.any():
        stay[1 + int(np.argmax(sizes[1:]))] = True
    if not holes.any() and stay[1:].all():
        return patch
    return _trimmed(stay[regions][1:-1, 1:-1], rows.start, columns.start)


def _regions(ndimage: object, mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Numbered regions of a mask, and the pixels of each; 0 is the rest."""
    numbered, count = ndimage.label(mask, _NEIGHBOURS)  # type: ignore[attr-defined]
    return numbered, np.bincount(numbered.ravel(), minlength=count + 1)


def _trimmed(mask: NDArray[np.bool_], row: int, column: int) -> Patch:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    r0, r1, c0, c1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return slice(row + r0, row + r1), slice(column + c0, column + c1), mask[r0:r1, c0:c1]
