"""Words in the Segment dock: with the small CLIPSeg added through the Models dock, and with toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from napari.utils.notifications import notification_manager

from napari_zeroseg.cascade.words import save_word, teach
from napari_zeroseg.devices import has_openvino
from napari_zeroseg.registry import load_model

CLIPSEG = "clipseg_rd16"


@pytest.fixture
def bench(open_models, toys, open_bench, stack):
    """The Segment dock on a stack, with the toys in the list."""
    opened = open_bench()
    opened.viewer.add_image(stack[0])
    opened.until(lambda: "toy_words" in opened.session.models.zoo.entries)
    opened.rest()
    return opened


def choose(bench, key):
    bench.dock.model.picked.emit(key)
    bench.until(lambda: bench.session.model.key == key)
    bench.settle()


def write(bench, line):
    bench.dock.text.line.setText(line)
    bench.dock.text.line.returnPressed.emit()
    bench.qtbot.wait(30)
    bench.settle()


def figures(bench):
    return [label.text() for label in bench.dock.text.legend.figures]


def test_the_line_says_why_it_cannot_be_used(bench):
    part = bench.dock.text
    assert part.isVisibleTo(bench.dock)
    assert not part.line.isEnabled()
    assert part.line.toolTip() == "MobileSAM takes no text: choose a model that does"
    choose(bench, "toy_words")
    assert part.line.isEnabled()
    assert "each a class of its own" in part.line.toolTip()
    buttons = bench.dock.kinds.buttons
    assert [kind for kind, button in buttons.items() if button.isEnabled()] == ["box"]
    assert buttons["points"].toolTip() == "Grey words takes no points"
    assert not bench.dock.sign.isEnabled()


def test_legend_threshold_and_accept(bench, stack):
    raw, _ = stack
    choose(bench, "toy_words")
    write(bench, "bright, dark")
    bench.until(lambda: all(figures(bench)))
    plane = raw[1] / 255
    assert figures(bench)[0].endswith(f"{(plane > 0.5).sum():,} px")
    bench.dock.text.threshold.setValue(70)
    bench.qtbot.wait(30)
    assert figures(bench)[0].endswith(f"{(plane > 0.7).sum():,} px")
    assert bench.dock.text.per_cent.text() == "0.70"
    assert bench.dock.mode.buttons[True].isChecked()
    bench.dock.accept.click()
    written = bench.workspace.labels.data[1]
    assert np.array_equal(written == 1, plane > 0.7)
    assert np.array_equal(written == 2, 1 - plane > 0.7)
    bench.qtbot.wait(30)
    assert not bench.dock.accept.isEnabled()
    bench.dock.undo.click()
    bench.until(lambda: bench.session.asking.answer is not None)
    assert not bench.workspace.labels.data.any()


def test_typing_is_answered_when_the_keyboard_rests(bench):
    choose(bench, "toy_words")
    bench.qtbot.keyClicks(bench.dock.text.line, "bright,")
    assert bench.session.options.text == ""
    bench.until(lambda: bench.session.asking.answer is not None)
    assert bench.session.options.text == "bright,"
    assert len(figures(bench)) == 1


def test_heat_map_button(bench):
    choose(bench, "toy_words")
    write(bench, "bright")
    bench.until(lambda: bench.dock.text.legend.heat[0].isEnabled())
    bench.dock.text.legend.heat[0].click()
    bench.until(lambda: "ZeroSeg heat map – bright" in bench.viewer.layers)
    bench.until(lambda: bench.dock.text.legend.heat[0].isChecked())
    choose(bench, "mobile_sam")
    bench.until(lambda: "ZeroSeg heat map – bright" not in bench.viewer.layers)


def test_words_on_a_box(bench):
    choose(bench, "toy_words")
    write(bench, "bright")
    bench.dock.kinds.buttons["box"].click()
    bench.workspace.shapes.add_rectangles(np.array([[1, 10, 10], [1, 10, 29], [1, 29, 29], [1, 29, 10]]))
    bench.settle()
    bench.dock.text.on_box.click()
    assert list(bench.workspace.shapes.features["text"]) == ["bright"]
    write(bench, "dark")
    bench.until(lambda: len(figures(bench)) == 2)


def test_a_model_that_is_not_here_opens_the_models_dock(bench):
    bench.dock.model.picked.emit("clipseg_rd64_refined")
    bench.until(lambda: any("Models" in name for name in bench.viewer.window.dock_widgets))
    models = next(dock for name, dock in bench.viewer.window.dock_widgets.items() if "Models" in name)
    assert models.key == "clipseg_rd64_refined"
    assert models.download.isVisibleTo(models)
    bench.qtbot.wait(30)
    assert bench.dock.model.currentText() == "MobileSAM · ready"
    assert "needs a download" in bench.dock.status.text()


def test_clipseg_from_file_to_classes(bench, clipseg_folder):
    said = []
    notification_manager.notification_ready.connect(said.append)
    bench.dock.model.picked.emit(CLIPSEG)
    bench.until(lambda: any("Models" in name for name in bench.viewer.window.dock_widgets))
    models = next(dock for name, dock in bench.viewer.window.dock_widgets.items() if "Models" in name)
    models.keeper.add(clipseg_folder / "model.safetensors")
    bench.until(lambda: bench.session.model.key == CLIPSEG)
    notification_manager.notification_ready.disconnect(said.append)
    assert not said
    write(bench, "mitochondrion, membrane")
    bench.until(lambda: bench.session.asking.answer is not None)
    found = bench.session.asking.answer.phrases
    assert found.phrases == ("mitochondrion", "membrane")
    bench.dock.text.threshold.setValue(1)
    bench.qtbot.wait(30)
    assert sum(found.pixels(0.01)) > 0.9 * 256 * 256
    bench.dock.accept.click()
    assert (bench.workspace.labels.data[1] > 0).mean() > 0.9
    bench.viewer.dims.set_current_step(0, 2)
    bench.until(lambda: bench.session.asking.plane.index[0] == 2 and bench.session.asking.answer is not None)
    assert bench.session.asking.answer.phrases.phrases == found.phrases
    models.show_model(CLIPSEG)
    models.remove.click()
    models.question.yes.click()
    bench.until(lambda: bench.session.model.key == "mobile_sam")


def test_devices_are_those_of_this_machine_once_torch_is_there(bench, middle):
    device = bench.dock.device
    assert [device.itemText(i) for i in range(device.count())][:2] == ["auto", "cpu"]
    bench.viewer.dims.set_current_step(0, 1)
    bench.begin()
    bench.click(1, *middle[0])
    bench.until(lambda: bench.session.models.devices is not None)
    bench.qtbot.wait(30)
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available()
    others = [*gpus, *(["openvino"] if has_openvino() else [])]
    assert [device.itemText(i) for i in range(device.count())] == ["auto", "cpu", *others]


def test_outline_each(bench, stack):
    """The dark insides of mitochondria, found by a word, are drawn by MobileSAM."""
    choose(bench, "toy_words")
    write(bench, "dark, bright")
    bench.until(lambda: all(figures(bench)))
    bench.dock.text.threshold.setValue(55)
    bench.qtbot.wait(30)
    bench.until(bench.dock.text.outline.isEnabled)
    bench.dock.text.outline.click()
    bench.until(lambda: bench.session.model.key == "mobile_sam" and bench.session.asking.answer is not None)
    assert len(bench.workspace.shapes.data) == len(bench.session.asking.answer.objects) > 0
    assert not bench.dock.text.outline.isVisibleTo(bench.dock)
    bench.dock.accept.click()
    bench.settle()
    assert bench.workspace.labels.data[1].any()
    assert not len(bench.workspace.shapes.data)
    bench.dock.undo.click()
    bench.settle()
    assert len(bench.workspace.shapes.data) > 0


def test_a_taught_word_in_the_line(bench, stack, tmp_path, monkeypatch):
    raw, truth = stack
    monkeypatch.setenv("ZEROSEG_DATA_DIR", str(tmp_path))
    save_word(teach("round things", load_model(device="cpu"), list(raw[:2]), list(truth[:2])))
    choose(bench, "toy_words")
    choose(bench, "mobile_sam")
    part = bench.dock.text
    bench.until(part.line.isEnabled)
    assert "round things" in part.line.toolTip()
    write(bench, "Round Things")
    bench.until(lambda: not bench.session.outlining.is_busy)
    bench.settle()
    assert len(bench.workspace.shapes.data) > 0
    bench.until(lambda: bench.session.asking.answer is not None)
    bench.dock.accept.click()
    bench.settle()
    found = bench.workspace.labels.data[1] > 0
    assert (found & (truth[1] > 0)).sum() / (found | (truth[1] > 0)).sum() > 0.6
    write(bench, "square things")
    assert "'square things' was not taught" in bench.dock.status.text()


def test_a_detector(bench, stack, yolos, monkeypatch):
    """Its boxes come into the layer, are drawn by MobileSAM, and are accepted as classes."""
    choose(bench, "toy_words")
    choose(bench, "mobile_sam")
    part = bench.dock.text.detector
    bench.dock.text.folded.heading.click()
    assert not bench.dock.text.line.isEnabled()
    assert not part.find_boxes.isEnabled()
    monkeypatch.setattr("qtpy.QtWidgets.QFileDialog.getExistingDirectory", lambda *_: str(yolos))
    part.choose.click()
    bench.until(part.find_boxes.isEnabled)
    assert part.name.text() == yolos.name
    assert bench.dock.text.line.isEnabled()
    part.least.setValue(0.05)
    part.find_boxes.click()
    bench.until(lambda: part.stop.isEnabled())
    bench.until(lambda: not bench.session.outlining.is_busy)
    bench.settle()
    shapes = bench.workspace.shapes
    assert len(shapes.data) > 2
    assert (shapes.features["score"] >= 0.05).all()
    bench.until(lambda: bench.session.asking.answer is not None)
    shapes.selected_data = {0}
    shapes.remove_selected()  # a box that is not wanted
    bench.settle()
    bench.until(lambda: bench.session.asking.answer is not None)
    bench.dock.accept.click()
    bench.settle()
    assert set(np.unique(bench.workspace.labels.data)) <= {0, 1, 2}
    assert bench.workspace.labels.data[1].any()
    assert not len(shapes.data)
    assert bench.dock.class_id.value() == bench.session.options.class_id
    write(bench, "axon")
    bench.until(lambda: "does not know 'axon'" in bench.dock.status.text())
    bench.dock.text.line.setText("dendrite")
    bench.dock.text.line.textEdited.emit("dendrite")
    part.find_boxes.click()  # before the keyboard has rested
    bench.until(lambda: "does not know 'dendrite'" in bench.dock.status.text())
