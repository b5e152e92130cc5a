"""How things move from one plane to the next: the plane as a whole, and each place of a window."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from napari_zeroseg.propagation.masks import EMPTY, area, extent, trimmed
from napari_zeroseg.segmenter import Patch
from napari_zeroseg.tiling import Field

Image = NDArray[np.float32]
Shift = tuple[int, int]
"""(rows, columns) in pixels from the plane before to the plane after."""

_LONGEST = 512
"""Side in pixels to which planes are made smaller to be aligned; shifts are then known to a few pixels at least."""

_FLOW_SIDE = 256
"""Side in pixels to which windows are made smaller for optical flow: SAM's answers are no finer."""

_SMOOTHING = 1.0
"""Gaussian in pixels of what is compared: noise differs from plane to plane and says nothing about motion."""

_BREADTH = 2.0
"""Gaussian in pixels of the smaller planes over the peak of phase correlation."""

_GAIN = 0.02
"""Correlation that a shift must add to be believed; less is what noise gives."""

_RADIUS = 5
"""Half the side, in pixels of the smaller window, over which optical flow is one: about a membrane and its sides."""

_WARPS = 6
"""Refinements of the flow on each level of its pyramid."""


class Motion(NamedTuple):
    """Where each place of a window was on the plane before, once that one is aligned as a whole.

    Attributes
    ----------
    field : Field
        Window of the plane after.
    flow : (2, h, w) float32
        Rows and columns to add, in pixels of the plane, on a grid of one value every `factor` pixels.
    factor : int
    """

    field: Field
    flow: Image
    factor: int

    def carried(self, patch: Patch) -> Patch:
        """Where an object of the (aligned) plane before lies on the plane after; empty if it has left the window."""
        if not area(patch):
            return EMPTY
        span = self._span(patch)
        r0, c0, r1, c1 = extent(patch)
        rows = slice(max(self.field.r0, r0 - span), min(self.field.r1, r1 + span + 1))
        columns = slice(max(self.field.c0, c0 - span), min(self.field.c1, c1 + span + 1))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return EMPTY
        grid = np.mgrid[rows, columns].astype(np.float32)
        origin = np.array([self.field.r0, self.field.c0], np.float32)[:, None, None]
        cells = (grid - origin + 0.5) / self.factor - 0.5
        came = [ndimage.map_coordinates(axis, cells, order=1, mode="nearest") for axis in self.flow]
        mask = np.pad(patch[2], 1).astype(np.float32)
        places = [grid[0] + came[0] - (r0 - 1), grid[1] + came[1] - (c0 - 1)]
        return trimmed(rows, columns, ndimage.map_coordinates(mask, places, order=1) > 0.5)

    def _span(self, patch: Patch) -> int:
        """How far the flow around an object reaches, in whole pixels."""
        r0, c0, r1, c1 = extent(patch)
        around = []
        for first, last, start, length in (
            (r0, r1, self.field.r0, self.flow.shape[1]),
            (c0, c1, self.field.c0, self.flow.shape[2]),
        ):
            low = min(max((first - start) // self.factor - _RADIUS, 0), length - 1)
            around.append(slice(low, max((last - start) // self.factor + _RADIUS + 1, low + 1)))
        return int(np.abs(self.flow[:, around[0], around[1]]).max(initial=0.0)) + 2


def plane_shift(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Shift:
    """By how much a picture has moved as a whole; (0, 0) where that explains nothing.

    Phase correlation (Kuglin and Hines, 1975) of the planes made smaller; it is believed only if the planes correlate
    better with it than without.

    Parameters
    ----------
    before, after : (H, W) or (H, W, 3) uint8 array
    """
    factor = max(1, -(-max(before.shape[:2]) // _LONGEST))
    a, b = _smaller(before, factor), _smaller(after, factor)
    if min(a.shape) < 8:
        return 0, 0
    dr, dc = _peak(a, b)
    if _correlation_at(a, b, dr, dc) < _correlation_at(a, b, 0, 0) + _GAIN:
        return 0, 0
    return dr * factor, dc * factor


def motion_in(field: Field, before: NDArray[np.uint8], after: NDArray[np.uint8], shift: Shift) -> Motion:
    """Optical flow inside a window, by iterative Lucas-Kanade (Le Besnerais and Champagnat, 2005).

    Parameters
    ----------
    field : Field
        Window of the plane after.
    before, after : (H, W) or (H, W, 3) uint8 array
        Whole planes.
    shift : tuple of int
        Motion of the plane as a whole, by which the plane before is moved first.
    """
    from skimage.registration import optical_flow_ilk

    factor = max(1, -(-max(field.shape) // _FLOW_SIDE))
    moving = _smaller(_window(before, field, shift), factor)
    fixed = _smaller(after[field.slices], factor)
    flow = np.zeros((2, *fixed.shape), np.float32)
    if min(fixed.shape) > 2 * _RADIUS + 1 and moving.std() > 0 and fixed.std() > 0:
        scale = 255.0  # what the method's own regularisation is made for
        flow = np.asarray(optical_flow_ilk(fixed / scale, moving / scale, radius=_RADIUS, num_warp=_WARPS), np.float32)
    limit = max(field.shape) / 4
    return Motion(field, np.clip(np.nan_to_num(flow) * factor, -limit, limit), factor)


def _peak(before: Image, after: Image) -> Shift:
    """Shift at which the phases of both pictures agree most.

    Sections that follow each other differ in all that is fine, so the peak is broad: it is looked for after smoothing.
    Towards the edges both are faded out, since edges do not move along.
    """
    fade = np.outer(np.hanning(before.shape[0]), np.hanning(before.shape[1]))
    a, b = (fft.rfft2((picture - picture.mean()) * fade) for picture in (before, after))
    cross = b * np.conj(a)
    likeness = fft.irfft2(cross / np.maximum(np.abs(cross), np.finfo(np.float32).tiny), before.shape)
    smooth = ndimage.gaussian_filter(likeness, _BREADTH, mode="wrap")
    place = np.unravel_index(int(smooth.argmax()), smooth.shape)
    dr, dc = (int(at) - length * (int(at) > length // 2) for at, length in zip(place, before.shape, strict=True))
    return dr, dc


def _window(plane: NDArray[np.uint8], field: Field, shift: Shift) -> NDArray[np.uint8]:
    """The window's pixels before the plane moved; beyond the plane its edge goes on."""
    rows = np.clip(np.arange(field.r0, field.r1) - shift[0], 0, plane.shape[0] - 1)
    columns = np.clip(np.arange(field.c0, field.c1) - shift[1], 0, plane.shape[1] - 1)
    return plane[rows[:, None], columns[None, :]]


def _smaller(picture: NDArray[np.uint8], factor: int) -> Image:
    """Grey values, averaged over `factor` x `factor` pixels and smoothed; a rest at the far sides is averaged too."""
    grey = picture.astype(np.float32) if picture.ndim == 2 else picture.mean(2, dtype=np.float32)
    rest = [(0, -length % factor) for length in grey.shape]
    grey = np.pad(grey, rest, mode="edge")
    height, width = grey.shape
    parts = grey.reshape(height // factor, factor, width // factor, factor).mean((1, 3))
    small: Image = ndimage.gaussian_filter(parts, _SMOOTHING)
    return small


def _correlation_at(before: Image, after: Image, dr: int, dc: int) -> float:
    """Pearson's correlation of what overlaps when `before` is moved by (dr, dc); -1 where too little does."""
    height, width = before.shape
    if abs(dr) > height // 2 or abs(dc) > width // 2:
        return -1.0
    a = before[max(0, -dr) : height - max(0, dr), max(0, -dc) : width - max(0, dc)]
    b = after[max(0, dr) : height - max(0, -dr), max(0, dc) : width - max(0, -dc)]
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / scale if scale > 0 else 0.0
