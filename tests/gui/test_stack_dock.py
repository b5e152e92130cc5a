"""The Stack dock: propagate, cancel, pause, everything, link and undo, the curve, layers removed in the middle."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_zeroseg._napari import turns
from napari_zeroseg._napari.curve import Curve, CurveData
from napari_zeroseg.jobs import shared_queue
from napari_zeroseg.link import Branches
from napari_zeroseg.metrics import iou
from napari_zeroseg.phantom import em_like_stack

PLANES, SIZE, SEED = 5, 192, 2
PATIENCE = 240_000


@pytest.fixture(scope="module")
def phantom():
    return em_like_stack(PLANES, SIZE, seed=3)


class Bench:
    """A viewer with the phantom and the dock, and what a test does with them."""

    def __init__(self, viewer, dock, qtbot, truth):
        self.viewer, self.dock, self.qtbot, self.truth = viewer, dock, qtbot, truth
        self.session, self.runner = dock.session, dock.session.runner

    @property
    def found(self):
        return self.session.results.layer.data

    def until(self, condition):
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=PATIENCE)

    def settle(self):
        self.until(lambda: not self.runner.is_busy and shared_queue().is_idle)
        self.qtbot.wait(60)

    def propagate(self):
        self.until(self.dock.propagate.isEnabled)
        self.dock.propagate.click()

    def under_way(self):
        self.until(lambda: self.runner.task is not None and self.runner.task.progress.done > 0)

    def log(self):
        return "\n".join(self.dock.log.item(i).text() for i in range(self.dock.log.count()))


@pytest.fixture
def bench(make_napari_viewer, qtbot, shared_memory, phantom, monkeypatch):
    monkeypatch.setattr("napari_zeroseg._napari.stack_session.shared_engine", lambda: shared_memory)
    monkeypatch.setattr(turns, "STEP", 0.0)
    raw, truth = phantom
    viewer = make_napari_viewer()
    viewer.add_image(raw, name="em")
    own = np.zeros(truth.shape, np.uint16)
    own[SEED] = truth[SEED]
    viewer.add_labels(own, name="own")
    viewer.dims.set_current_step(0, SEED)
    _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Stack")
    dock.session.set_search(points_per_side=6, pred_iou_thresh=0.7, stability_score_thresh=0.8)
    bench = Bench(viewer, dock, qtbot, truth)
    bench.until(lambda: dock.propagate.isEnabled())
    yield bench
    dock.session.close()
    shared_queue().close(60)
    gc.collect()


def test_layers_are_chosen(bench):
    assert bench.dock.image.currentText() == "em"
    assert bench.dock.labels.currentText() == "own"
    assert "MobileSAM" in bench.dock.model.currentText()
    assert not bench.dock.again.isEnabled()
    assert not bench.dock.take.isEnabled()
    assert bench.dock.run.isHidden()


def test_where_it_runs_is_chosen(bench, shared_memory):
    bench.dock.more.device.picked.emit("cpu")
    bench.dock.more.precision.picked.emit("float32")
    choice = bench.session.choices.model
    assert (choice.key, choice.device, choice.precision) == ("mobile_sam", "cpu", "float32")
    bench.until(lambda: bench.dock.more.precision.currentText() == "float32")
    bench.session.set_model("mobile_sam")
    assert bench.session.choices.model == choice
    bench.dock.everything.click()
    bench.settle()
    assert choice in shared_memory._models


def test_propagate_curve_and_flags(bench):
    bench.session.set_choices(threshold=1.0)
    bench.propagate()
    bench.under_way()
    bench.until(lambda: bench.dock.progress.value() > 0)
    assert "left" in bench.runner.status.text
    assert bench.dock.run.isVisibleTo(bench.dock)
    bench.settle()
    objects = [n for n in np.unique(bench.truth) if n]
    for plane in range(PLANES):
        assert np.mean([iou(bench.found[plane] == n, bench.truth[plane] == n) for n in objects]) > 0.7
    assert "followed through" in bench.log()
    assert bench.dock.labels.currentText() == "own"
    curve = bench.dock.curve
    assert set(curve.data.certainty) == {0, 1, 3, 4}
    assert curve.data.outlined == (SEED,)
    curve.resize(300, 110)
    place = curve.place_of(4, 0.5)
    bench.qtbot.mouseClick(curve, Qt.MouseButton.LeftButton, pos=QPoint(int(place.x()), int(place.y())))
    assert bench.viewer.dims.current_step[0] == 4
    flagged = sorted(curve.data.flagged)
    bench.viewer.window._qt_viewer.canvas.native.setFocus()
    next_flag = next(binding for key, binding in bench.viewer.keymap.items() if str(key) == "G")
    next_flag(bench.viewer)
    assert bench.viewer.dims.current_step[0] == flagged[0]
    bench.until(bench.dock.next.isEnabled)
    bench.dock.next.click()
    assert bench.viewer.dims.current_step[0] == flagged[1]
    assert f"plane {flagged[1]}" in curve.words_of(flagged[1])


def test_correct_and_propagate_again(bench):
    bench.propagate()
    bench.settle()
    before = bench.found.copy()
    number = int(before[3].max())
    layer = bench.session.results.layer
    layer.data_setitem(np.nonzero((before == number) & _only(3)), 0)
    bench.until(bench.dock.again.isEnabled)
    bench.dock.again.click()
    bench.settle()
    assert not (bench.found[3:] == number).any()
    np.testing.assert_array_equal(bench.found[:3], before[:3])


def _only(plane):
    return (np.arange(PLANES) == plane)[:, None, None]


def test_cancel_pause_and_resume(bench):
    bench.propagate()
    bench.under_way()
    bench.dock.pause.click()
    bench.until(lambda: bench.dock.pause.text() == "Resume" and shared_queue().is_idle)
    bench.qtbot.wait(60)
    done = bench.runner.task.progress.done
    bench.qtbot.wait(100)
    assert bench.runner.task.progress.done == done
    bench.dock.pause.click()
    bench.until(lambda: bench.runner.task is None or bench.runner.task.progress.done > done)
    bench.dock.cancel.click()
    assert bench.runner.task is None
    bench.settle()
    assert "cancelled" in bench.log()
    assert bench.dock.run.isHidden()
    assert bench.found[SEED].any()


def test_everything_on_this_plane_and_take_over(bench):
    bench.dock.everything.click()
    bench.settle()
    assert len(np.unique(bench.found[SEED])) > 3
    assert not bench.found[0].any()
    assert bench.dock.save.isEnabled()
    own = bench.viewer.layers["own"]
    before = own.data.copy()
    assert bench.dock.take.isEnabled()
    bench.dock.take.click()
    bench.settle()
    assert (own.data != before).any()
    own.undo()
    np.testing.assert_array_equal(own.data, before)


def test_room_and_branches_are_chosen(bench):
    more = bench.dock.more
    assert (more.room.text(), more.branches.currentText()) == ("all there is", "join")
    more.room.setValue(0.5)
    more.branches.picked.emit(Branches.CUT)
    assert (bench.session.choices.room, bench.session.choices.branches) == (0.5, Branches.CUT)
    bench.until(lambda: (more.room.text(), more.branches.currentText()) == ("0.5 GB", "cut"))


def test_objects_of_a_class_are_kept(bench):
    more, right = bench.dock.more, np.zeros(bench.truth.shape, np.uint8)
    right[:, :, SIZE // 2 :] = 5
    assert more.class_map.currentText() == "all"
    assert not more.keep.isEnabled()
    layer = bench.viewer.add_labels(right, name="right")
    more.class_map.picked.emit(layer)
    bench.until(more.keep.isEnabled)
    assert more.class_map.currentText() == "right"
    more.keep.setText("5")
    bench.dock.everything.click()
    bench.settle()
    assert bench.found[SEED].any()
    assert all(row["column1"] >= SIZE // 2 for row in bench.session.results.table)
    bench.viewer.layers.remove(layer)
    bench.until(lambda: more.class_map.currentText() == "all")


def test_link_and_undo(bench):
    data = np.where(bench.truth > 0, bench.truth + 20 * np.arange(PLANES)[:, None, None], 0)
    layer = bench.viewer.add_labels(data.copy(), name="sections")
    bench.dock.labels.picked.emit(layer)
    bench.until(bench.dock.link.isEnabled)
    bench.dock.link.click()
    bench.settle()
    assert all(len(np.unique(layer.data[bench.truth == n])) == 1 for n in np.unique(bench.truth) if n)
    layer.undo()
    np.testing.assert_array_equal(layer.data, data)


@pytest.mark.parametrize("which", ["em", "em – propagated"])
def test_removing_a_layer_in_the_middle(bench, which):
    bench.propagate()
    bench.under_way()
    bench.viewer.layers.remove(which)
    bench.settle()
    assert "was removed" in bench.log()
    assert bench.dock.image.currentText() == ("no image" if which == "em" else "em")


def test_closing_the_dock_in_the_middle(bench):
    bench.propagate()
    bench.under_way()
    found = bench.found
    bench.viewer.window.remove_dock_widget(bench.dock)
    bench.until(lambda: bench.session._channel.is_closed and shared_queue().is_idle)
    bench.qtbot.wait(60)
    assert found[SEED].any()
    assert not [key for key in bench.viewer.keymap if str(key) == "G"]


def test_closing_the_viewer_in_the_middle(bench):
    bench.propagate()
    bench.under_way()
    bench.viewer.close()
    bench.qtbot.wait(100)
    shared_queue().close(60)
    bench.qtbot.wait(100)
    assert bench.session._channel.is_closed


def test_clicks_go_first(bench, shared_memory):
    """A click is answered while everything is being segmented, not behind it."""
    _, segment = bench.viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
    try:
        segment.session.begin("points")
        bench.until(lambda: segment.session.preview.layer is not None and shared_queue().is_idle)
        bench.session.set_choices(on_range=True)
        bench.session.set_search(points_per_side=16, points_per_batch=8)
        bench.dock.everything.click()
        bench.under_way()
        segment.session.workspace.points.add(np.array([[SEED, 90.0, 90.0]]))
        bench.until(lambda: segment.session.asking.answer is not None)
        assert bench.runner.task is not None
        bench.dock.cancel.click()
        bench.settle()
    finally:
        segment.session.close(keep_layers=True)


def test_the_curve_draws_and_tells(qtbot):
    curve = Curve()
    qtbot.addWidget(curve)
    curve.resize(300, 110)
    empty = curve.grab().toImage()
    curve.show_data(CurveData(range(4, 14), {5: 0.9, 6: 0.4, 8: 1.0}, {6: ("unsure (object 3)", 0.1)}, (7,), 0.8), 6)
    assert curve.grab().toImage() != empty
    assert [curve.plane_at(curve.place_of(plane, 0).x()) for plane in range(4, 14)] == list(range(4, 14))
    assert curve.plane_at(-5) == 4
    assert curve.plane_at(1000) == 13
    assert curve.words_of(6) == "plane 6: certainty 0.40; look at it: unsure (object 3)"
    assert curve.words_of(7) == "plane 7: outlined"
    assert curve.words_of(9) == "plane 9"
