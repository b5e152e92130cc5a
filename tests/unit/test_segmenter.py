"""Predictions: candidates, patches and where they lie on the plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from napari_zeroseg.segmenter import Embedding, Prediction
from napari_zeroseg.tiling import Field, whole


@dataclass
class _AsItIs:
    """A frame for answers that have the picture's own resolution; counts what it is asked."""

    asked: int = 0

    def patch(self, logits):
        self.asked += 1
        filled = logits > 0
        rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
        if not len(rows):
            return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
        inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return (*inside, filled[inside])


@pytest.fixture
def prediction() -> Prediction:
    logits = np.full((3, 10, 12), -1, np.float32)
    logits[0, 2:5, 3:7] = 1
    logits[1, 0:10, 0:12] = 1
    scores = np.array([0.7, 0.9, 0.2], np.float32)
    return Prediction(scores, logits, _AsItIs(), (10, 12), whole((10, 12)))


def test_the_best_is_the_one_with_the_highest_score(prediction):
    assert prediction.best == 1
    assert prediction.order == [1, 0, 2]
    assert prediction.mask.all()


def test_equal_scores_keep_the_networks_order(prediction):
    prediction.scores[:] = 0.5
    assert prediction.order == [0, 1, 2]
    assert prediction.best == 0


def test_masks_are_the_logits_above_zero(prediction):
    np.testing.assert_array_equal(prediction.masks, prediction.logits > 0)
    assert prediction.extent(0) == (2, 3, 4, 6)
    assert prediction.extent() == (0, 0, 9, 11)
    assert prediction.extent(2) is None


def test_only_what_is_asked_for_is_upscaled_and_once(prediction):
    for _ in range(3):
        prediction.patch()
        prediction.extent()
    assert prediction.frame.asked == 1
    _ = prediction.masks
    _ = prediction.masks
    assert prediction.frame.asked == 3


def test_a_window_is_put_in_its_place_on_the_plane(prediction):
    prediction.patch()  # what was computed for the window itself must not be taken for the plane
    window = Field(100, 200, 110, 212)
    moved = prediction.on(window, (300, 400))
    rows, columns, mask = moved.patch(0)
    assert (rows, columns) == (slice(102, 105), slice(203, 207))
    assert mask.all()
    assert moved.extent(0) == (102, 203, 104, 206)
    full = np.zeros((3, 300, 400), bool)
    full[:, 100:110, 200:212] = prediction.masks
    np.testing.assert_array_equal(moved.masks, full)
    np.testing.assert_array_equal(moved.mask, full[1])
    assert moved.masks[2].sum() == 0


def test_an_embedding_of_a_window_keeps_what_was_derived_but_not_the_pixels():
    embedding = Embedding({}, (10, 12), "m", whole((10, 12)), np.zeros((10, 12), np.uint8))
    moved = embedding.on(Field(1, 1, 11, 13))
    assert moved.field == (1, 1, 11, 13)
    assert moved.picture is None
    assert moved.memo is embedding.memo
