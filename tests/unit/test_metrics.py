"""Agreement of masks."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.errors import InputError
from napari_zeroseg.metrics import dice, iou

A = np.array([[1, 1, 0], [1, 0, 0]])
B = np.array([[1, 0, 0], [1, 1, 0]])


def test_counted_by_hand():
    assert iou(A, B) == 2 / 4
    assert dice(A, B) == 4 / 6
    assert iou(A, A) == dice(A, A) == 1
    assert iou(A, 1 - A) == dice(A, 1 - A) == 0


def test_two_empty_masks_agree():
    assert iou(A * 0, A * 0) == dice(A * 0, A * 0) == 1
    assert iou(A * 0, A) == 0


@pytest.mark.parametrize("metric", [iou, dice])
def test_masks_that_numpy_would_stretch_are_refused(metric):
    with pytest.raises(InputError, match=r"must have one shape; got \(2, 3\) and \(2, 1\)"):
        metric(A, A[:, :1])
