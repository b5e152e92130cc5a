"""Bands that are too long to be an object of the class."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.lengths import Proportions, lengths_of, proportions_in, proportions_of, without_bands

ROD = 4 / math.sqrt(12)
"""Major axis of the ellipse with the moments of a thin rod, in lengths of the rod."""


def _rods(*lengths: int) -> np.ndarray:
    """Rods of 5 pixels' width, one below the other."""
    plane = np.zeros((10 * len(lengths), max(lengths) + 10), np.int32)
    for number, length in enumerate(lengths):
        plane[10 * number + 2 : 10 * number + 7, 3 : 3 + length] = number + 1
    return plane


def test_lengths_of_parts() -> None:
    np.testing.assert_allclose(lengths_of(_rods(30, 90)), [0, 30 * ROD, 90 * ROD], rtol=0.02)
    np.testing.assert_array_equal(lengths_of(np.zeros((4, 4), np.int32)), [0])


def test_limits_are_those_of_a_modified_z_score() -> None:
    rng = np.random.default_rng(0)
    known = proportions_of(np.exp(rng.normal(np.log(50), 0.7, 20_000)))
    assert known.longest == pytest.approx(50 * np.exp(3.5 * 0.7), rel=0.05)
    assert known.long == pytest.approx(50 * np.exp(2 * 0.7), rel=0.05)
    # of examples that are alike, others may be five times as long
    assert proportions_of(np.full(20, 60.0)).longest == pytest.approx(60 * np.exp(3.5 * 0.5))
    assert proportions_of(np.full(9, 60.0)) == Proportions()


def test_a_band_is_taken_back_and_objects_stay() -> None:
    rods = _rods(20, 60, 150, 1000)
    probability = np.where(rods > 0, 0.9, 0.1).astype(np.float32)
    known = proportions_of(np.geomspace(20, 150, 30))
    left = without_bands(probability, rods, known)
    np.testing.assert_array_equal(left > 0.5, (rods > 0) & (rods < 4))
    np.testing.assert_array_equal(left[rods != 4], probability[rods != 4])
    # cut into pieces of which one is long it is a band all the same
    pieces = rods.copy()
    pieces[rods == 4] = 4 + (np.nonzero(rods == 4)[1] > 700)
    np.testing.assert_array_equal(without_bands(probability, pieces, known) > 0.5, left > 0.5)
    assert without_bands(probability, rods, Proportions()) is probability


def test_many_objects_that_touch_are_no_band() -> None:
    """Cells that were labelled apart lie side by side on another plane."""
    rows, columns = np.indices((512, 512))
    cells = (rows // 32 * 16 + columns // 32 + 1).astype(np.int32)
    probability = np.full((512, 512), 0.9, np.float32)
    known = proportions_of(np.full(40, 35.0))
    assert known.longest < 512
    np.testing.assert_array_equal(without_bands(probability, cells, known), probability)


def _proportions(labels: np.ndarray, held: tuple[tuple[int, int, int, int, int], ...] = ()) -> Proportions:
    picture = np.random.default_rng(0).integers(0, 255, labels.shape, np.uint8)
    pair = TrainingPair(picture[None], labels[None])
    return proportions_in(TrainingData(TrainingConfig("a", (pair,), labels_are="classes", ignore=9)), [0], 50, held)


def test_what_is_held_back_or_ignored_is_not_measured() -> None:
    rods = _rods(*[20, 30] * 8, 400)
    labels = (rods > 0).astype(np.int32)
    without = _proportions(np.where(rods == 17, 9, labels))
    assert _proportions(labels, ((0, 160, 0, 170, labels.shape[1]),)) == without
    assert without.longest < 25 * ROD * np.exp(3.5 * 0.6)


def test_objects_that_run_through_their_planes_have_no_known_length() -> None:
    labels = (_rods(*[20, 30] * 8, 400) > 0).astype(np.int32)
    through = labels[:, 3:403].copy()
    assert np.count_nonzero(through[:, 0] & through[:, -1]) == 5
    assert _proportions(through) == Proportions()
    assert _proportions(labels) != Proportions()
