"""Taking back: every step of every layer, whatever was painted, chosen or removed meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.instances import OverlapPolicy


@pytest.fixture
def begun(desk, squares):
    desk.open(squares, name="em")
    return desk


def accept(desk, *position):
    desk.click(*position)
    desk.session.accept()
    desk.settle()
    return desk.workspace.labels


def undo(desk):
    desk.session.undo()
    desk.settle()


def paint(labels, row, column, label):
    labels.data_setitem((np.array([1]), np.array([row]), np.array([column])), label)


def refine(desk, label):
    desk.workspace.labels.selected_label = label
    desk.session.refine()
    desk.settle()


def test_undo_works_on_the_layer_that_was_written(begun, squares):
    first = accept(begun, 1, 15, 15)
    accept(begun, 1, 15, 45)
    second = begun.viewer.add_labels(np.zeros(squares.shape, np.uint16), name="B")
    begun.workspace.choose_labels(second)
    begun.settle()
    begun.session.undo()
    assert begun.session.status.text == "Taken back in 'em – labels'"
    begun.settle()
    assert (set(np.unique(first.data)), len(begun.workspace.points.data)) == ({0, 1}, 1)
    assert not second.data.any()
    undo(begun)
    assert (set(np.unique(first.data)), len(begun.workspace.points.data)) == ({0}, 2)
    undo(begun)
    assert begun.session.ledger.steps == []


def test_undo_beyond_napari_s_history_ends_and_brings_the_prompts_back(begun):
    labels = accept(begun, 1, 15, 15)
    for i in range(120):
        paint(labels, 40 + i // 60, i % 60, 1000 + i)
    kept = len(labels._undo_history)
    for _ in range(kept):
        undo(begun)
        assert len(begun.workspace.points.data) == 0
    begun.session.undo()
    assert "napari forgot the edit" in begun.session.status.text
    begun.settle()
    assert begun.session.ledger.steps == []
    assert len(begun.workspace.points.data) == 1
    assert (labels.data == 1).sum() == 256


def test_paint_over_an_object_is_not_taken_for_the_object(begun):
    labels = accept(begun, 1, 15, 15)
    rows, columns = np.mgrid[8:24, 8:24].reshape(2, -1)
    labels.data_setitem((np.ones_like(rows), rows, columns), 0)
    paint(labels, 60, 60, 7)
    undo(begun)
    assert (labels.data == 7).sum() == 0
    assert len(begun.workspace.points.data) == 0
    undo(begun)
    assert (labels.data == 1).sum() == 256
    assert len(begun.workspace.points.data) == 0
    undo(begun)
    assert not labels.data.any()
    assert len(begun.workspace.points.data) == 1


def test_a_refine_that_only_shrinks_is_taken_back_with_its_marks_and_its_label(begun):
    labels = begun.workspace.labels
    rows, columns = np.mgrid[8:24, 8:60].reshape(2, -1)
    labels.data_setitem((np.ones_like(rows), rows, columns), 3)
    refine(begun, 3)
    begun.session.toggle_sign()
    begun.click(1, 15, 30)
    model = begun.engine.loaded
    model._one, fill = (lambda *args: shrunk(fill(*args))), model._one
    begun.session.toggle_sign()
    begun.click(1, 15, 45)
    begun.session.accept()
    begun.settle()
    assert (labels.data == 3).sum() == 16 * 20
    undo(begun)
    assert (labels.data == 3).sum() == 16 * 52
    assert len(begun.workspace.points.data) == 2
    assert begun.session.asking.picked[1].label == 3
    assert begun.session.ledger.steps == []
    begun.session.accept()
    begun.settle()
    assert set(np.unique(labels.data)) == {0, 3}
    assert (labels.data == 3).sum() == 16 * 20


def shrunk(prediction):
    prediction.logits[:, :, 28:] = 0
    return prediction


def test_a_discarded_refine_comes_back_as_a_refine(begun):
    labels = accept(begun, 1, 15, 15)
    refine(begun, 1)
    begun.session.discard()
    begun.settle()
    assert begun.session.asking.picked is None
    undo(begun)
    assert begun.session.asking.picked[1].label == 1
    begun.click(1, 15, 45)
    begun.session.accept()
    begun.settle()
    assert set(np.unique(labels.data)) == {0, 1}
    assert (labels.data == 1).sum() == 512


def test_the_prompts_come_back_when_the_output_is_gone(begun):
    labels = accept(begun, 1, 15, 15)
    begun.viewer.layers.remove(labels)
    begun.settle()
    begun.session.undo()
    assert "is gone" in begun.session.status.text
    begun.settle()
    assert len(begun.workspace.points.data) == 1
    assert begun.shown() is not None


def test_what_napari_took_back_itself_brings_only_the_prompts(begun):
    labels = accept(begun, 1, 15, 15)
    labels.undo()
    paint_before = labels.data.copy()
    undo(begun)
    np.testing.assert_array_equal(labels.data, paint_before)
    assert len(begun.workspace.points.data) == 1


def test_a_freed_id_is_given_again_but_not_if_napari_redid_it(begun):
    labels = accept(begun, 1, 15, 15)
    accept(begun, 1, 15, 45)
    undo(begun)
    undo(begun)
    begun.session.discard()
    begun.settle()
    accept(begun, 1, 15, 15)
    assert set(np.unique(labels.data)) == {0, 1}
    accept(begun, 1, 15, 45)
    assert set(np.unique(labels.data)) == {0, 1, 2}
    undo(begun)
    labels.redo()
    begun.session.discard()
    begun.settle()
    accept(begun, 1, 40, 40)
    assert set(np.unique(labels.data)) == {0, 1, 2, 3}


def test_undo_in_another_image_leaves_this_one_s_refine(begun, squares):
    accept(begun, 1, 15, 15)
    other = begun.viewer.add_image(squares[:, ::-1].copy(), name="two")
    begun.workspace.choose_image(other)
    begun.session.begin("points")
    begun.settle()
    number = begun.session.asking.object_id
    undo(begun)
    assert begun.session.asking.object_id == number
    begun.workspace.choose_image(begun.viewer.layers["em"])
    begun.settle()
    assert len(begun.workspace.points.data) == 1


@pytest.mark.parametrize("policy", list(OverlapPolicy))
def test_every_policy_is_taken_back_whole(begun, policy):
    labels = accept(begun, 1, 15, 15)
    before = labels.data.copy()
    begun.session.set_options(policy=policy)
    begun.click(1, 40, 40)
    begun.session.next_candidate()
    begun.session.accept()
    begun.settle()
    undo(begun)
    np.testing.assert_array_equal(labels.data, before)
