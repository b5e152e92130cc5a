"""Arithmetic of patches: masks that know where on their plane they lie, without the empty rest of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_zeroseg.segmenter import Patch

Extent = tuple[int, int, int, int]
"""Bounding box (row0, column0, row1, column1) in pixels, last ones included."""

EMPTY: Patch = (slice(0, 0), slice(0, 0), np.zeros((0, 0), bool))


def trimmed(rows: slice, columns: slice, mask: NDArray[np.bool_]) -> Patch:
    """The patch without empty margins; :data:`EMPTY` if nothing is left."""
    r, c = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(r):
        return EMPTY
    return (
        slice(rows.start + int(r[0]), rows.start + int(r[-1]) + 1),
        slice(columns.start + int(c[0]), columns.start + int(c[-1]) + 1),
        mask[r[0] : r[-1] + 1, c[0] : c[-1] + 1],
    )


def area(patch: Patch) -> int:
    """Pixels of the object."""
    return int(np.count_nonzero(patch[2]))


def extent(patch: Patch) -> Extent:
    """Bounding box of a patch that is not empty."""
    rows, columns, _ = patch
    return rows.start, columns.start, rows.stop - 1, columns.stop - 1


def crop(patch: Patch, rows: slice, columns: slice) -> NDArray[np.bool_]:
    """The patch in another frame of its plane, (h, w) bool; what lies outside is cut."""
    cut = np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
    r0, r1 = max(rows.start, patch[0].start), min(rows.stop, patch[0].stop)
    c0, c1 = max(columns.start, patch[1].start), min(columns.stop, patch[1].stop)
    if r0 < r1 and c0 < c1:
        cut[r0 - rows.start : r1 - rows.start, c0 - columns.start : c1 - columns.start] = patch[2][
            r0 - patch[0].start : r1 - patch[0].start, c0 - patch[1].start : c1 - patch[1].start
        ]
    return cut


def common(a: Patch, b: Patch) -> int:
    """Pixels that both have."""
    small, large = (a, b) if a[2].size <= b[2].size else (b, a)
    return int(np.count_nonzero(small[2] & crop(large, small[0], small[1])))


def iou(a: Patch, b: Patch) -> float:
    """Intersection over union; two empty patches agree fully."""
    both = common(a, b)
    union = area(a) + area(b) - both
    return 1.0 if union == 0 else both / union


def moved(patch: Patch, shift: tuple[float, float], shape: tuple[int, int]) -> Patch:
    """The patch moved by whole pixels nearest to `shift` (rows, columns); what leaves the plane is cut."""
    dr, dc = round(shift[0]), round(shift[1])
    r0, r1 = patch[0].start + dr, patch[0].stop + dr
    c0, c1 = patch[1].start + dc, patch[1].stop + dc
    rows, columns = slice(max(r0, 0), min(r1, shape[0])), slice(max(c0, 0), min(c1, shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return EMPTY
    mask = patch[2][rows.start - r0 : rows.stop - r0, columns.start - c0 : columns.stop - c0]
    return trimmed(rows, columns, mask)


def without(patch: Patch, taken: NDArray[np.bool_]) -> Patch:
    """The patch without the pixels of `taken`, (H, W) of the plane."""
    rows, columns, mask = patch
    return trimmed(rows, columns, mask & ~taken[rows, columns]) if mask.size else patch


def centroid(patch: Patch) -> tuple[float, float]:
    """(row, column) of the mean of the pixels of a patch that is not empty."""
    r, c = np.nonzero(patch[2])
    return float(r.mean()) + patch[0].start, float(c.mean()) + patch[1].start


def depth(patch: Patch, margin: int = 1) -> NDArray[np.float64]:
    """Distance of each pixel of the object to the background, in pixels, in the patch's frame grown by `margin`."""
    found: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(patch[2], margin))
    return found


def blended(a: Patch, b: Patch, share: float) -> Patch:
    """A shape between two: where the mean of both signed distances is positive.

    Parameters
    ----------
    a, b : Patch
        Not empty.
    share : float
        Weight of `b`, 0 to 1.
    """
    rows = slice(min(a[0].start, b[0].start) - 1, max(a[0].stop, b[0].stop) + 1)
    columns = slice(min(a[1].start, b[1].start) - 1, max(a[1].stop, b[1].stop) + 1)
    signed = [_signed(crop(one, rows, columns)) for one in (a, b)]
    return trimmed(rows, columns, (1 - share) * signed[0] + share * signed[1] > 0)


def _signed(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    inside: NDArray[np.float64] = ndimage.distance_transform_edt(mask)
    outside: NDArray[np.float64] = ndimage.distance_transform_edt(~mask)
    return inside - outside


def of_labels(labels: NDArray[np.integer]) -> dict[int, Patch]:
    """Objects of a plane (H, W) of labels by their number; 0 is background."""
    present, compact = np.unique(labels, return_inverse=True)
    places = ndimage.find_objects(compact.reshape(labels.shape) + 1)
    return {
        int(label): (rows, columns, labels[rows, columns] == label)
        for label, (rows, columns) in zip(present, places, strict=True)
        if label > 0
    }


@dataclass(frozen=True)
class Packed:
    """A patch in an eighth of its memory."""

    corner: tuple[int, int]
    shape: tuple[int, int]
    bits: bytes

    @classmethod
    def of(cls, patch: Patch) -> Packed:
        """Pack `patch`."""
        mask = np.ascontiguousarray(patch[2])
        return cls((patch[0].start, patch[1].start), (mask.shape[0], mask.shape[1]), np.packbits(mask).tobytes())

    @property
    def patch(self) -> Patch:
        """The patch again."""
        count = self.shape[0] * self.shape[1]
        mask = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count).astype(bool).reshape(self.shape)
        (r, c), (height, width) = self.corner, self.shape
        return slice(r, r + height), slice(c, c + width), mask
