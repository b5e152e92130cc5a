"""Regions that are too long to be an object of the class."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.lengths import longest_in, longest_of, regions_of, without_too_long

ROD = 4 / math.sqrt(12)
"""Major axis of the ellipse with the moments of a thin rod, in lengths of the rod."""


def _rods(*lengths: int) -> np.ndarray:
    """Rods of 5 pixels' width, one below the other."""
    plane = np.zeros((10 * len(lengths), max(lengths) + 10), np.int32)
    for number, length in enumerate(lengths):
        plane[10 * number + 2 : 10 * number + 7, 3 : 3 + length] = number + 1
    return plane


def test_lengths_and_areas_of_regions() -> None:
    numbers, lengths, areas = regions_of(_rods(30, 90) > 0)
    assert numbers.max() == 2
    np.testing.assert_allclose(lengths, [0, 30 * ROD, 90 * ROD], rtol=0.02)
    np.testing.assert_array_equal(areas[1:], [150, 450])
    assert not regions_of(np.zeros((4, 4), bool))[1].any()


def test_the_limit_is_that_of_a_modified_z_score() -> None:
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(50), 0.7, 20_000))
    assert longest_of(lengths) == pytest.approx(50 * np.exp(3.5 * 0.7), rel=0.05)
    # of examples that are alike, others may be five times as long
    assert longest_of(np.full(20, 60.0)) == pytest.approx(60 * np.exp(3.5 * 0.5))
    assert math.isinf(longest_of(np.full(9, 60.0)))


def test_a_band_is_taken_back_and_objects_stay() -> None:
    plane = _rods(20, 60, 150, 1000)
    probability = np.where(plane > 0, 0.9, 0.1).astype(np.float32)
    left = without_too_long(probability, longest_of(np.geomspace(20, 150, 30)))
    np.testing.assert_array_equal(left > 0.5, (plane > 0) & (plane < 4))
    np.testing.assert_array_equal(left[plane != 4], probability[plane != 4])
    assert without_too_long(probability, math.inf) is probability


def test_what_is_held_back_or_ignored_is_not_measured() -> None:
    rods = _rods(*[20, 30] * 8, 400)
    labels = np.where(rods == 17, 9, (rods > 0).astype(np.int32))
    picture = np.random.default_rng(0).integers(0, 255, labels.shape, np.uint8)

    def limit(**settings: object) -> float:
        pair = TrainingPair(picture[None], labels[None])
        config = TrainingConfig("a", (pair,), labels_are="classes", **settings)  # type: ignore[arg-type]
        data = TrainingData(config)
        held = () if "ignore" in settings else ((0, 160, 0, 170, labels.shape[1]),)
        return longest_in(data, [0], 50, held)

    assert limit() == pytest.approx(limit(ignore=9))
    assert limit() < 25 * ROD * np.exp(3.5 * 0.6)
