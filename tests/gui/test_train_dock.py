"""The Train dock: a real run in a process of its own, stopped, found again by another dock, and gone on with."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QLabel

from napari_zeroseg._napari import train_watch
from napari_zeroseg._napari.plots import in_short
from napari_zeroseg._napari.segment import SegmentDock
from napari_zeroseg._napari.train import WHAT
from napari_zeroseg._napari.zoo import Zoo
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.registry import add_checkpoint
from napari_zeroseg.training import config as config_module
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.estimate import PRESETS
from napari_zeroseg.training.folder import RunFolder, find_runs, runs_home

PATIENCE = 240_000
QUICK = {"batch": 4, "epochs": 2, "variants": 1, "min_pixels": 30, "validation_objects": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def stack():
    """(5, 256, 256) planes and mitochondria, four a plane."""
    return em_like_stack(5, 256, seed=1)


@pytest.fixture
def open_dock(qtbot, monkeypatch, tmp_path_factory, stack, make_napari_viewer):
    """Open the dock on the stack, with a list of models of its own; whatever still runs in the end is killed."""
    cache = tmp_path_factory.getbasetemp() / "training-cache"
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    zoo = Zoo()
    monkeypatch.setattr("napari_zeroseg._napari.train.shared_zoo", lambda: zoo)
    # a test cannot wait for 300 steps
    monkeypatch.setitem(PRESETS, "CPU", QUICK)
    docks = []

    def open_(labels=stack[1]):
        viewer = make_napari_viewer()
        for name, planes in (("checked", slice(4, 5)), ("em", slice(0, 3))):
            viewer.add_image(stack[0][planes], name=name)
            viewer.add_labels(labels[planes], name="mito" if name == "em" else "mito checked")
        viewer.dims.set_current_step(0, 0)
        _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Train")
        dock.session.set_preset("CPU")
        dock.session.set_choices(prompts={"centre": 1.0, "box": 1.0})
        qtbot.waitUntil(lambda: dock.train.isEnabled() or dock.session.watch is not None, timeout=20_000)
        docks.append(dock)
        return dock

    yield open_
    for dock in docks:
        dock.session.close()
    for child in train_watch._children:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        child.wait(60)
    qtbot.waitUntil(lambda: all(entry.state for entry in zoo.entries.values()), timeout=20_000)


def text(dock):
    return dock.status.text().replace("\u200b", "")


@pytest.mark.slow
def test_a_run_outlives_its_dock_stops_and_goes_on(open_dock, qtbot):
    dock = open_dock()
    assert dock.pair_rows[0].image.currentText() == "em"
    assert dock.name.placeholderText() == "my-mito"
    validate_on_another_picture(dock)
    dock.train.click()
    qtbot.waitUntil(lambda: dock.session.watch is not None and bool(dock.session.watch.losses), timeout=PATIENCE)
    first = dock.session.watch
    assert not dock.train.isEnabled()
    assert first.process is not None
    assert first.told["pid"] != os.getpid()
    assert set(first.bases["dice"]) == {"centre", "box"}
    dock.pause.click()
    qtbot.waitUntil(lambda: first.state == "paused", timeout=PATIENCE)
    dock.viewer.window.remove_dock_widget(dock)
    # another napari finds it where it stands, and can steer it
    other = open_dock()
    watch = other.session.watch
    assert watch.folder == first.folder
    assert watch.losses == first.losses
    qtbot.waitUntil(lambda: other.pause.text() == "Resume" and "is paused" in text(other), timeout=5_000)
    other.stop.click()
    qtbot.waitUntil(lambda: watch.state == "stopped", timeout=PATIENCE)
    qtbot.waitUntil(lambda: other.go_on.isVisibleTo(other) and "Go on" in text(other), timeout=5_000)
    assert 0 < watch.step < watch.steps
    other.go_on.click()
    qtbot.waitUntil(lambda: watch.state == "done", timeout=PATIENCE)
    qtbot.waitUntil(lambda: "my-mito" in other.session.zoo.entries, timeout=20_000)
    qtbot.waitUntil(lambda: "In the model list as my-mito" in text(other), timeout=5_000)
    assert [step for step, _ in watch.losses] == list(range(1, watch.steps + 1))
    assert len(other.loss.lines[0].points) == watch.steps
    assert [line.name for line in other.score.lines if not line.dashed] == ["click", "box", "- - base"]
    assert sum(line.dashed for line in other.score.lines) == 2
    drawn = other.score.lines
    other.measure.buttons["dice"].click()
    assert other.score.lines != drawn
    assert other.score.lines[0].points == tuple(watch.scores["dice"]["centre"])
    assert "IoU" in other.figures.text()
    assert "my-mito" in other.card.toPlainText()
    assert "Apache-2.0" in other.card.toPlainText()
    assert states() == {"my-mito": "done"}
    assert not other.use.isHidden()
    key = "mobile_sam" if other.use_model.isHidden() else "my-mito"
    (other.use_base if other.use_model.isHidden() else other.use_model).click()
    _, segment = other.viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
    qtbot.waitUntil(lambda: segment.session.model.key == key and segment.session.models.loading is None, timeout=60_000)


def test_the_base_is_offered_and_taken(open_dock, qtbot):
    folder = RunFolder(runs_home() / "20260101-000000-mine")
    folder.path.mkdir(parents=True)
    folder.config.write_text("")
    folder.write_status("done", name="mine", verdict="The base was as good.", choice="base", base="mobile_sam")
    dock = open_dock()
    assert dock.use.isHidden()
    dock.session.show_run(folder)
    qtbot.waitUntil(lambda: not dock.use.isHidden(), timeout=5_000)
    assert dock.use_model.isHidden()
    dock.use_base.click()
    (segment,) = dock.viewer.window._qt_window.findChildren(SegmentDock)
    assert segment.session.model.key == "mobile_sam"
    dock.session.watch.told["choice"] = "unsure"
    dock._refresh()
    assert not dock.use_model.isHidden()
    assert not dock.use_base.isHidden()


def test_a_run_is_removed_after_a_question(open_dock, qtbot):
    folder = RunFolder(runs_home() / "20260102-000000-old")
    folder.path.mkdir(parents=True)
    folder.previews.mkdir()
    kept = folder.path / "notes.txt", folder.previews / "mine.png"
    for path in (folder.config, folder.last, folder.metrics_of(0), folder.previews / "step000003.png", *kept):
        path.write_text("x" * 1_000_000)
    folder.write_status("stopped", name="old")
    dock = open_dock()
    qtbot.waitUntil(lambda: not dock.remove_run.isHidden(), timeout=5_000)
    dock.remove_run.click()
    qtbot.waitUntil(lambda: not dock.question.isHidden(), timeout=5_000)
    assert "Remove the run old (4 MB)? What it has learnt is lost." in dock.question.text.text()
    dock.question.no.click()
    assert folder.last.exists()
    dock.remove_run.click()
    qtbot.waitUntil(lambda: not dock.question.isHidden(), timeout=5_000)
    dock.question.yes.click()
    qtbot.waitUntil(lambda: "The run old was removed" in text(dock), timeout=5_000)
    assert sorted(path for path in folder.path.rglob("*") if path.is_file()) == sorted(kept)
    assert folder not in list(find_runs())
    assert dock.remove_run.isHidden()


def validate_on_another_picture(dock):
    dock.add.click()
    layers, new = dock.viewer.layers, dock.pair_rows[1]
    new.image.picked.emit(layers["checked"])
    new.labels.picked.emit(layers["mito checked"])
    new.role.picked.emit("validation")


def states():
    return {folder.status()["name"]: folder.status()["state"] for folder in find_runs()}


def test_too_few_objects_is_one_sentence(open_dock, qtbot, stack):
    few = np.where(np.isin(stack[1], [1]), stack[1], 0)
    few[2:] = 0
    dock = open_dock(few)
    dock.train.click()
    qtbot.waitUntil(lambda: "10 are needed to start" in text(dock), timeout=20_000)
    assert dock.train.isEnabled()
    assert not list(find_runs())
    dock.pair_rows[0].planes.setText("nine")
    dock.train.click()
    qtbot.waitUntil(lambda: "was not understood: write 3, 0:20" in text(dock), timeout=20_000)


def test_the_same_layer_to_learn_and_to_validate_is_one_sentence(open_dock, qtbot):
    dock = open_dock()
    validate_on_another_picture(dock)
    dock.pair_rows[1].image.picked.emit(dock.viewer.layers["em"])
    dock.pair_rows[1].labels.picked.emit(dock.viewer.layers["mito"])
    dock.train.click()
    qtbot.waitUntil(lambda: "no object is left to learn from" in text(dock), timeout=20_000)
    assert dock.train.text() == "Train"
    assert not list(find_runs())


@pytest.mark.slow
def test_what_fits_is_measured_in_a_child(open_dock, qtbot):
    dock = open_dock()
    validate_on_another_picture(dock)
    dock.fits.click()
    qtbot.waitUntil(lambda: dock.fits.text() == "Stop measuring", timeout=5_000)
    qtbot.waitUntil(lambda: bool(dock.session.estimate), timeout=PATIENCE)
    qtbot.waitUntil(lambda: "GB of memory" in dock.estimate.text(), timeout=5_000)
    assert dock.train.isEnabled()
    assert not list(find_runs())


def test_what_it_sees_is_drawn_in_a_child(open_dock, qtbot):
    dock = open_dock()
    validate_on_another_picture(dock)
    assert not dock.picture.isVisibleTo(dock)
    dock.sees.click()
    qtbot.waitUntil(lambda: dock.sees.text() == "Stop drawing", timeout=5_000)
    qtbot.waitUntil(lambda: dock.session._child is not None, timeout=20_000)
    qtbot.waitUntil(lambda: dock.picture.isVisibleTo(dock), timeout=PATIENCE)
    assert dock.sees.text() == "What it sees"
    assert dock.session.sheet.startswith(b"\x89PNG")
    assert dock.picture.pixmap().width() == 290
    assert "will see" in text(dock)
    qtbot.mouseClick(dock.picture, Qt.MouseButton.LeftButton)
    (window,) = [one for one in dock.window().findChildren(QDialog) if one.windowTitle() == "What the network will see"]
    assert window.findChild(QLabel).pixmap().width() > 300
    window.close()
    assert not list(find_runs())


def test_drawing_is_stopped_and_what_is_wrong_is_told(open_dock, qtbot, monkeypatch):
    dock = open_dock()
    dock.sees.click()
    qtbot.waitUntil(lambda: dock.session._child is not None, timeout=20_000)
    dock.sees.click()
    qtbot.waitUntil(lambda: "Drawing was stopped" in text(dock), timeout=20_000)
    qtbot.waitUntil(lambda: dock.sees.text() == "What it sees" and dock.sees.isEnabled(), timeout=5_000)
    assert not dock.session.sheet
    told = []
    monkeypatch.setattr(dock.bridge, "report", told.append)
    dock.session.pairs[0].planes = "nine"
    dock.sees.click()
    qtbot.waitUntil(lambda: "was not understood" in text(dock), timeout=20_000)
    dock.session.pairs[0].planes = ""
    # what only the child finds out
    monkeypatch.setattr(TrainingConfig, "write", lambda self, path: path.write_text("name = 'a'"))
    dock.sees.click()
    qtbot.waitUntil(lambda: "'pairs' is missing" in text(dock), timeout=PATIENCE)
    assert len(told) == 2
    assert not dock.session.sheet


def test_what_is_offered_is_what_the_base_allows(open_dock, qtbot, tmp_path):
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    size = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPSegConfig(
        text_config=size | {"hidden_size": 32},
        vision_config=size | {"hidden_size": 32, "patch_size": 32, "image_size": 352},
        projection_dim=32,
        extract_layers=[0, 1],
        reduce_dim=64,
    )
    CLIPSegForImageSegmentation(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2")
    add_checkpoint(tmp_path, "clipseg_rd64", "reader")
    dock = open_dock()
    dock.session.zoo.refresh()
    offered = [dock.what.itemText(i) for i in range(dock.what.count())]
    assert offered == [name for _, name, _ in WHAT]
    assert {what for what, _, _ in WHAT} == set(config_module.WHAT)
    assert not dock.words_part.isVisibleTo(dock)
    dock.session.set_choices(what="lora")
    qtbot.waitUntil(lambda: "reader" in {entry.spec.key for entry in dock.session.bases}, timeout=20_000)
    dock.base.picked.emit("reader")
    qtbot.waitUntil(lambda: dock.words_part.isVisibleTo(dock), timeout=5_000)
    assert dock.session.choices.what == "decoder"
    assert [dock.what.itemText(i) for i in range(dock.what.count())] == ["mask decoder"]
    dock.train.click()
    qtbot.waitUntil(lambda: "say which words the labels stand for" in text(dock), timeout=20_000)
    dock.words.setText("mitochondrion=a")
    dock.train.click()
    qtbot.waitUntil(lambda: "phrases with the labels that they name" in text(dock), timeout=20_000)
    assert not list(find_runs())


def test_no_preset_leaves_what_was_chosen(open_dock):
    dock = open_dock()
    dock.session.set_choices(loss="tversky", what="class")
    for preset, what in (("", "class"), ("24 GB", "lora"), ("", "lora")):
        dock.more.preset.picked.emit(preset)
        assert (dock.session.choices.preset, dock.session.choices.what) == (preset, what)
        assert dock.session.choices.loss == "tversky"


def test_what_is_chosen_under_more_reaches_the_run(open_dock, qtbot):
    dock = open_dock()
    more = dock.more
    qtbot.waitUntil(lambda: more.device.currentText() == "cpu", timeout=5_000)  # the preset's, and shown
    assert (more.min_pixels.value(), more.epochs.value(), more.validation.value()) == (30, 2, 25)
    more.preset.picked.emit("8 GB")
    assert dock.session.choices.device == "auto"
    more.device.picked.emit("cpu")
    for box, value in ((more.min_pixels, 12), (more.validation, 40), (more.gap, 0), (more.epochs, 0)):
        box.setValue(value)
    more.any_orientation.click()
    settings = dock.session.choices.settings()
    wanted = {"min_pixels": 12, "validation": 0.4, "gap": 0, "epochs": None, "any_orientation": False, "device": "cpu"}
    assert {name: settings[name] for name in wanted} == wanted
    assert settings["batch"] == 32
    dock._refresh()
    assert (more.validation.value(), more.any_orientation.isChecked()) == (40, False)


@pytest.mark.slow
def test_more_gpus_than_there_are_is_one_sentence(open_dock, qtbot):
    dock = open_dock()
    dock.session.set_choices(preset="", device="auto")  # that of these tests takes the processor
    validate_on_another_picture(dock)
    dock.more.processes.setValue(64)
    dock.train.click()
    qtbot.waitUntil(lambda: "64 processes take a GPU each, and torch finds" in text(dock), timeout=PATIENCE)
    assert states() == {"my-mito": "failed"}


def test_small_values_are_not_shown_as_nothing():
    assert [in_short(value) for value in (0.97, 0.0, 2e-4, 1.0, 4.7e-5, -0.3)] == [
        "0.97",
        "0.00",
        "2e-4",
        "1.00",
        "5e-5",
        "-0.30",
    ]
