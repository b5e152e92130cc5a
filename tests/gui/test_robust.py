"""In the middle of a request: closing, removing, switching, two viewers. No error, no stale answer, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtWidgets import QInputDialog

from napari_zeroseg.errors import UnknownAxesError
from napari_zeroseg.jobs import shared_queue


@pytest.fixture
def fresh(shared_memory):
    """Forget all embeddings, so that a request takes its time."""
    shared_memory.store.clear_memory()
    shared_memory._views.clear()


@pytest.fixture
def asking(bench, stack, middle, fresh):
    """A bench whose click has just been asked about."""
    raw, _ = stack
    bench.viewer.add_image(raw, name="em")
    bench.viewer.dims.set_current_step(0, 1)
    bench.begin()
    bench.workspace.points.add(np.array([[1, *middle[0]]]))
    bench.until(lambda: bench.session.asking.is_waiting)
    return bench


@pytest.mark.parametrize("which", ["image", "points", "shapes", "labels", "preview"])
def test_removing_a_layer(asking, which):
    bench = asking
    layer = bench.session.preview.layer if which == "preview" else getattr(bench.workspace, which)
    bench.viewer.layers.remove(layer)
    bench.settle()
    bench.until(lambda: shared_queue().is_idle)
    bench.qtbot.wait(50)
    if which in ("image", "points"):
        assert not bench.session.preview.is_shown
        assert bench.session.asking.answer is None
    if which in ("shapes", "labels"):
        assert bench.session.asking.answer is not None


def test_switching_the_image(asking, stack):
    bench = asking
    first = bench.workspace.image
    second = bench.viewer.add_image(stack[0][:, ::-1], name="second")
    bench.dock.image.picked.emit(second)
    bench.until(lambda: shared_queue().is_idle)
    bench.settle()
    assert bench.session.asking.answer is None
    assert not bench.session.preview.is_shown
    bench.dock.image.picked.emit(first)
    bench.until(lambda: bench.session.asking.answer is not None)
    assert len(bench.workspace.points.data) == 1


def test_switching_the_model(asking):
    bench = asking
    bench.dock.precision.picked.emit("float32")
    bench.until(lambda: bench.session.loading is None)
    bench.until(lambda: bench.session.asking.answer is not None)
    assert bench.session.model.precision == "float32"
    assert bench.session.preview.is_shown


def test_moving_the_slider(asking):
    bench = asking
    bench.viewer.dims.set_current_step(0, 2)
    bench.settle()
    bench.until(lambda: shared_queue().is_idle)
    bench.qtbot.wait(50)
    assert not bench.session.preview.is_shown
    bench.viewer.dims.set_current_step(0, 1)
    bench.until(lambda: bench.session.asking.answer is not None)


def test_closing_the_viewer(asking):
    bench = asking
    session = bench.session
    bench.viewer.close()
    bench.qtbot.wait(100)
    shared_queue().close(30)
    bench.qtbot.wait(100)
    assert session.asking.answer is None


def test_closing_the_dock(asking):
    bench = asking
    session, points = bench.session, bench.workspace.points
    bench.viewer.window.remove_dock_widget(bench.dock)
    bench.until(lambda: session._channel.is_closed)
    assert [layer.name for layer in bench.viewer.layers if "preview" in layer.name] == []
    assert len(points.data) == 1
    points.add(np.array([[1, 5, 5]]))
    bench.qtbot.wait(50)
    _, dock = bench.viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
    bench.dock = dock
    assert dock.session.workspace.image is bench.viewer.layers["em"]


def test_two_viewers(open_bench, stack, middle, fresh):
    raw, _ = stack
    benches = [open_bench(), open_bench()]
    for bench in benches:
        bench.viewer.add_image(raw)
        bench.viewer.dims.set_current_step(0, 1)
        bench.begin()
    for bench in benches:
        bench.workspace.points.add(np.array([[1, *middle[0]]]))
    for bench in benches:
        bench.until(lambda bench=bench: bench.session.asking.answer is not None)
    one, other = benches
    one.dock.accept.click()
    assert one.workspace.labels.data.any()
    assert not other.workspace.labels.data.any()
    one.session.close()
    other.click(1, 30, 30)
    other.until(lambda: other.session.asking.answer is not None)


def test_a_file_with_unknown_axes_is_asked_about_once(make_napari_viewer, tmp_path, monkeypatch):
    """The first answer does not fit and is asked again; then the file opens, and later without a question."""
    np.save(tmp_path / "five.npy", np.arange(2 * 3 * 4 * 8 * 9, dtype=np.uint16).reshape(2, 3, 4, 8, 9))
    asked = []
    answers = iter([("ZYX", True), ("TZCYX", True)])

    def answer(parent, title, question):
        asked.append((title, question))
        return next(answers)

    monkeypatch.setattr(QInputDialog, "getText", answer)
    viewer = make_napari_viewer(show=True)
    (layer,) = viewer.open(tmp_path / "five.npy", plugin="napari-zeroseg")
    assert layer.data.shape == (2, 3, 4, 8, 9)
    assert [title for title, _ in asked] == ["Axes of five.npy"] * 2
    assert "ZYX names 3 axes. five.npy has 5 axes" in asked[1][1]
    assert viewer.open(tmp_path / "five.npy", plugin="napari-zeroseg")
    assert len(asked) == 2


def test_without_an_answer_the_file_is_refused_with_the_sentence(make_napari_viewer, tmp_path, monkeypatch):
    np.save(tmp_path / "five.npy", np.zeros((2, 3, 4, 8, 9), np.uint16))
    monkeypatch.setattr(QInputDialog, "getText", lambda *_: ("", False))
    viewer = make_napari_viewer(show=True)
    with pytest.raises(UnknownAxesError, match="axes without names"):
        viewer.open(tmp_path / "five.npy", plugin="napari-zeroseg")
    assert not viewer.layers
