"""The Segment dock at work with the embedded model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QScrollArea

from napari_zeroseg._napari.widgets import Folded
from napari_zeroseg.metrics import iou


def as_mask(bench):
    """The preview on the whole plane."""
    asking = bench.session.asking
    full = np.zeros(asking.plane.shape, bool)
    for rows, columns, mask in asking.patches:
        full[rows, columns] |= mask
    return full


def test_click_preview_accept_undo(bench, stack, middle):
    raw, _ = stack
    place, mask = middle
    bench.viewer.add_image(raw, name="em", scale=(50, 5, 5))
    bench.viewer.dims.set_current_step(0, 1)
    bench.begin()
    bench.click(1, *place)
    bench.until(lambda: bench.session.asking.answer is not None)
    assert bench.session.preview.is_shown
    one, _ = bench.session.asking.current
    assert len(one.scores) == 3
    bench.until(lambda: "candidate 1 of 3 (IoU" in bench.dock.candidates.text.text())
    assert iou(as_mask(bench), mask) > 0.6
    bench.dock.accept.click()
    assert iou(bench.workspace.labels.data[1] == 1, mask) > 0.6
    bench.qtbot.wait(20)
    assert bench.dock.undo.isEnabled()
    bench.dock.undo.click()
    assert not bench.workspace.labels.data.any()
    bench.until(lambda: bench.session.asking.answer is not None)
    assert len(bench.workspace.points.data) == 1


def test_box(bench, stack, middle):
    raw, _ = stack
    _, mask = middle
    bench.viewer.add_image(raw)
    bench.viewer.dims.set_current_step(0, 1)
    bench.begin("box")
    assert bench.workspace.shapes.mode == "add_rectangle"
    rows, columns = np.nonzero(mask)
    r0, c0, r1, c1 = rows.min(), columns.min(), rows.max(), columns.max()
    bench.workspace.shapes.add_rectangles(np.array([[1, r0, c0], [1, r0, c1], [1, r1, c1], [1, r1, c0]]))
    bench.until(lambda: bench.session.asking.answer is not None)
    assert iou(as_mask(bench), mask) > 0.7


def test_encoding_ahead_makes_the_click_cheap(bench, stack, middle):
    raw, _ = stack
    place, _ = middle
    bench.viewer.add_image(raw)
    bench.viewer.dims.set_current_step(0, 1)
    bench.begin()
    bench.rest()
    assert "Plane 1 encoded" in bench.session.status.text
    bench.click(1, *place)
    bench.until(lambda: bench.session.asking.answer is not None)
    assert bench.session.asking.answer.encoding == 0


def test_the_dock_follows_the_viewer(bench, stack):
    raw, _ = stack
    dock, points = bench.dock, bench.dock.kinds.buttons["points"]
    bench.until(lambda: "Open an image" in dock.status.text())
    assert not points.isEnabled()
    image = bench.viewer.add_image(raw, name="em")
    bench.until(lambda: dock.image.currentText() == "em")
    assert bench.workspace.image is image
    assert points.isEnabled()
    image.name = "renamed"
    bench.until(lambda: dock.image.currentText() == "renamed")
    bench.viewer.dims.ndisplay = 3
    bench.until(lambda: "2-D display" in dock.status.text())
    bench.until(lambda: not points.isEnabled())
    bench.viewer.dims.ndisplay = 2
    bench.until(points.isEnabled)


def test_buttons_say_what_is_in_use(bench, stack):
    raw, _ = stack
    bench.viewer.add_image(raw)
    buttons = bench.dock.kinds.buttons
    for kind, mode in (("points", "add"), ("box", "add_rectangle"), ("mask", "add_polygon_lasso")):
        bench.begin(kind)
        bench.rest()
        assert bench.viewer.layers.selection.active.mode == mode
        assert [k for k, button in buttons.items() if button.isChecked()] == [kind]
    bench.workspace.shapes.mode = "pan_zoom"
    bench.until(lambda: not any(button.isChecked() for button in buttons.values()))


def test_options_reach_the_session(bench, stack):
    raw, _ = stack
    dock = bench.dock
    bench.viewer.add_image(raw)
    dock.mode.buttons[True].click()
    dock.class_id.setValue(3)
    dock.live.setChecked(False)
    dock.batched.setChecked(True)
    dock.overlap.setCurrentIndex(1)
    dock.overlap.activated.emit(1)
    dock.field.activated.emit(2)
    bench.qtbot.wait(30)
    options = bench.session.options
    assert (options.semantic, options.class_id, options.live, options.batched) == (True, 3, False, True)
    assert (options.policy, options.field) == ("replace", 512)
    bench.until(lambda: dock.class_id.isVisibleTo(dock))
    bench.until(lambda: dock.predict.isVisibleTo(dock))


def test_preview_is_not_offered_as_output(bench, stack):
    raw, _ = stack
    bench.viewer.add_image(raw, name="em")
    bench.begin()
    bench.until(lambda: bench.workspace.labels is not None)
    bench.dock.labels.show_layer(bench.workspace.labels)
    names = [bench.dock.labels.itemText(i) for i in range(bench.dock.labels.count())]
    assert names == ["new Labels layer", "em – labels"]


@pytest.mark.parametrize("device", ["cuda"])
def test_a_model_that_cannot_run_leaves_the_present_one(bench, stack, device):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device that must be missing")
    raw, _ = stack
    bench.viewer.add_image(raw)
    said = []
    notification_manager.notification_ready.connect(said.append)
    bench.dock.device.picked.emit(device)
    bench.until(lambda: bench.session.loading is None)
    notification_manager.notification_ready.disconnect(said.append)
    assert "choose auto or cpu" in said[-1].message
    bench.qtbot.wait(30)
    assert bench.dock.device.currentText() == "auto"
    assert bench.session.model.device == "auto"


def test_opening_the_dock_loads_no_torch():
    script = """
import sys
import napari
viewer = napari.Viewer(show=False)
viewer.add_image(__import__("numpy").zeros((4, 64, 64), "uint8"))
viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
print("torch" in sys.modules)
viewer.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split()[-1] == "False"


def test_nothing_is_cut_off_in_a_narrow_dock(bench, stack):
    bench.viewer.add_image(stack[0], name="em")
    for folded in bench.dock.findChildren(Folded):
        folded.heading.setChecked(True)
    bench.dock.class_id.setVisible(True)
    bench.dock.candidates.show_candidate(1, 3, 0.93, "object 12")
    area = bench.dock.findChild(QScrollArea)
    beside = area.verticalScrollBar().sizeHint().width()
    assert area.widget().minimumSizeHint().width() <= bench.dock.minimumWidth() - beside


def test_candidates_say_of_which_object_they_are(bench, stack, middle):
    bench.viewer.add_image(stack[0], name="em")
    bench.viewer.dims.set_current_step(0, 1)
    bench.begin()
    bench.click(1, *middle[0])
    bench.dock.next.click()
    bench.click(1, 5, 5)
    bench.until(lambda: "object 2: candidate 1 of 3" in bench.dock.candidates.text.text())
    bench.dock.batched.setChecked(True)
    bench.until(lambda: "object 2: candidate 1 of 3" in bench.dock.candidates.text.text())


def test_deleting_the_last_point_empties_the_dock(bench, stack, middle):
    bench.viewer.add_image(stack[0], name="em")
    bench.viewer.dims.set_current_step(0, 1)
    bench.begin()
    bench.click(1, *middle[0])
    bench.until(bench.dock.accept.isEnabled)
    bench.workspace.points.selected_data = {0}
    bench.workspace.points.remove_selected()
    bench.until(lambda: not bench.dock.accept.isEnabled())
    assert bench.dock.candidates.text.text() == "no preview"
    assert "Click on an object" in bench.dock.status.text()


def test_3d_right_after_the_slider(bench, stack):
    bench.viewer.add_image(stack[0], name="em")
    bench.begin()
    bench.rest()
    bench.viewer.dims.set_current_step(0, 2)
    bench.qtbot.wait(50)
    bench.viewer.dims.ndisplay = 3
    bench.qtbot.wait(400)
    assert "2-D display" in bench.session.status.text


def test_a_mark_is_smaller_than_a_small_mitochondrion(bench, stack):
    bench.viewer.add_image(np.tile(stack[0], (1, 4, 4)), name="em")
    bench.begin()
    points = bench.workspace.points
    assert points.current_size <= 4
    assert max(points.canvas_size_limits) <= 11
