"""Linear resampling as matrices: from a network's low-resolution answer to the picture, only where the object is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.segmenter import Patch

Matrix = NDArray[np.float32]
MakeMatrix = Callable[[int, int, int], tuple[int, Matrix]]
"""From an axis (0 rows, 1 columns) and its first and past-the-last pixel: the first cell used, and (pixels, cells)."""


def bilinear(length: int, cells: int, first: int, last: int) -> tuple[int, Matrix]:
    """Interpolation of one axis as torch does it without aligned corners.

    Parameters
    ----------
    length : int
        Pixels of the whole axis.
    cells : int
        Cells that they are made from.
    first, last : int
        Pixels wanted; `last` is excluded.

    Returns
    -------
    start : int
        First cell that is used.
    matrix : (last - first, used cells) float32
    """
    source = np.maximum((np.arange(first, last) + 0.5) * (cells / length) - 0.5, 0)
    left = np.minimum(source.astype(np.int64), cells - 1)
    right = np.minimum(left + 1, cells - 1)
    weight = (source - left).astype(np.float32)
    start = int(left[0])
    matrix = np.zeros((last - first, int(right[-1]) - start + 1), np.float32)
    index = np.arange(last - first)
    np.add.at(matrix, (index, left - start), 1 - weight)
    np.add.at(matrix, (index, right - start), weight)
    return start, matrix


def bilinear_twice(length: int, middle: int, side: int, cells: int, first: int, last: int) -> tuple[int, Matrix]:
    """Two interpolations in a row: `cells` to `side`, of which the first `middle` are brought to `length`."""
    fine_start, fine = bilinear(length, middle, first, last)
    start, coarse = bilinear(side, cells, fine_start, fine_start + fine.shape[1])
    return start, fine @ coarse


def thresholded(
    values: NDArray[np.float32],
    threshold: float,
    shape: tuple[int, int],
    matrix: MakeMatrix,
    within: tuple[slice, slice] | None = None,
) -> Patch:
    """Bring low-resolution values to the picture's pixels and threshold them, inside the object's bounding box.

    Parameters
    ----------
    values : (h, w) float32
        The cells that lie on the picture.
    threshold : float
        The object is where the interpolated value is above it.
    shape : tuple of int
        (H, W) of the picture.
    matrix : callable
        Interpolation of one axis.
    within : tuple of slice, optional
        Rows and columns of the picture in which the object is looked for; left out, all of them.
    """
    above = values > threshold
    limits = within if within is not None else (slice(0, shape[0]), slice(0, shape[1]))
    spans = [
        _reach(np.flatnonzero(above.any(1 - axis)), shape[axis] / values.shape[axis], limits[axis]) for axis in (0, 1)
    ]
    if spans[0] is None or spans[1] is None:
        return _empty()
    row, rows = matrix(0, *spans[0])
    column, columns = matrix(1, *spans[1])
    window = values[row : row + rows.shape[1], column : column + columns.shape[1]]
    return _trimmed((rows @ window @ columns.T) > threshold, spans[0][0], spans[1][0])


def _reach(cells: NDArray[np.intp], pixels: float, limits: slice) -> tuple[int, int] | None:
    """First and past-the-last pixel that the filled cells can reach within `limits`."""
    if not len(cells):
        return None
    # two cells of margin: each of two interpolations in a row reaches one neighbour
    first = max(limits.start, int((cells[0] - 2) * pixels))
    last = min(limits.stop, int((cells[-1] + 3) * pixels) + 1)
    return (first, last) if first < last else None


def _empty() -> Patch:
    return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)


def _trimmed(mask: NDArray[np.bool_], first_row: int, first_column: int) -> Patch:
    """Cut the empty margin off."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return _empty()
    return (
        slice(first_row + int(rows[0]), first_row + int(rows[-1]) + 1),
        slice(first_column + int(columns[0]), first_column + int(columns[-1]) + 1),
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1],
    )


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits to probabilities, of any shape."""
    from scipy.special import expit

    probabilities: NDArray[np.float32] = expit(logits)
    return probabilities


def area(picture: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize as OpenCV's ``INTER_AREA`` does: average the area under each pixel; enlarge by mixing two neighbours.

    Parameters
    ----------
    picture : (H, W) or (H, W, 3) uint8
    shape : tuple of int
        (rows, columns) wanted: both at most the picture's, or both at least.

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8
    """
    if shape[0] > picture.shape[0] or shape[1] > picture.shape[1]:
        return _enlarged(picture, shape)
    resized: NDArray[np.float32] = picture.astype(np.float32)
    for axis, length in enumerate(shape):
        matrix = _area_matrix(length, picture.shape[axis])
        resized = np.moveaxis(np.tensordot(matrix, resized, (1, axis)), 0, axis)
    if picture.shape[:2] == (2 * shape[0], 2 * shape[1]):
        resized = np.floor(resized + 0.5)  # OpenCV halves in integers, and rounds halves up there
    whole: NDArray[np.uint8] = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    return whole


def _enlarged(picture: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Mix the two pixels that each new one lies on, by the area of it on each, in OpenCV's integers."""
    columns, right = _shares(shape[1], picture.shape[1])
    rows, below = _shares(shape[0], picture.shape[0])
    values = np.moveaxis(picture.astype(np.int64), 1, -1)
    across = np.moveaxis(values[..., columns[0]] * (_WHOLE - right) + values[..., columns[1]] * right, -1, 1)
    down = below.reshape(-1, *[1] * (picture.ndim - 1))
    upper, lower = (across[index] >> 4 for index in rows)
    mixed: NDArray[np.uint8] = ((((upper * (_WHOLE - down)) >> 16) + ((lower * down) >> 16) + 2) >> 2).astype(np.uint8)
    return mixed


_WHOLE = 2048
"""What a weight of 1 is in OpenCV's integers."""


def _shares(length: int, cells: int) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]:
    """For each of `length` new pixels: the cell that it begins on, the next one, and its share on that one."""
    factor = length / cells
    new = np.arange(length)
    first = np.minimum(np.floor(new * (1 / factor)).astype(np.int64), cells - 1)
    share = np.maximum(new + 1 - (first + 1) * factor, 0.0)
    share = np.where(first < cells - 1, share - np.floor(share), 0.0)
    return (first, np.minimum(first + 1, cells - 1)), np.rint(share * _WHOLE).astype(np.int64)


def _area_matrix(length: int, cells: int) -> Matrix:
    edges = np.arange(length + 1) * (cells / length)
    lower = np.maximum(edges[:-1, None], np.arange(cells)[None])
    upper = np.minimum(edges[1:, None], np.arange(1, cells + 1)[None])
    overlap = np.clip(upper - lower, 0, None) * (length / cells)
    matrix: Matrix = overlap.astype(np.float32)
    return matrix
