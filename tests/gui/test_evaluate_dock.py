"""The Evaluate dock: two layers compared off the window's thread, rows that lead to the place, the table as CSV."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog

from napari_zeroseg._napari.layers import camera_of
from napari_zeroseg.evaluation.evaluate import evaluate
from napari_zeroseg.phantom import em_like_stack


@pytest.fixture
def pair():
    """A prediction that is one pixel off, misses object 2 and invents one in a corner; and the truth."""
    _, truth = em_like_stack(planes=4, size=128, seed=1)
    prediction = np.roll(truth, 1, axis=2)
    prediction[prediction == 2] = 0
    prediction[3, :12, 100:112] = 40
    return prediction, truth


@pytest.fixture
def dock(make_napari_viewer, pair):
    viewer = make_napari_viewer()
    scale = {"scale": (0.05, 0.004, 0.004), "units": ("um", "um", "um")}
    viewer.add_labels(pair[1], name="truth", **scale)
    viewer.add_labels(pair[0], name="found", **scale)
    _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Evaluate")
    return dock


def cells(dock, column):
    return [dock.rows.index(i, column).data() for i in range(dock.rows.rowCount())]


def test_figures_jump_and_csv(dock, pair, qtbot, tmp_path, monkeypatch):
    assert (dock.prediction.currentText(), dock.truth.currentText()) == ("found", "truth")
    dock.run.click()
    qtbot.waitUntil(lambda: dock.report is not None, timeout=60_000)
    expected = evaluate(*pair, (0.05, 0.004, 0.004), unit="um")
    assert dock.report.foreground.iou == pytest.approx(expected.foreground.iou)
    assert dock.report.foreground.hd95 == pytest.approx(expected.foreground.hd95)
    assert f"{expected.foreground.iou:.3f}" in dock.status.text()
    assert "HD95" in dock.figures.text()
    assert "µm" in dock.figures.text()
    assert dock.found.isVisibleTo(dock)
    # the worst come first: the missed one and the invented one
    assert set(cells(dock, 0)[:2]) == {"2", "+ 40"}
    number = cells(dock, 0).index("+ 40")
    dock.viewer.dims.set_current_step(0, 0)
    dock.table.clicked.emit(dock.rows.index(number, 0))
    assert dock.viewer.dims.current_step[0] == 3
    place = np.array(camera_of(dock.viewer).center[-2:]) / 0.004
    assert pair[0][3][tuple(np.round(place).astype(int))] == 40
    dock.kind.buttons["plane"].click()
    assert sorted(cells(dock, 1)) == ["0", "1", "2", "3"]
    path = tmp_path / "rows.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    dock.save.click()
    with path.open() as file:
        assert len(list(csv.DictReader(file))) == len(expected.rows())


def test_this_plane_and_what_is_wrong(dock, qtbot):
    dock.viewer.dims.set_current_step(0, 2)
    dock.extent.buttons[True].click()
    dock.run.click()
    qtbot.waitUntil(lambda: dock.report is not None, timeout=60_000)
    assert {row.plane for row in dock.report.planes} == {2}
    dock.ignore.setText("many")
    dock.run.click()
    assert "whole number" in dock.status.text()
    dock.ignore.clear()
    dock.viewer.add_labels(np.zeros((2, 20, 30), np.uint8), name="small")
    dock.prediction.picked.emit(dock.viewer.layers["small"])
    dock.run.click()
    qtbot.waitUntil(lambda: "one shape" in dock.status.text(), timeout=60_000)
    assert dock.run.isEnabled()
