"""The keys, pressed in the window, and napari's own, which stay napari's."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image, Labels, Points, Shapes
from qtpy.QtCore import QPoint, Qt

from napari_zeroseg._napari.keys import ENTER, ESCAPE, KEYS


@pytest.fixture
def clicked(bench, stack, middle):
    bench.viewer.add_image(stack[0], name="em")
    bench.viewer.dims.set_current_step(0, 1)
    bench.begin()
    bench.until(lambda: bench.workspace.labels is not None)
    bench.click(1, *middle[0])
    bench.until(lambda: bench.session.asking.answer is not None)
    return bench


def press(bench, key, modifier=Qt.KeyboardModifier.NoModifier):
    bench.qtbot.keyClick(bench.viewer.window._qt_window, key, modifier)
    bench.settle()


def test_keys_on_the_points_layer(clicked):
    session = clicked.session
    press(clicked, Qt.Key.Key_T)
    assert not session.is_positive
    press(clicked, Qt.Key.Key_T)
    assert session.is_positive
    press(clicked, Qt.Key.Key_M)
    assert session.asking.current[1] == 1
    press(clicked, Qt.Key.Key_Return)
    assert clicked.workspace.labels.data.any()
    press(clicked, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not clicked.workspace.labels.data.any()
    assert len(clicked.workspace.points.data) == 1
    number = session.asking.object_id
    press(clicked, Qt.Key.Key_N)
    assert session.asking.object_id == number + 1
    press(clicked, Qt.Key.Key_Escape)
    assert len(clicked.workspace.points.data) == 0
    press(clicked, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert len(clicked.workspace.points.data) == 1


def test_a_polygon_being_drawn_keeps_enter_and_escape(clicked):
    shapes = clicked.workspace.shapes
    clicked.viewer.layers.selection.active = shapes
    shapes.mode = "add_polygon"
    canvas = clicked.viewer.window._qt_viewer.canvas.native
    middle = canvas.rect().center()
    for right, down in ((0, 0), (40, 0), (40, 40)):
        clicked.qtbot.mouseMove(canvas, middle + QPoint(right, down))
        clicked.qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle + QPoint(right, down))
    assert shapes._is_creating
    press(clicked, Qt.Key.Key_Return)
    assert not shapes._is_creating
    assert len(shapes.data) == 1
    assert not clicked.workspace.labels.data.any()
    shapes.data = []
    clicked.until(lambda: clicked.session.asking.answer is not None)
    press(clicked, Qt.Key.Key_Return)
    assert clicked.workspace.labels.data.any()


def test_t_on_shapes_is_still_napari_s_path(clicked):
    clicked.viewer.layers.selection.active = clicked.workspace.shapes
    press(clicked, Qt.Key.Key_T)
    assert clicked.workspace.shapes.mode == "add_path"
    assert clicked.session.is_positive


def test_labels_keep_m_and_their_drawing_keys(clicked):
    labels = clicked.workspace.labels
    clicked.viewer.layers.selection.active = labels
    labels.data_setitem((np.array([0]), np.array([0]), np.array([0])), 7)
    press(clicked, Qt.Key.Key_M)
    assert labels.selected_label == 8
    assert clicked.session.asking.current[1] == 0
    labels.mode = "polygon"
    press(clicked, Qt.Key.Key_Return)
    assert not (labels.data == 8).any()
    labels.mode = "pan_zoom"
    press(clicked, Qt.Key.Key_Return)
    assert (labels.data == 8).any()
    press(clicked, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not (labels.data == 8).any()
    assert len(clicked.workspace.points.data) == 1


@pytest.mark.parametrize("kind", [Points, Shapes, Labels, Image])
def test_no_key_is_taken_from_a_layer(clicked, kind):
    """At the viewer, ours come after the layer's; on layers, only those that pass on while something is drawn."""
    for layer in clicked.viewer.layers:
        if isinstance(layer, kind):
            assert {key for key in layer.keymap if key not in (ENTER, ESCAPE)} <= {KEYS[-1].key}


def test_a_key_that_somebody_else_bound_stays_theirs(open_bench, make_napari_viewer, qtbot, shared_memory):
    viewer = make_napari_viewer()
    heard = []
    viewer.bind_key("n", heard.append)
    _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
    viewer.add_image(np.zeros((8, 8), np.uint8))
    qtbot.keyClick(viewer.window._qt_window, Qt.Key.Key_N)
    assert len(heard) == 1
    viewer.window.remove_dock_widget(dock)
    assert [str(key) for key in viewer.keymap] == ["N"]


def test_keys_are_given_back(clicked):
    keymap, shapes = clicked.viewer.keymap, clicked.workspace.shapes
    assert len(keymap) == len(KEYS)
    clicked.viewer.window.remove_dock_widget(clicked.dock)
    assert len(keymap) == 0
    assert len(shapes.keymap) == 0


def test_the_table_lists_them(clicked):
    assert [key.name for key in KEYS] == ["T", "M", "Enter", "Escape", "N", "Ctrl-Z"]
