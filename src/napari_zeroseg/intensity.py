"""Pixel values as a model wants them: uint8, through the contrast limits of the screen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, InputTypeError

_PERCENTILES = (0.1, 99.9)
_BLOCK_PIXELS = 1 << 20  # bounds the float64 copies of a large plane to 8 MiB each


def to_uint8(plane: NDArray[Any], limits: tuple[float, float] | None = None, gamma: float = 1.0) -> NDArray[np.uint8]:
    """Map a plane to 0..255 as the screen does: `limits` become black and white.

    Parameters
    ----------
    plane : (H, W) or (H, W, 3) ndarray
        Integers or floats, in any byte order.
    limits : tuple of float, optional
        (black, white) in pixel values; what lies outside is clipped. Left out, uint8 keeps its full range and
        everything else gets :func:`percentile_limits`.
    gamma : float
        Exponent of the brightness between the limits; 1 is linear.

    Returns
    -------
    (H, W) or (H, W, 3) ndarray of uint8
        NaN becomes black, infinities are clipped. A uint8 plane at its full range and gamma 1 is returned as it is.

    Raises
    ------
    InputError
        If the limits are not two finite rising numbers, or gamma is not positive.
    InputTypeError
        If pixels are not integers or floats.
    """
    if plane.dtype.kind not in "iuf":
        raise InputTypeError(f"A picture must hold numbers, integers or floats, not {plane.dtype}.")
    if not (math.isfinite(gamma) and gamma > 0):
        raise InputError(f"Gamma must be a positive number; got {gamma}.")
    if plane.dtype == np.uint8 and limits is None:
        limits = (0.0, 255.0)
    if limits is None:
        limits = percentile_limits(plane)
        if limits[0] == limits[1]:
            return np.zeros(plane.shape, np.uint8)
    low, high = (float(limit) for limit in limits)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"Contrast limits are two finite numbers, black below white; got {low:g} and {high:g}.")
    if plane.dtype == np.uint8 and (low, high) == (0.0, 255.0) and gamma == 1:
        return plane
    return _through_table(plane, low, high, gamma) if _is_short(plane.dtype) else _by_blocks(plane, low, high, gamma)


def percentile_limits(plane: NDArray[Any]) -> tuple[float, float]:
    """Return the 0.1 and 99.9 percentiles of the finite pixels, or their minimum and maximum where those coincide.

    Parameters
    ----------
    plane : ndarray
        Integers or floats of any shape.

    Returns
    -------
    tuple of float
        (low, high); both 0 where there is no finite pixel.
    """
    values = plane.ravel()
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    low, high = _percentiles_by_count(values) if _is_short(values.dtype) else _percentiles_by_parting(values)
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def _is_short(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" and dtype.itemsize <= 2


def _percentiles_by_count(values: NDArray[Any]) -> tuple[float, float]:
    """Exact percentiles of 8- and 16-bit integers by counting, many times faster than sorting."""
    first = int(np.iinfo(values.dtype).min)
    shifted = values.astype(np.int32) - first if first else values.astype(values.dtype.newbyteorder("="), copy=False)
    up_to = np.cumsum(np.bincount(shifted))
    found = []
    for percent in _PERCENTILES:
        rank = (values.size - 1) * percent / 100
        below, above = np.searchsorted(up_to, (math.floor(rank), math.ceil(rank)), side="right")
        found.append(first + float(below) + (rank - math.floor(rank)) * float(above - below))
    return found[0], found[1]


def _percentiles_by_parting(values: NDArray[Any]) -> tuple[float, float]:
    """Exact percentiles of longer types; only the four values that they lie between are put in their places."""
    ranks = [(values.size - 1) * percent / 100 for percent in _PERCENTILES]
    places = [place for rank in ranks for place in (math.floor(rank), math.ceil(rank))]
    parted = np.partition(values, sorted(set(places)))
    found = []
    for rank in ranks:
        below, above = float(parted[math.floor(rank)]), float(parted[math.ceil(rank)])
        share = rank - math.floor(rank)
        found.append((1 - share) * below + share * above)
    return found[0], found[1]


def _through_table(plane: NDArray[Any], low: float, high: float, gamma: float) -> NDArray[np.uint8]:
    info = np.iinfo(plane.dtype)
    table = _scaled(np.arange(info.min, info.max + 1, dtype=np.float64), low, high, gamma)
    # Negative values count from the end of the table when the start is rolled to 0.
    looked_up: NDArray[np.uint8] = np.roll(table, int(info.min))[plane]
    return looked_up


def _by_blocks(plane: NDArray[Any], low: float, high: float, gamma: float) -> NDArray[np.uint8]:
    result = np.empty(plane.shape, np.uint8)
    step = max(1, _BLOCK_PIXELS // max(1, math.prod(plane.shape[1:])))
    for start in range(0, len(plane), step):
        block = plane[start : start + step].astype(np.float64)
        result[start : start + step] = _scaled(block, low, high, gamma)
    return result


def _scaled(values: NDArray[np.float64], low: float, high: float, gamma: float) -> NDArray[np.uint8]:
    np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
    np.clip(values, low, high, out=values)
    # Halves keep the difference of huge limits finite.
    values /= 2
    values -= low / 2
    values /= high / 2 - low / 2
    if gamma != 1:
        np.power(values, gamma, out=values)
    return np.rint(values * 255).astype(np.uint8)
