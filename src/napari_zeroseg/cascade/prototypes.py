"""Prototypes: what the examples of a class look like, and how much like them anything else is.

A class is a direction: the mean of its examples' embeddings, seen from the mean of the whole plane. Embeddings of one
plane are much alike, so that without taking that mean away everything resembles everything: on the training planes of
benchmarks/find_the_rest.py the average precision of cells is then 0.24 instead of 0.56. Boundaries that are fitted to
the cells of a few examples, by linear discriminants or logistic regression, were worse there (0.30 to 0.48): what is
not marked yet is among what they are told is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from napari_zeroseg.cascade.features import Cells, Descriptor, Surroundings

_PER_PROTOTYPE, _MOST = 6, 4
"""Examples from which a class has one more prototype, and the most it has: with fewer they follow single examples."""

_ROUNDS = 12

_LEAST_TONE = 0.25
"""Least width of brightness and texture, in standard deviations over the plane: a few examples vary too little."""

_LEAST_AREA = 0.7
"""Least width of a class's log area: objects of twice or half the size are to be expected."""

_FARTHEST = 16.0
"""Squared deviation beyond which nothing gets worse: one odd property must not outweigh all others."""

_MAP_TONE, _MAP_FARTHEST = 0.05, 8.0
"""Weight of brightness and texture beside similarity in the map of a plane, and where it ends."""


@dataclass(frozen=True)
class Weights:
    """What counts how much for certainty, in the logit of a probability.

    Fitted by logistic regression to candidate masks of two planes (the set "train" of benchmarks/find_the_rest.py),
    where three clicked objects were the examples, and rounded.
    """

    contrast: float = 1.15
    likeness: float = 0.7
    brightness: float = 0.17
    texture: float = 0.1
    area: float = 0.13
    predicted_iou: float = 2.65
    stability: float = 1.2
    bias: float = -1.8
    rejected: float = 4.0


WEIGHTS = Weights()


@dataclass(frozen=True, eq=False)
class Prototypes:
    """What one class looks like.

    Attributes
    ----------
    label : int
        The class.
    centre : (C,) float32 array
        Mean embedding of the examples' planes.
    directions : (K, C) float32 array
        The class seen from there, of length 1.
    likeness, contrast : float
        How far the examples lie along that direction from the centre, and from their surroundings.
    threshold : float
        Score of the map below which few cells of the examples lie.
    tone, tone_width : (3 * channels,) float32 array
        As in :class:`Descriptor`.
    log_area, area_width : float
    background : (B, C) float32 array
        Directions of what was rejected, of length 1.
    """

    label: int
    centre: NDArray[np.float32]
    directions: NDArray[np.float32]
    likeness: float
    contrast: float
    threshold: float
    tone: NDArray[np.float32]
    tone_width: NDArray[np.float32]
    log_area: float
    area_width: float
    background: NDArray[np.float32]

    def map(self, cells: Cells, tones: NDArray[np.float32]) -> Cells:
        """Score cells of a plane.

        Parameters
        ----------
        cells : (..., C) float32 array
            Embeddings of length 1.
        tones : (..., 2 * channels) float32 array
            Brightness and texture.

        Returns
        -------
        (...) float32 array
            Cosine similarity with the class, less what brightness and texture speak against it.
        """
        seen = unit(cells - self.centre)
        similar = (seen @ self.directions.T).max(-1)
        if len(self.background):
            similar = similar - np.maximum((seen @ self.background.T).max(-1) - similar, 0)
        count = tones.shape[-1]
        away = (((tones - self.tone[:count]) / self.tone_width[:count]) ** 2).sum(-1) * (2 / count)
        score: Cells = similar - _MAP_TONE * np.minimum(away, _MAP_FARTHEST)
        return score

    def certainty(
        self,
        objects: Sequence[Descriptor],
        scores: NDArray[np.float32],
        weights: Weights = WEIGHTS,
        given: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Say how certain it is that each of N objects is of the class.

        Parameters
        ----------
        objects : sequence of Descriptor
        scores : (N, 2) float32 array
            IoU that the model predicts, and stability of the mask.
        weights : Weights
        given : (N,) float32 array, optional
            How certain each is by other means, which then counts in place of likeness; NaN where nothing is known.

        Returns
        -------
        (N,) float32 array
            0 to 1.
        """
        if not objects:
            return np.zeros(0, np.float32)
        inside, outside = (np.stack([getattr(one, name) for one in objects]) for name in ("inside", "outside"))
        seen = inside - self.centre
        along = seen @ self.directions.T
        nearest = along.argmax(1)
        contrast = np.take_along_axis((inside - outside) @ self.directions.T, nearest[:, None], 1)[:, 0]
        channels = len(self.tone) // 3
        away = np.minimum(((np.stack([one.tone for one in objects]) - self.tone) / self.tone_width) ** 2, _FARTHEST)
        brightness, texture, spread = (away[:, i * channels : (i + 1) * channels].mean(1) for i in range(3))
        area = (np.log([one.area for one in objects]) - self.log_area) / self.area_width
        logit = (
            weights.contrast * (contrast / self.contrast - 1)
            + weights.likeness * (along.max(1) / self.likeness - 1)
            - weights.brightness * brightness
            - weights.texture * (texture + spread)
            - weights.area * np.minimum(area**2, _FARTHEST)
            + scores @ np.array([weights.predicted_iou, weights.stability], np.float32)
            + weights.bias
        )
        if given is not None:
            logit = np.where(np.isnan(given), logit, special.logit(np.clip(given, 1e-4, 1 - 1e-4)))
        if len(self.background):
            directions = unit(seen)
            worse = (directions @ self.background.T).max(1) - (directions @ self.directions.T).max(1)
            logit -= weights.rejected * np.maximum(worse, 0)
        certain: NDArray[np.float32] = special.expit(logit).astype(np.float32)
        return certain


def learn(
    label: int,
    examples: Sequence[Descriptor],
    around: Surroundings,
    rejected: Sequence[Descriptor] = (),
    threshold: float = 0.0,
) -> Prototypes:
    """Learn what a class looks like from at least one example.

    Parameters
    ----------
    label : int
    examples, rejected : sequence of Descriptor
        Of the class, and of what was taken for it and is not.
    around : Surroundings
    threshold : float
        See :attr:`Prototypes.threshold`.
    """
    seen = np.stack([one.inside for one in examples]) - around.centre
    directions = _directions(seen)
    along = (seen @ directions.T).max(1)
    beside = np.stack([one.inside - one.outside for one in examples])
    contrast = float((beside @ directions.T).max(1).mean())
    tone = np.stack([one.tone for one in examples])
    area = np.log([one.area for one in examples])
    background = unit(np.stack([one.inside for one in rejected]) - around.centre) if rejected else seen[:0]
    return Prototypes(
        label,
        around.centre,
        directions,
        max(float(along.mean()), 1e-6),
        max(contrast, 1e-6),
        threshold,
        tone.mean(0),
        np.maximum(np.maximum(tone.std(0), _LEAST_TONE * around.tone_spread), 1.0),
        float(area.mean()),
        max(float(area.std()), _LEAST_AREA),
        background,
    )


def _directions(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of the examples by k-means over their directions; one mean where there are few examples."""
    count = min(_MOST, 1 + len(seen) // _PER_PROTOTYPE)
    if count == 1:
        return unit(seen.mean(0, keepdims=True))
    each = unit(seen)
    chosen = [0]
    while len(chosen) < count:  # far from those chosen before
        chosen.append(int((each @ each[chosen].T).max(1).argmin()))
    means = each[chosen]
    for _ in range(_ROUNDS):
        nearest = (each @ means.T).argmax(1)
        means = unit(np.stack([each[nearest == k].mean(0) if (nearest == k).any() else means[k] for k in range(count)]))
    return means


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1 along the last axis; those of no length stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    directions: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return directions
