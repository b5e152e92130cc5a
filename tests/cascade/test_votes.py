"""Votes of masks over a map of classes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.cascade import vote
from napari_zeroseg.errors import InputError


def block(r0, r1, c0, c1):
    return slice(r0, r1), slice(c0, c1), np.ones((r1 - r0, c1 - c0), bool)


@pytest.fixture
def classes() -> np.ndarray:
    plane = np.zeros((10, 10), np.uint8)
    plane[1:5, 1:4] = 2  # of the mask below three quarters
    plane[7:9, 7:9] = 3
    return plane


def test_the_outline_is_the_mask_s(classes):
    voted = vote([block(1, 5, 1, 5)], classes)
    assert voted.dtype == np.uint8
    assert (voted[1:5, 1:5] == 2).all()
    assert (voted == 2).sum() == 16
    assert (voted == 3).sum() == 4  # in no mask, so as it was


def test_most_pixels_of_none_empty_a_mask(classes):
    voted = vote([block(1, 5, 1, 10)], classes)
    assert not voted[1:5].any()


def test_the_smaller_mask_decides_whatever_the_order(classes):
    large, small = block(0, 10, 0, 10), block(7, 9, 7, 9)
    for masks in ([large, small], [small, large]):
        voted = vote(masks, classes)
        assert (voted[7:9, 7:9] == 3).all()
        assert (voted > 0).sum() == 4


def test_without_a_majority_nothing_changes(classes):
    mask = block(1, 5, 1, 5)
    assert (vote([mask], classes, 0.8) == classes).all()
    assert (vote([mask], classes, 0.7) != classes).sum() == 4


def test_a_threshold_of_true_and_false(classes):
    voted = vote([block(1, 5, 1, 5)], classes == 2)
    assert (voted[1:5, 1:5] == 1).all()


def test_the_given_map_stays(classes):
    before = classes.copy()
    vote([block(1, 5, 1, 5)], classes)
    assert (classes == before).all()


@pytest.mark.parametrize("wrong", [np.zeros((2, 2, 2), int), np.zeros((4, 4)), np.full((4, 4), -1)])
def test_no_map(wrong):
    with pytest.raises(InputError, match="map of classes"):
        vote([], wrong)


def test_masks_of_another_plane(classes):
    with pytest.raises(InputError, match="outside"):
        vote([block(5, 12, 0, 3)], classes)


def test_no_majority(classes):
    with pytest.raises(InputError, match="majority"):
        vote([], classes, 1.0)
