"""How long the objects of a class are, and which band is too long to be one.

A network that looks through windows cannot see that a band goes on from one window to the next: to it a myelin sheath
is a long mitochondrion, window by window. So a region that is out of all proportion to those that were labelled is
taken back, if it holds a long object; a region of many objects that touch holds none. Both are told by the modified
z-score of the logarithm of the length (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993, who recommend
3.5 as the limit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops_table

from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.split import Region

_OUTLIER = 3.5
"""Modified z-score above which the length of a region is an outlier."""

_LONG = 2.0
"""Modified z-score above which an object inside that region is long: one of fifty is, of those that were labelled."""

_OF_NORMAL = 0.6745
"""Median absolute deviation of a normal distribution whose standard deviation is 1."""

_LEAST_SPREAD = 0.5
"""Least standard deviation of the logarithm: examples that are alike do not say that all others are."""

_FEWEST = 10
"""Regions from which a limit is drawn."""

_THROUGH = 0.05
"""Part of the regions that may run from one side of the plane to another; of more nobody knows how long they are."""

_PLANES = 64
"""Planes at most whose regions are measured, evenly taken."""

_UNLIKELY = 0.2
"""Times the probability that remains of a region that is too long."""


@dataclass(frozen=True)
class Proportions:
    """Lengths in pixels above which a region is an outlier, and an object long; infinite where nothing is known."""

    longest: float = math.inf
    long: float = math.inf


def lengths_of(numbers: NDArray[np.int32]) -> NDArray[np.float64]:
    """Lengths of numbered parts (H, W), by number from 0; 0 where there is none.

    The length is that of the major axis of the ellipse with the same second moments, in pixels.
    """
    lengths = np.zeros(int(numbers.max()) + 1)
    if numbers.any():
        table = regionprops_table(numbers, properties=("label", "axis_major_length"))
        lengths[table["label"]] = table["axis_major_length"]
    return lengths


def proportions_of(lengths: NDArray[np.float64]) -> Proportions:
    """What (N,) `lengths` of labelled regions say of others."""
    if len(lengths) < _FEWEST:
        return Proportions()
    logarithms = np.log(lengths)
    middle = float(np.median(logarithms))
    spread = max(float(np.median(np.abs(logarithms - middle))) / _OF_NORMAL, _LEAST_SPREAD)
    return Proportions(math.exp(middle + _OUTLIER * spread), math.exp(middle + _LONG * spread))


def proportions_in(
    data: TrainingData, planes: Sequence[int], min_pixels: int, held: Sequence[Region] = ()
) -> Proportions:
    """The same of labelled regions of at least `min_pixels` on some planes, without the parts that are `held`."""
    found, through = [], 0
    for plane in planes[:: max(1, math.ceil(len(planes) / _PLANES))]:
        foreground = data.read(plane)[1] > 0
        for _, r0, c0, r1, c1 in (region for region in held if region[0] == plane):
            foreground[r0:r1, c0:c1] = False
        numbers, count = ndimage.label(foreground, output=np.int32)
        kept = np.bincount(numbers.ravel(), minlength=count + 1) >= min_pixels
        lengths = lengths_of(numbers)
        found.append(lengths[1:][kept[1:] & (lengths[1:] > 0)])
        through += int(kept[_on_two_sides(numbers)].sum())
    together = np.concatenate(found) if found else np.zeros(0)
    return Proportions() if through > _THROUGH * len(together) else proportions_of(together)


def without_bands(
    probability: NDArray[np.float32], instances: NDArray[np.int32], known: Proportions
) -> NDArray[np.float32]:
    """The (H, W) probability of a class, where regions above one half that are bands have become unlikely.

    Parameters
    ----------
    probability : (H, W) float32
    instances : (H, W) int32
        The objects that were made of it.
    known : Proportions
    """
    if math.isinf(known.longest):
        return probability
    numbers, _ = ndimage.label(probability > 0.5, output=np.int32)
    with_long = np.zeros(int(numbers.max()) + 1, bool)
    with_long[numbers[(lengths_of(instances) > known.long)[instances]]] = True
    bands = with_long & (lengths_of(numbers) > known.longest)
    bands[0] = False
    return np.where(bands[numbers], _UNLIKELY * probability, probability).astype(np.float32)


def _on_two_sides(numbers: NDArray[np.int32]) -> NDArray[np.intp]:
    """Numbers of the regions that touch more than one side of their plane."""
    sides = (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1])
    touching = np.concatenate([np.unique(side[side > 0]) for side in sides])
    found, times = np.unique(touching, return_counts=True)
    return found[times > 1].astype(np.intp)
