"""How long the objects of a class are, and what is too long to be one.

A network that looks through windows cannot see that a band goes on from one window to the next: to it a myelin sheath
is a long mitochondrion, window by window. So a region that is out of all proportion to those that were labelled is
taken back. The rule is that of Iglewicz and Hoaglin ("How to Detect and Handle Outliers", 1993): a modified z-score
above 3.5, here of the logarithm of the length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops_table

from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.split import Region

_Z = 3.5
"""Modified z-score from which a length is an outlier."""

_OF_NORMAL = 0.6745
"""Median absolute deviation of a normal distribution whose standard deviation is 1."""

_LEAST_SPREAD = 0.5
"""Least standard deviation of the logarithm: examples that are alike do not say that all others are."""

_FEWEST = 10
"""Regions from which a limit is drawn."""

_PLANES = 64
"""Planes at most whose regions are measured, evenly taken."""

_UNLIKELY = 0.2
"""Times the probability that remains of a region that is too long."""


def regions_of(foreground: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.int64]]:
    """Connected regions of a (H, W) mask: their numbers (H, W) from 1, and by number from 0 their lengths and areas.

    The length is that of the major axis of the ellipse with the same second moments, in pixels; 0 for the background.
    """
    numbers, count = ndimage.label(foreground, output=np.int32)
    lengths, areas = np.zeros(count + 1), np.zeros(count + 1, np.int64)
    if count:
        table = regionprops_table(numbers, properties=("label", "area", "axis_major_length"))
        lengths[table["label"]], areas[table["label"]] = table["axis_major_length"], table["area"]
    return numbers, lengths, areas


def longest_of(lengths: NDArray[np.float64]) -> float:
    """Length above which a region is an outlier among (N,) `lengths`; infinite where they are too few to tell."""
    if len(lengths) < _FEWEST:
        return math.inf
    logarithms = np.log(lengths)
    middle = float(np.median(logarithms))
    spread = float(np.median(np.abs(logarithms - middle))) / _OF_NORMAL
    return math.exp(middle + _Z * max(spread, _LEAST_SPREAD))


def longest_in(data: TrainingData, planes: Sequence[int], min_pixels: int, held: Sequence[Region] = ()) -> float:
    """The same of labelled regions of at least `min_pixels` on some planes, without the parts that are `held`."""
    found = []
    for plane in planes[:: max(1, math.ceil(len(planes) / _PLANES))]:
        foreground = data.read(plane)[1] > 0
        for _, r0, c0, r1, c1 in (region for region in held if region[0] == plane):
            foreground[r0:r1, c0:c1] = False
        _, lengths, areas = regions_of(foreground)
        found.append(lengths[(areas >= min_pixels) & (lengths > 0)])
    return longest_of(np.concatenate(found)) if found else math.inf


def without_too_long(probability: NDArray[np.float32], longest: float) -> NDArray[np.float32]:
    """The (H, W) probability of a class, where regions above one half that are longer than `longest` are unlikely."""
    if math.isinf(longest):
        return probability
    numbers, lengths, _ = regions_of(probability > 0.5)
    return np.where((lengths > longest)[numbers], _UNLIKELY * probability, probability).astype(np.float32)
