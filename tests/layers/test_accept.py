"""What becomes of a preview: accepted, discarded, taken back, refined. Nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from napari.layers import Labels

from napari_zeroseg.instances import OverlapPolicy


@pytest.fixture
def begun(desk, squares):
    desk.open(squares, name="em")
    return desk


def accept(desk):
    desk.session.accept()
    desk.settle()


def counts(labels):
    values, numbers = np.unique(labels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, numbers, strict=True) if v}


def test_accept_writes_an_object_and_the_next_one_begins(begun):
    begun.click(1, 15, 15)
    accept(begun)
    begun.click(1, 15, 45)
    accept(begun)
    assert counts(begun.workspace.labels.data) == {1: 256, 2: 256}
    assert begun.workspace.labels.data[1, 15, 15] == 1
    assert len(begun.workspace.points.data) == 0
    assert begun.shown() is None
    assert begun.session.status.text == "Object 2 accepted, 256 pixels"


def test_accept_right_after_the_click_waits_for_the_answer(begun):
    begun.engine.loaded.slowness = 0.05
    begun.workspace.points.add([[1, 15, 15]])
    begun.session.accept()
    assert not begun.workspace.labels.data.any()
    begun.settle()
    assert counts(begun.workspace.labels.data) == {1: 256}


def test_a_mark_after_accept_was_pressed_is_not_accepted_unseen(begun):
    begun.engine.loaded.slowness = 0.05
    begun.workspace.points.add([[1, 15, 15]])
    begun.session.accept()
    begun.workspace.points.add([[1, 15, 45]])
    begun.settle()
    assert counts(begun.workspace.labels.data) in ({}, {1: 512})


def test_accept_of_nothing_says_what_to_do(begun):
    begun.session.accept()
    assert "Nothing to accept" in begun.session.status.text
    assert begun.bridge.errors == []


def test_undo_brings_labels_and_marks_back(begun):
    begun.click(1, 15, 15)
    begun.session.toggle_sign()
    begun.click(1, 40, 40)
    shown = begun.shown()[1].data.copy()
    accept(begun)
    begun.session.undo()
    begun.settle()
    assert not begun.workspace.labels.data.any()
    assert list(begun.workspace.points.features["sign"]) == ["positive", "negative"]
    np.testing.assert_array_equal(begun.shown()[1].data, shown)
    accept(begun)
    assert counts(begun.workspace.labels.data) == {1: 256}


def test_napari_s_own_undo_brings_the_marks_back_too(begun):
    begun.click(1, 15, 15)
    accept(begun)
    begun.session.undo_in_labels()
    begun.settle()
    assert not begun.workspace.labels.data.any()
    assert len(begun.workspace.points.data) == 1


def test_undo_takes_back_what_was_painted_after_first(begun):
    begun.click(1, 15, 15)
    accept(begun)
    labels = begun.workspace.labels
    labels.data_setitem((np.array([1]), np.array([60]), np.array([60])), 7)
    begun.session.undo()
    assert counts(labels.data) == {1: 256}
    assert begun.session.ledger.steps
    begun.session.undo()
    begun.settle()
    assert counts(labels.data) == {}
    assert len(begun.workspace.points.data) == 1
    begun.session.undo()
    assert begun.session.status.text == "Nothing to take back"


def test_undo_reaches_other_planes(begun):
    begun.click(1, 15, 15)
    accept(begun)
    begun.viewer.dims.set_point(0, 2)
    begun.settle()
    begun.click(2, 15, 15)
    accept(begun)
    begun.viewer.dims.set_point(0, 0)
    begun.settle()
    for left in ({1: 256}, {}):
        begun.session.undo()
        begun.settle()
        assert counts(begun.workspace.labels.data) == left
    assert sorted(begun.workspace.points.data[:, 0]) == [1, 2]


def test_discard_and_undo(begun):
    begun.click(1, 15, 15)
    begun.workspace.shapes.add_rectangles(np.array([[1, 5, 5], [1, 5, 9], [1, 9, 9], [1, 9, 5]]))
    begun.settle()
    begun.session.discard()
    begun.settle()
    assert begun.shown() is None
    assert len(begun.workspace.points.data) == len(begun.workspace.shapes.data) == 0
    begun.session.undo()
    begun.settle()
    assert len(begun.workspace.points.data) == len(begun.workspace.shapes.data) == 1
    assert begun.workspace.shapes.shape_type == ["rectangle"]
    assert begun.shown() is not None


def test_marks_on_other_planes_stay(begun):
    begun.workspace.points.add([[2, 15, 15], [1, 15, 15]])
    begun.settle()
    accept(begun)
    np.testing.assert_allclose(begun.workspace.points.data, [[2, 15, 15]])


def test_batched_accept_is_one_undo_step(begun):
    begun.session.set_options(batched=True)
    begun.workspace.points.add([[1, 15, 15], [1, 15, 45]])
    begun.settle()
    accept(begun)
    assert counts(begun.workspace.labels.data) == {1: 256, 2: 256}
    begun.workspace.labels.undo()
    assert not begun.workspace.labels.data.any()


def test_semantic_writes_the_class(begun):
    begun.session.set_options(semantic=True, class_id=5)
    for column in (15, 45):
        begun.click(1, 15, column)
        accept(begun)
    assert counts(begun.workspace.labels.data) == {5: 512}
    assert begun.session.status.text.startswith("Class 5")


def test_the_class_of_a_box_goes_before_the_chosen_one(begun):
    begun.session.set_options(semantic=True, batched=True, class_id=5)
    shapes = begun.workspace.shapes
    for column in (8, 40):
        shapes.add_rectangles([[1, 8, column], [1, 8, column + 15], [1, 23, column + 15], [1, 23, column]])
    shapes.features = shapes.features.assign(**{"class": [3, np.nan]})
    begun.settle()
    accept(begun)
    assert counts(begun.workspace.labels.data) == {3: 256, 5: 256}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OverlapPolicy.KEEP, {1: 256, 2: 64 * 64 - 256}),
        (OverlapPolicy.REPLACE, {2: 64 * 64}),
        (OverlapPolicy.EMPTY, {1: 256, 2: 64 * 64 - 256}),
    ],
)
def test_overlap(begun, policy, expected):
    begun.click(1, 15, 15)
    accept(begun)
    begun.session.set_options(policy=policy)
    begun.click(1, 40, 40)
    begun.session.next_candidate()
    begun.session.next_candidate()
    accept(begun)
    assert counts(begun.workspace.labels.data) == expected


def test_an_object_that_nobody_would_see_is_refused(begun):
    for _ in range(2):
        begun.click(1, 15, 15)
        accept(begun)
    assert "belongs to another object" in str(begun.bridge.errors[0])
    assert len(begun.workspace.points.data) == 1
    assert len(begun.session.ledger.steps) == 1


def test_ids_go_on_above_all_that_is_there(begun, squares):
    data = np.zeros(squares.shape, np.int32)
    data[0, 0, 0] = 41
    begun.workspace.choose_labels(begun.viewer.add_labels(data))
    begun.workspace.points.add([[1, 15, 15]])
    begun.session.accept()
    begun.settle()
    assert counts(data) == {41: 1, 42: 256}
    begun.workspace.labels.data_setitem((np.array([0]), np.array([0]), np.array([1])), 99)
    begun.click(1, 15, 45)
    accept(begun)
    assert counts(data)[100] == 256


def test_data_that_is_replaced_is_counted_again(begun, squares):
    begun.workspace.labels.data = np.full(squares.shape, 3, np.uint16)
    begun.settle()
    begun.session.set_options(policy=OverlapPolicy.REPLACE)
    begun.click(1, 15, 15)
    accept(begun)
    assert counts(begun.workspace.labels.data)[4] == 256


def test_a_full_layer_is_said(begun, squares):
    data = np.zeros(squares.shape, np.uint8)
    data[0, 0, 0] = 255
    begun.workspace.choose_labels(begun.viewer.add_labels(data))
    begun.click(1, 15, 15)
    accept(begun)
    assert "wider data type" in str(begun.bridge.errors[0])
    assert begun.shown() is not None


def test_output_of_another_scale(begun, squares):
    labels = begun.viewer.add_layer(Labels(np.zeros((3, 32, 32), np.uint16), scale=(1, 2, 2), translate=(0, 0.5, 0.5)))
    begun.workspace.choose_labels(labels)
    begun.click(1, 15, 15)
    accept(begun)
    assert counts(labels.data) == {1: 64}
    assert labels.data[1, 4:12, 4:12].all()
    begun.session.undo()
    assert not labels.data.any()


def test_output_in_a_file(begun, squares, tmp_path):
    store = zarr.open_array(tmp_path / "labels.zarr", mode="w", shape=squares.shape, chunks=(1, 32, 32), dtype="uint16")
    begun.workspace.choose_labels(begun.viewer.add_labels(store))
    begun.settle()
    begun.click(1, 15, 15)
    accept(begun)
    assert begun.bridge.errors == []
    assert counts(store[:]) == {1: 256}


def test_output_that_cannot_be_edited_is_said(begun, squares):
    fixed = np.zeros(squares.shape, np.uint16)
    fixed.flags.writeable = False
    begun.workspace.choose_labels(begun.viewer.add_labels(fixed))
    begun.click(1, 15, 15)
    accept(begun)
    assert "cannot be edited" in str(begun.bridge.errors[0])
    assert len(begun.workspace.points.data) == 1


def test_refine_rewrites_the_label_and_brings_its_marks_back(begun):
    begun.click(1, 15, 15)
    accept(begun)
    labels = begun.workspace.labels
    labels.selected_label = 1
    begun.session.refine()
    begun.settle()
    assert len(begun.workspace.points.data) == 1
    assert begun.shown() is not None
    begun.session.toggle_sign()
    begun.workspace.points.add([[1, 15, 45]])
    begun.session.toggle_sign()
    begun.workspace.points.add([[1, 15, 45]])
    begun.settle()
    accept(begun)
    assert counts(labels.data) == {1: 512}
    begun.session.undo()
    assert counts(labels.data) == {1: 256}


def test_refined_object_loses_what_is_no_longer_in_the_mask(begun):
    labels = begun.workspace.labels
    labels.data_setitem((np.array([1, 1]), np.array([15, 60]), np.array([15, 60])), 9)
    labels.selected_label = 9
    begun.session.refine()
    begun.settle()
    begun.workspace.points.add([[1, 15, 15]])
    begun.settle()
    accept(begun)
    assert counts(labels.data)[9] >= 256


def test_refine_of_a_label_that_is_elsewhere_is_said(begun):
    begun.workspace.labels.selected_label = 4
    begun.session.refine()
    assert "not on this plane" in str(begun.bridge.errors[0])


def test_a_hidden_output_is_written_all_the_same(begun):
    begun.workspace.labels.visible = False
    begun.viewer.dims.set_point(0, 2)
    begun.settle()
    begun.click(2, 15, 15)
    accept(begun)
    begun.workspace.labels.visible = True
    assert counts(begun.workspace.labels.data[2]) == {1: 256}
