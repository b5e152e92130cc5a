"""How far two boundaries are apart, in physical units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.metrics import Ids

_PERCENTILE = 95


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances between the boundaries of a predicted and of a true mask.

    Every pixel of one boundary is measured to the nearest pixel of the other one, centre to centre. Two empty
    boundaries have no distance (nan) and agree within every tolerance (1); where only one is empty, distances are
    infinite and nothing agrees (0).

    Attributes
    ----------
    assd : float
        Average symmetric surface distance: the mean over the pixels of both boundaries (Heimann et al. 2009).
    hd95 : float
        The larger one of both 95th percentiles, a Hausdorff distance without its outliers (Huttenlocher et al. 1993).
    nsd : float
        Normalised surface Dice: the share of the pixels of both boundaries that are within the tolerance of the other
        boundary (Nikolov et al. 2018), from 0 to 1.
    """

    assd: float = math.nan
    hd95: float = math.nan
    nsd: float = math.nan


UNKNOWN = Distances()


def distances(
    prediction: Ids, truth: Ids, shape: tuple[int, ...], spacing: tuple[float, ...], tolerance: float
) -> Distances:
    """Measure two boundaries.

    Parameters
    ----------
    prediction, truth : (N,) and (M,) int64
        Pixels of the boundaries as ascending indices of the flattened picture.
    shape : tuple of int
        Of the picture.
    spacing : tuple of float
        Distance of neighbours along each axis.
    tolerance : float
        Distance that still counts as agreement, in the unit of `spacing`.
    """
    if not len(prediction) or not len(truth):
        return Distances(nsd=1.0) if len(prediction) == len(truth) else Distances(math.inf, math.inf, 0.0)
    there = _to_nearest(prediction, truth, shape, spacing)
    back = _to_nearest(truth, prediction, shape, spacing)
    total = len(there) + len(back)
    # Distances are sums of squares and come with rounding: one pixel's width is within a tolerance of one pixel.
    within = tolerance * (1 + 1e-9)
    return Distances(
        assd=float((there.sum() + back.sum()) / total),
        hd95=float(max(np.percentile(there, _PERCENTILE), np.percentile(back, _PERCENTILE))),
        nsd=float((np.count_nonzero(there <= within) + np.count_nonzero(back <= within)) / total),
    )


def _to_nearest(start: Ids, end: Ids, shape: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance of each pixel of `start` to the nearest one of `end`."""
    from scipy.spatial import cKDTree

    # A tree of the boundary's pixels gives what a distance transform gives, without memory for the volume.
    result = np.zeros(len(start))
    apart = np.flatnonzero(~np.isin(start, end, assume_unique=True))
    if len(apart):
        tree = cKDTree(_points(end, shape, spacing), compact_nodes=False, balanced_tree=False)
        result[apart] = tree.query(_points(start[apart], shape, spacing))[0]
    return result


def _points(at: Ids, shape: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    points: NDArray[np.float64] = np.stack(np.unravel_index(at, shape), axis=1) * np.asarray(spacing, float)
    return points


class ByKey:
    """The pixels of a surface by what they belong to, such as (plane, label), found without a search each time."""

    def __init__(self, at: Ids, keys: Ids) -> None:
        order = np.argsort(keys, kind="stable")
        self._at = at[order]
        self._keys = keys[order]

    def __getitem__(self, key: int) -> Ids:
        low, high = np.searchsorted(self._keys, [key, key + 1])
        return self._at[low:high]
