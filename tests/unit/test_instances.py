"""Masks into labels."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy, changes, check_class, erasure, number_classes, write


@pytest.fixture
def labels() -> np.ndarray:
    plane = np.zeros((6, 8), np.int32)
    plane[1:4, 1:4] = 1
    plane[3:5, 5:7] = 2
    return plane


PATCH = (slice(2, 5), slice(2, 6), np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]], bool))
"""Covers four pixels of object 1, one of object 2 in its last two rows, and empty ones."""


def _full(patch, shape):
    mask = np.zeros(shape, bool)
    mask[patch[0], patch[1]] = patch[2]
    return mask


@pytest.mark.parametrize("policy", [OverlapPolicy.KEEP, OverlapPolicy.EMPTY])
def test_other_objects_keep_their_pixels(labels, policy):
    before = labels.copy()
    count = write(labels, PATCH, 7, policy)
    mask = _full(PATCH, labels.shape)
    np.testing.assert_array_equal(labels, np.where(mask & (before == 0), 7, before))
    assert count == np.count_nonzero(labels != before) > 0


def test_replace_takes_all(labels):
    before = labels.copy()
    count = write(labels, PATCH, 7, OverlapPolicy.REPLACE)
    np.testing.assert_array_equal(labels, np.where(_full(PATCH, labels.shape), 7, before))
    assert count == np.count_nonzero(labels != before)


def test_only_what_changes_is_listed(labels):
    changed = changes(labels, PATCH, 1, OverlapPolicy.REPLACE)
    np.testing.assert_array_equal(changed, PATCH[2] & (labels[PATCH[:2]] != 1))
    assert write(labels, PATCH, 1, OverlapPolicy.REPLACE) == np.count_nonzero(changed)
    assert write(labels, PATCH, 1, OverlapPolicy.REPLACE) == 0


def test_drawing_an_object_again_empties_what_it_leaves(labels):
    before = labels.copy()
    mask = _full(PATCH, labels.shape)
    labels[erasure(labels, PATCH, 1)] = 0
    write(labels, PATCH, 1, OverlapPolicy.KEEP)
    np.testing.assert_array_equal(labels == 1, mask & ((before == 1) | (before == 0)))
    np.testing.assert_array_equal(labels == 2, before == 2)


def test_an_empty_mask_changes_nothing(labels):
    nothing = (slice(0, 0), slice(0, 0), np.zeros((0, 0), bool))
    before = labels.copy()
    assert write(labels, nothing, 3, OverlapPolicy.REPLACE) == 0
    np.testing.assert_array_equal(labels, before)


def test_an_id_that_the_labels_cannot_hold_is_refused(labels):
    small = labels.astype(np.uint8)
    with pytest.raises(InputError, match="uint8 labels hold ids up to 255; got 256"):
        write(small, PATCH, 256, OverlapPolicy.REPLACE)
    np.testing.assert_array_equal(small, labels)


def test_classes_are_whole_numbers_or_names():
    numbers, names = number_classes(["2.0", "cell", "", "1.7", "True", "-1", "nan", "inf"])
    assert numbers == [2, 1, 0, 0, 0, 0, 0, 0]
    assert names == {"cell": 1}


@pytest.mark.parametrize("text", ["1.7", "True", "0", "-1", "inf"])
def test_what_is_no_class(text):
    with pytest.raises(InputError, match=f"A class is a name or a whole number from 1.* got '{text}'"):
        check_class(text)
