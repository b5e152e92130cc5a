"""What is taken over into labels, and what of theirs must not change."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg import CancelToken
from napari_zeroseg._napari.stack_edits import take_over
from napari_zeroseg._napari.stack_place import LabelStack
from napari_zeroseg._napari.stack_work import Changes
from napari_zeroseg.errors import InputError


class Place:
    """Planes along the first axis."""

    count, shape = 1, (6, 6)

    def read(self, data, number):
        return np.asarray(data[number])

    def turned(self, pixels):
        return pixels

    def box(self, plane, rows, columns):
        return plane, rows, columns


def taken_over(own):
    found, told = np.zeros((1, 6, 6), np.int32), []
    found[0, 2:5, 2:5] = 1
    place = Place()
    take_over(LabelStack(found, place), own, place, True, CancelToken(), told.append)
    (changes,) = (one for one in told if isinstance(one, Changes))
    return changes.parts[0]


def test_ids_that_no_float_holds_stay_exact():
    large = 720575940600000001
    own = np.zeros((1, 6, 6), np.uint64)
    own[0, 3, 3] = large
    part = taken_over(own)
    assert part.after.dtype == np.uint64
    assert int(part.after[1, 1]) == large
    assert set(part.after.ravel().tolist()) == {large, large + 1}


def test_ids_that_the_layer_cannot_hold_are_refused():
    own = np.full((1, 6, 6), 0, np.uint8)
    own[0, 0, 0] = 255
    with pytest.raises(InputError, match="go to 256 and the layer holds 255 at most"):
        taken_over(own)
