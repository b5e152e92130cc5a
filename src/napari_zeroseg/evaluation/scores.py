"""Scores of a matching, and intervals of them by resampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.evaluation.matching import THRESHOLDS, Floats, Matching
from napari_zeroseg.metrics import Counts, Ids

_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class ThresholdScores:
    """How many objects were found where a match needs this IoU or more.

    Two pictures without objects agree fully: every score is 1.

    Attributes
    ----------
    threshold : float
    tp, fp, fn : int
        Matched pairs; predicted and true objects without a match.
    """

    threshold: float
    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        """Share of the predicted objects that are true: TP / (TP + FP)."""
        return self._counts.precision

    @property
    def recall(self) -> float:
        """Share of the true objects that were found: TP / (TP + FN)."""
        return self._counts.recall

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return self._counts.dice

    @property
    def ap(self) -> float:
        """Average precision as StarDist and the Data Science Bowl 2018 define it: TP / (TP + FP + FN)."""
        return self._counts.iou

    @property
    def _counts(self) -> Counts:
        return Counts(self.tp, self.tp + self.fp, self.tp + self.fn)


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """How well the objects of a prediction are the true ones. What each figure means is told in docs/evaluate.md.

    Attributes
    ----------
    truth, prediction : int
        Number of objects.
    thresholds : tuple of ThresholdScores
        At IoU 0.50, 0.55, ... 0.95.
    mean_ap : float
        Mean of `ap` over the thresholds.
    mean_iou, mean_dice : float
        Mean over the true objects of the IoU and Dice with the predicted object that fits best.
    pq, sq, rq : float
        Panoptic, segmentation and recognition quality (Kirillov et al. 2019).
    sbd : float
        Symmetric best Dice (Scharr et al. 2016).
    arand : float
        Adapted Rand error (Arganda-Carreras et al. 2015), 0 is best.
    voi_split, voi_merge : float
        Variation of information in bits (Meilă 2007): what splits and what merges of the prediction cost; 0 is best.
    assd, hd95, nsd : float
        Means over the matched pairs; nan where they were not measured or nothing matched.
    """

    truth: int
    prediction: int
    thresholds: tuple[ThresholdScores, ...]
    mean_ap: float
    mean_iou: float
    mean_dice: float
    pq: float
    sq: float
    rq: float
    sbd: float
    arand: float
    voi_split: float
    voi_merge: float
    assd: float = math.nan
    hd95: float = math.nan
    nsd: float = math.nan


def at_thresholds(units: Floats) -> tuple[ThresholdScores, ...]:
    """Count matches of a set of :meth:`Matching.units`.

    The pairs of IoU 0.5 or more hold those of every higher threshold, as more than 0.5 is unique.
    """
    pairs = np.count_nonzero(units >= 0)
    missed, extra = np.count_nonzero(units == -1), np.count_nonzero(units == -2)
    result = []
    for threshold in THRESHOLDS:
        hits = int(np.count_nonzero(units >= threshold))
        result.append(ThresholdScores(threshold, hits, int(extra + pairs - hits), int(missed + pairs - hits)))
    return tuple(result)


def instance_scores(matching: Matching, surfaces: tuple[float, float, float]) -> InstanceScores:
    """Score a matching.

    Parameters
    ----------
    matching : Matching
    surfaces : tuple of float
        Mean ASSD, HD95 and NSD of the matched pairs.
    """
    thresholds = at_thresholds(matching.units())
    strict = matching.iou[matching.iou > 0.5]
    count = len(matching.truth.label) + len(matching.prediction.label)
    rq = 2 * len(strict) / count if count else 1.0
    sq = float(strict.mean()) if len(strict) else 0.0 if count else 1.0
    return InstanceScores(
        len(matching.truth.label),
        len(matching.prediction.label),
        thresholds,
        float(np.mean([one.ap for one in thresholds])),
        _mean(of_truth(matching, matching.iou)),
        _mean(of_truth(matching, matching.dice)),
        rq * sq,
        sq,
        rq,
        _symmetric_best_dice(matching),
        _adapted_rand_error(matching),
        *_variation_of_information(matching),
        *surfaces,
    )


def of_truth(matching: Matching, values: Floats) -> Floats:
    """The value of the best pair of each true object; 0 where nothing overlaps it."""
    best = matching.best_of_truth()
    result = np.zeros(len(best))
    result[best >= 0] = values[best[best >= 0]]
    return result


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _symmetric_best_dice(matching: Matching) -> float:
    sides = []
    for index, count in (
        (matching.truth_index, len(matching.truth.label)),
        (matching.prediction_index, len(matching.prediction.label)),
    ):
        best = np.zeros(count)
        np.maximum.at(best, index, matching.dice)
        sides.append(best)
    if not len(sides[0]) or not len(sides[1]):
        return 1.0 if len(sides[0]) == len(sides[1]) else 0.0
    return float(min(best.mean() for best in sides))


def _in_truth(matching: Matching) -> tuple[Ids, Ids, Ids]:
    """Pixels inside the truth: of each pair, each prediction and each true object; background predicts them too."""
    uncovered = matching.truth.size.copy()
    np.subtract.at(uncovered, matching.truth_index, matching.shared)
    covered = np.zeros(len(matching.prediction.label), np.int64)
    np.add.at(covered, matching.prediction_index, matching.shared)
    # Planes that stand for themselves have each their own background.
    background = np.zeros(int(matching.truth.plane.max()) + 1, np.int64)
    np.add.at(background, matching.truth.plane * matching.per_plane, uncovered)
    pairs = np.concatenate([matching.shared, uncovered])
    return pairs, np.concatenate([covered, background]), matching.truth.size


def _adapted_rand_error(matching: Matching) -> float:
    if not len(matching.truth.label):
        return math.nan
    # Pairs of pixels that are together: in both, in the prediction, in the truth.
    both, predicted, true = (float((sizes.astype(float) * (sizes - 1)).sum()) for sizes in _in_truth(matching))
    return 1 - 2 * both / (predicted + true) if predicted + true else 0.0


def _variation_of_information(matching: Matching) -> tuple[float, float]:
    if not len(matching.truth.label):
        return math.nan, math.nan
    cells, predicted, true = (_entropy(sizes) for sizes in _in_truth(matching))
    # Entropies are sums with rounding: a perfect split must not come out below 0.
    return max(0.0, cells - true), max(0.0, cells - predicted)


def _entropy(sizes: Ids) -> float:
    shares = sizes[sizes > 0] / sizes.sum()
    return float(-(shares * np.log2(shares)).sum())


Interval = tuple[float, float]


def object_intervals(matching: Matching, resamples: int, seed: int) -> dict[str, Interval]:
    """95 % intervals over objects: percentiles of the scores of resampled objects (Efron 1979).

    For `mean_iou` and `mean_dice` true objects are drawn with replacement; for `f1` (at IoU 0.5), `ap` (at 0.5) and
    `mean_ap`, matched pairs and objects without a match. With fewer than two of them there is no interval.
    """
    ious, dices = of_truth(matching, matching.iou), of_truth(matching, matching.dice)

    def of_objects(drawn: Ids) -> list[float]:
        return [float(ious[drawn].mean()), float(dices[drawn].mean())]

    units = matching.units()

    def of_units(drawn: Ids) -> list[float]:
        scores = at_thresholds(units[drawn])
        return [scores[0].f1, scores[0].ap, float(np.mean([one.ap for one in scores]))]

    return {
        **_intervals(("mean_iou", "mean_dice"), len(ious), of_objects, resamples, seed),
        **_intervals(("f1", "ap", "mean_ap"), len(units), of_units, resamples, seed),
    }


def plane_intervals(counts: NDArray[np.int64], resamples: int, seed: int) -> dict[str, Interval]:
    """95 % intervals of the foreground's `iou` and `dice` over planes.

    Parameters
    ----------
    counts : (Z, 3) int64
        Pixels of both masks, of the prediction and of the truth on each plane.
    resamples, seed : int
    """

    def of_planes(drawn: Ids) -> list[float]:
        total = Counts(*(int(pixels) for pixels in counts[drawn].sum(0)))
        return [total.iou, total.dice]

    return _intervals(("iou", "dice"), len(counts), of_planes, resamples, seed)


def _intervals(
    names: tuple[str, ...], count: int, score: Callable[[Ids], list[float]], resamples: int, seed: int
) -> dict[str, Interval]:
    if count < 2 or resamples < 1:
        return {}
    rng = np.random.default_rng(seed)
    drawn = np.array([score(rng.integers(0, count, count)) for _ in range(resamples)])
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
