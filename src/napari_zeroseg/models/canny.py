"""Canny's edge detector on 8-bit colour pictures, as PA-SAM's guiding branch needs it.

Canny, "A Computational Approach to Edge Detection", PAMI 1986: Sobel gradients (aperture 3, L1 norm, the channel with
the largest gradient), non-maximum suppression in four directions, hysteresis. Directions are told apart in integers
(tan 22.5 degrees as 13573 / 2^15), so that edges agree pixel for pixel with OpenCV's, on which PA-SAM was trained.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_TAN_22 = 13573
_SHIFT = 15


def canny(picture: NDArray[np.uint8], low: int, high: int) -> NDArray[np.bool_]:
    """Find edges.

    Parameters
    ----------
    picture : (H, W, C) uint8 array
    low, high : int
        Thresholds of the L1 gradient: edges above `high`, and those above `low` that touch one.

    Returns
    -------
    (H, W) bool array
    """
    magnitude, across, down = _gradient(picture)
    ridge = _ridges(magnitude, across, down)
    weak = ridge & (magnitude > low)
    strong = ridge & (magnitude > high)
    pieces, count = ndimage.label(weak, np.ones((3, 3), int))
    touched = np.zeros(count + 1, bool)
    touched[np.unique(pieces[strong])] = True
    touched[0] = False
    edges: NDArray[np.bool_] = touched[pieces]
    return edges


def _gradient(picture: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """L1 magnitude and both derivatives, (H, W) each, of the channel that changes most; the first of equals."""
    values = picture.astype(np.int32)
    smooth, slope = (1, 2, 1), (-1, 0, 1)

    def derivative(row_weights: tuple[int, ...], column_weights: tuple[int, ...]) -> NDArray[np.int32]:
        rows = ndimage.correlate1d(values, row_weights, axis=0, mode="nearest")
        both: NDArray[np.int32] = ndimage.correlate1d(rows, column_weights, axis=1, mode="nearest")
        return both

    across, down = derivative(smooth, slope), derivative(slope, smooth)
    magnitude = np.abs(across) + np.abs(down)
    channel = magnitude.argmax(-1)[..., None]
    picked = [np.take_along_axis(part, channel, -1)[..., 0] for part in (magnitude, across, down)]
    return picked[0], picked[1], picked[2]


def _ridges(magnitude: NDArray[np.int32], across: NDArray[np.int32], down: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where the magnitude is the largest along the direction of the gradient; beyond the border it is 0."""
    around = np.pad(magnitude, 1)
    height, width = magnitude.shape

    def neighbour(row: int, column: int) -> NDArray[np.int32]:
        return around[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    steep = np.abs(across).astype(np.int64) * _TAN_22
    rise = np.abs(down).astype(np.int64) << _SHIFT
    horizontal = rise < steep
    # tan 67.5 degrees = tan 22.5 degrees + 2
    vertical = rise > steep + (np.abs(across).astype(np.int64) << (_SHIFT + 1))
    falling = (across ^ down) < 0
    before = np.where(falling, neighbour(-1, 1), neighbour(-1, -1))
    after = np.where(falling, neighbour(1, -1), neighbour(1, 1))
    # of two equal neighbours the one that comes first in reading order wins, except on diagonals
    along_row = (magnitude > neighbour(0, -1)) & (magnitude >= neighbour(0, 1))
    along_column = (magnitude > neighbour(-1, 0)) & (magnitude >= neighbour(1, 0))
    diagonal = (magnitude > before) & (magnitude > after)
    ridge: NDArray[np.bool_] = np.where(horizontal, along_row, np.where(vertical, along_column, diagonal))
    return ridge
