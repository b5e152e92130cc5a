"""Boxes with classes to labelled masks, with the embedded model."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.cascade import segment_boxes
from napari_zeroseg.errors import InputError
from napari_zeroseg.metrics import iou


@pytest.fixture(scope="module")
def boxes(scene) -> list[tuple[int, int, int, int]]:
    found = []
    for mask in scene.masks(0, 2):
        rows, columns = np.nonzero(mask)
        found.append((rows.min(), columns.min(), rows.max(), columns.max()))
    return found


def test_each_box_is_its_class(model, scene, boxes):
    labels = segment_boxes(model, scene.views[0], boxes, [4, 9])
    for mask, number in zip(scene.masks(0, 2), (4, 9), strict=True):
        assert iou(labels == number, mask) > 0.7


def test_the_later_box_is_seen_or_that_of_the_higher_score(model, scene, boxes):
    twice = [boxes[0], boxes[0]]
    assert set(np.unique(segment_boxes(model, scene.views[0], twice, [1, 2]))) == {0, 2}
    assert set(np.unique(segment_boxes(model, scene.views[0], twice, [1, 2], [0.9, 0.3]))) == {0, 1}


def test_no_boxes(model, scene):
    assert not segment_boxes(model, scene.views[0], [], []).any()


def test_bad_input(model, scene, boxes, toys):
    import zeroseg_toys

    with pytest.raises(InputError, match="2 boxes"):
        segment_boxes(model, scene.views[0], boxes, [1])
    with pytest.raises(InputError, match="2 boxes"):
        segment_boxes(model, scene.views[0], boxes, [1, 2], [0.5])
    with pytest.raises(InputError, match="from 1"):
        segment_boxes(model, scene.views[0], boxes, [0, 1])
    with pytest.raises(InputError, match="no area"):
        segment_boxes(model, scene.views[0], [(3, 3, 3, 3)], [1])
    no_boxes = zeroseg_toys.Flood(zeroseg_toys.AFAR)
    with pytest.raises(InputError, match="takes no boxes"):
        segment_boxes(no_boxes, scene.views[0].picture, boxes, [1, 2])
