"""Refining: only what was picked up changes, in its own image, output and plane."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from napari_zeroseg._napari.layers import camera_of
from napari_zeroseg.instances import OverlapPolicy


@pytest.fixture
def begun(desk, squares):
    desk.open(squares, name="em")
    return desk


def accept(desk, *position):
    desk.click(*position)
    desk.session.accept()
    desk.settle()


def refine(desk, label):
    desk.workspace.labels.selected_label = label
    desk.session.refine()
    desk.settle()


def press(layer, *position):
    for callback in list(layer.mouse_drag_callbacks):
        callback(layer, SimpleNamespace(position=position))


@pytest.fixture
def semantic(begun):
    """Class 2 in both squares of plane 1, the right one accepted last."""
    begun.session.set_options(semantic=True, class_id=2)
    for column in (15, 45):
        accept(begun, 1, 15, column)
    return begun


def test_a_picked_label_does_not_follow_to_another_image(begun, squares):
    accept(begun, 1, 15, 15)
    first = begun.workspace.image
    second = begun.viewer.add_image(squares[:, :, ::-1].copy(), name="two")
    begun.workspace.choose_image(second)
    begun.session.begin("points")
    begun.settle()
    accept(begun, 1, 15, 15)
    labels = begun.workspace.labels
    before = labels.data.copy()
    begun.workspace.choose_image(first)
    begun.settle()
    refine(begun, 1)
    assert begun.shown() is not None
    begun.workspace.choose_image(second)
    begun.settle()
    assert begun.session.asking.picked is None
    assert begun.shown() is None
    begun.session.accept()
    begun.settle()
    np.testing.assert_array_equal(labels.data, before)


def test_nor_to_another_output(begun, squares):
    accept(begun, 1, 15, 15)
    refine(begun, 1)
    other = begun.viewer.add_labels(np.full(squares.shape, 1, np.uint16), name="B")
    begun.workspace.choose_labels(other)
    begun.settle()
    begun.session.accept()
    begun.settle()
    assert (other.data == 1).all()


def test_it_waits_while_another_plane_is_looked_at(begun):
    accept(begun, 1, 15, 15)
    refine(begun, 1)
    begun.viewer.dims.set_point(0, 2)
    begun.settle()
    assert begun.shown() is None
    begun.viewer.dims.set_point(0, 1)
    begun.settle()
    assert begun.session.asking.picked is not None
    assert begun.shown() is not None


def wipe(model):
    """Let the model answer with the ground row 30 only, far from every square."""

    def one(*args):
        prediction = fill(*args)
        prediction.logits[:] = 0
        prediction.logits[:, 30, 8:56] = 1
        return prediction

    model._one, fill = one, model._one


def remaining(desk):
    return {column: int((desk.workspace.labels.data[1, 8:24, column : column + 16] == 2).sum()) for column in (8, 40)}


def test_refining_a_class_takes_the_object_accepted_last(semantic):
    refine(semantic, 2)
    assert len(semantic.workspace.points.data) == 1
    wipe(semantic.engine.loaded)
    semantic.click(1, 16, 46)
    semantic.session.accept()
    semantic.settle()
    assert remaining(semantic) == {8: 256, 40: 0}


def test_refining_a_class_takes_the_object_that_was_clicked_on(semantic):
    press(semantic.workspace.labels, 1, 15, 15)
    refine(semantic, 2)
    np.testing.assert_allclose(semantic.workspace.points.data, [[1, 15, 15]])
    wipe(semantic.engine.loaded)
    semantic.click(1, 16, 16)
    semantic.session.accept()
    semantic.settle()
    assert remaining(semantic) == {8: 0, 40: 256}


def test_a_click_on_another_plane_does_not_count(semantic):
    press(semantic.workspace.labels, 0, 15, 15)
    refine(semantic, 2)
    np.testing.assert_allclose(semantic.workspace.points.data, [[1, 15, 45]])


def test_refining_a_class_takes_the_object_below_the_newest_point(semantic):
    semantic.click(1, 15, 15)
    refine(semantic, 2)
    rows, columns, _ = semantic.session.asking.picked[1].patch
    assert (rows, columns) == (slice(8, 24), slice(8, 24))


def test_refining_a_class_of_unknown_origin_takes_the_object_in_the_middle_of_the_view(begun, squares):
    begun.workspace.choose_labels(begun.viewer.add_labels((squares > 50).astype(np.uint16)))
    begun.settle()
    begun.session.set_options(semantic=True)
    camera_of(begun.viewer).center = (0, 15, 50)
    refine(begun, 1)
    assert begun.session.asking.picked[1].patch[1] == slice(40, 56)


def test_only_empty_erases_nothing(begun):
    accept(begun, 1, 15, 15)
    labels = begun.workspace.labels
    labels.data[1, 40:50, 40:50] = 1
    begun.session.set_options(policy=OverlapPolicy.EMPTY)
    refine(begun, 1)
    wipe(begun.engine.loaded)
    begun.click(1, 16, 16)
    begun.session.accept()
    begun.settle()
    assert (labels.data[1, 8:24, 8:24] == 1).all()
    assert (labels.data[1, 40:50, 40:50] == 1).all()
    assert (labels.data[1, 30, 8:56] == 1).all()


def test_an_instance_in_two_pieces_is_refined_as_one(begun):
    accept(begun, 1, 15, 15)
    labels = begun.workspace.labels
    labels.data[1, 40:50, 40:50] = 1
    refine(begun, 1)
    wipe(begun.engine.loaded)
    begun.click(1, 16, 16)
    begun.session.accept()
    begun.settle()
    assert (labels.data == 1).sum() == 48


def test_a_refine_that_changes_nothing_is_said(begun):
    accept(begun, 1, 15, 15)
    refine(begun, 1)
    begun.session.accept()
    begun.settle()
    assert "no pixel would change" in str(begun.bridge.errors[0])
