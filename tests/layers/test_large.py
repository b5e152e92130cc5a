"""Objects of very many pixels are recorded as boxes; to the user they are edits like all others."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg._napari.output import _MANY
from napari_zeroseg.instances import OverlapPolicy

SIDE = 440
PIXELS = SIDE * SIDE
assert PIXELS > _MANY


def draw(planes=3):
    """A large square a plane, grey 100 at 40-479, with a small one in it, grey 200 at 200-209."""
    stack = np.full((planes, 512, 600), 20, np.uint8)
    stack[:, 40 : 40 + SIDE, 40 : 40 + SIDE] = 100
    stack[:, 200:210, 200:210] = 200
    return stack


@pytest.fixture
def begun(desk):
    desk.open(draw(), name="large")
    return desk


def accept(desk, *position):
    desk.click(*position)
    desk.session.accept()
    desk.settle()
    assert desk.bridge.errors == []
    return desk.workspace.labels


def counts(labels):
    values, numbers = np.unique(labels.data, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, numbers, strict=True) if v}


def test_accept_undo_redo(begun):
    labels = accept(begun, 1, 100, 100)
    assert counts(labels) == {1: PIXELS - 100}
    np.testing.assert_array_equal(labels.data[1] == 1, draw()[1] == 100)
    accept(begun, 1, 205, 205)
    labels.undo()
    labels.undo()
    assert counts(labels) == {}
    labels.redo()
    assert counts(labels) == {1: PIXELS - 100}
    np.testing.assert_array_equal(labels.data[1] == 1, draw()[1] == 100)


def test_undo_brings_the_marks_back_and_frees_the_number(begun):
    labels = accept(begun, 1, 100, 100)
    begun.session.undo()
    begun.settle()
    assert (counts(labels), len(begun.workspace.points.data)) == ({}, 1)
    begun.session.accept()
    begun.settle()
    assert counts(labels) == {1: PIXELS - 100}
    begun.session.undo_in_labels()
    begun.settle()
    assert (counts(labels), len(begun.workspace.points.data)) == ({}, 1)


def test_paint_after_it_is_undone_first(begun):
    labels = accept(begun, 1, 100, 100)
    labels.data_setitem((np.array([1]), np.array([500]), np.array([500])), 9)
    begun.session.undo()
    assert counts(labels) == {1: PIXELS - 100}
    begun.session.undo()
    begun.settle()
    assert counts(labels) == {}


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 0, 1), (1, 2, 0)])
def test_any_pair_of_axes(desk, order):
    desk.open(np.moveaxis(draw(3), (0, 1, 2), order), name="turned", rgb=False)
    desk.viewer.dims.order = order
    place = [0, 0, 0]
    for axis, at in zip(order, (1, 100, 100), strict=True):
        place[axis] = at
    desk.viewer.dims.set_current_step(order[0], 1)
    desk.settle()
    labels = accept(desk, *place)
    turned = np.moveaxis(draw(3), (0, 1, 2), order) == 100
    there = np.zeros_like(turned)
    index = [slice(None)] * 3
    index[order[0]] = 1
    there[tuple(index)] = turned[tuple(index)]
    np.testing.assert_array_equal(labels.data == 1, there)
    desk.session.undo()
    desk.settle()
    assert not labels.data.any()


def test_the_layer_on_the_screen_follows(begun):
    labels = accept(begun, 1, 100, 100)
    assert (np.asarray(labels._slice.image.raw) == labels.data[1]).all()
    begun.session.undo()
    begun.settle()
    assert not np.asarray(labels._slice.image.raw).any()


def test_what_napari_remembers_is_small(begun):
    labels = accept(begun, 1, 100, 100)
    ((_, before, after),) = labels._undo_history[-1]
    assert before.nbytes + after.nbytes <= 4 * PIXELS


def test_read_only_data_says_so(begun):
    data = np.zeros((3, 512, 600), np.uint16)
    data.flags.writeable = False
    begun.workspace.choose_labels(begun.viewer.add_labels(data, name="fixed"))
    begun.settle()
    begun.click(1, 100, 100)
    begun.session.accept()
    begun.settle()
    assert "'fixed' cannot be edited" in str(begun.bridge.errors[0])
    assert len(begun.workspace.points.data) == 1
    assert not begun.workspace.labels._undo_history


def test_drawn_again_it_loses_what_it_leaves(begun):
    labels = accept(begun, 1, 100, 100)
    labels.data_setitem((np.full(60, 1), np.full(60, 500), np.arange(60)), 1)
    output = begun.workspace.output
    target = output.target(begun.workspace.plane(), begun.viewer.dims)
    earlier = (slice(0, 512), slice(0, 600), labels.data[1] == 1)
    square = (slice(40, 60), slice(40, 60), np.ones((20, 20), bool))
    written = output.write(square, 1, OverlapPolicy.KEEP, target, earlier=earlier)
    output.show()
    assert counts(labels) == {1: 400}
    assert written.pixels == PIXELS - 100 + 60 - 400
    labels.undo()
    assert counts(labels) == {1: PIXELS - 100 + 60}
