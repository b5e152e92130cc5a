"""The generated stack and its truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_zeroseg.errors import InputError
from napari_zeroseg.phantom import em_like_stack


@pytest.fixture(scope="module")
def stack():
    return em_like_stack()


def test_shapes_and_types(stack):
    raw, truth = stack
    assert (raw.shape, raw.dtype) == ((8, 512, 512), np.uint8)
    assert (truth.shape, truth.dtype) == ((8, 512, 512), np.int32)


def test_ten_to_twenty_whole_mitochondria_drift_through_the_planes(stack):
    _, truth = stack
    numbers = np.unique(truth)[1:]
    assert numbers.tolist() == list(range(1, len(numbers) + 1))
    assert 10 <= len(numbers) <= 20
    for number in numbers:
        centres = []
        for plane in truth:
            filled = plane == number
            if filled.any():
                assert ndimage.label(filled)[1] == 1
                centres.append(ndimage.center_of_mass(filled))
        assert len(centres) >= 4
        steps = np.hypot(*np.diff(centres, axis=0).T)
        assert 0 < steps.max() < 6


def test_mitochondria_are_darker_than_what_surrounds_them(stack):
    raw, truth = stack
    for plane, filled in zip(raw, truth > 0, strict=True):
        around = ndimage.binary_dilation(filled, iterations=8) & ~filled
        assert plane[filled].mean() < plane[around].mean() - 15


def test_grey_values_use_the_range_without_being_cut(stack):
    raw, _ = stack
    assert 90 < np.median(raw) < 200
    assert raw.std() > 20
    assert ((raw == 0) | (raw == 255)).mean() < 0.01


def test_same_seed_same_stack():
    first, again, other = (em_like_stack(2, 128, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize(("planes", "size"), [(1, 64), (3, 200)])
def test_small_stacks(planes, size):
    raw, truth = em_like_stack(planes, size)
    assert raw.shape == (planes, size, size)
    assert truth.any()


@pytest.mark.parametrize(("planes", "size"), [(0, 512), (4, 20)])
def test_too_small(planes, size):
    with pytest.raises(InputError, match="At least 1 plane of 64 x 64"):
        em_like_stack(planes, size)
