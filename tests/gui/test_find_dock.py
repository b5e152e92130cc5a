"""Find the rest in the Stack dock: proposals accepted and rejected by key and button, undo, words that are taught."""

from __future__ import annotations

import gc
from contextlib import contextmanager

import numpy as np
import pytest
from napari.layers import Points, Shapes
from qtpy.QtCore import Qt

from napari_zeroseg._napari import turns
from napari_zeroseg._napari.find_work import LEARNT
from napari_zeroseg._napari.keys import FIND_KEYS
from napari_zeroseg._napari.preview import PROPOSALS
from napari_zeroseg._napari.stack_results import OneEdit
from napari_zeroseg.cascade.heat import is_taught
from napari_zeroseg.jobs import shared_queue
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.registry import add_checkpoint, load_model, remove_model
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.run import train
from napari_zeroseg.training.workbench import Workbench

PLANES, SIZE, SHOWN = 3, 256, 1
PATIENCE = 240_000
OWN = (7, 9)
"""Labels of the two objects that are there from the beginning."""


@pytest.fixture(scope="module")
def phantom():
    return em_like_stack(PLANES, SIZE, seed=1)


class Bench:
    """A viewer with the phantom, two of its objects labelled on the middle plane, and the dock."""

    def __init__(self, viewer, dock, qtbot, truth):
        self.viewer, self.dock, self.qtbot, self.truth = viewer, dock, qtbot, truth
        self.session, self.runner, self.finder = dock.session, dock.session.runner, dock.session.finder
        self.part = dock.proposals

    @property
    def own(self):
        return self.viewer.layers["own"]

    @property
    def inquiry(self):
        return self.finder.inquiry

    @property
    def keys(self):
        return {str(key) for key in self.viewer.keymap}

    def until(self, condition):
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=PATIENCE)

    def settle(self):
        for _ in range(2):  # what the window hears of may ask for more
            self.until(lambda: not self.runner.is_busy and shared_queue().is_idle)
            self.qtbot.wait(60)

    def begin(self, *, on_range=False):
        self.session.set_choices(find_on_range=on_range)
        self.until(self.dock.finding.start.isEnabled)
        self.dock.finding.start.click()

    def find(self, *, on_range=False):
        self.begin(on_range=on_range)
        self.until(lambda: self.inquiry is not None)
        self.settle()

    def under_way(self):
        self.until(lambda: self.runner.task is not None and self.runner.task.progress.done >= 1)

    def press(self, key, modifier=Qt.KeyboardModifier.NoModifier):
        self.qtbot.keyClick(self.viewer.window._qt_window, key, modifier)
        self.settle()

    def click(self, button):
        self.until(button.isEnabled)
        button.click()
        self.settle()

    def rows(self):
        texts = self.part.list.model()
        return [texts.data(texts.index(i, 0)) for i in range(texts.rowCount())]

    def log(self):
        return "\n".join(self.dock.log.item(i).text() for i in range(self.dock.log.count()))

    def full(self, proposal):
        mask = np.zeros(self.truth.shape, bool)
        rows, columns, inside = proposal.patch
        mask[proposal.plane, rows, columns] = inside
        return mask


@pytest.fixture
def bench(make_napari_viewer, qtbot, shared_memory, phantom, monkeypatch, tmp_path):
    monkeypatch.setattr("napari_zeroseg._napari.stack_session.shared_engine", lambda: shared_memory)
    monkeypatch.setattr(turns, "STEP", 0.0)
    monkeypatch.setenv("ZEROSEG_DATA_DIR", str(tmp_path))
    raw, truth = phantom
    viewer = make_napari_viewer()
    viewer.add_image(raw, name="em", scale=(2, 0.5, 0.5), translate=(0, 10, 20))
    own = np.zeros(truth.shape, np.uint16)
    numbers, areas = np.unique(truth[SHOWN][truth[SHOWN] > 0], return_counts=True)
    for label, number in zip(OWN, numbers[np.argsort(-areas)], strict=False):
        own[SHOWN][truth[SHOWN] == number] = label
    viewer.add_labels(own, name="own", scale=(2, 0.5, 0.5), translate=(0, 10, 20))
    viewer.dims.set_current_step(0, SHOWN)
    _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Stack")
    bench = Bench(viewer, dock, qtbot, truth)
    bench.until(lambda: dock.finding.start.isEnabled())
    yield bench
    dock.session.close()
    shared_queue().close(60)
    gc.collect()


@contextmanager
def told(bench, words):
    """Within it, the dock says something."""
    said = []

    def note():
        said.append(bench.runner.status.text)

    bench.runner.changed.connect(note)
    yield
    bench.runner.changed.disconnect(note)
    assert any(words in one for one in said), said


def test_nothing_is_asked_before_a_search(bench):
    assert bench.part.isHidden()
    assert bench.keys == {"G", "Shift+G"}
    assert not bench.dock.finding.teach.isEnabled()


def test_find_on_this_plane_and_answer_by_key(bench):
    bench.find()
    own, inquiry = bench.own, bench.inquiry
    before = own.data.copy()
    assert bench.part.isVisibleTo(bench.dock)
    certain = [one.certainty for one in inquiry.ranked]
    assert len(certain) >= 3
    assert certain == sorted(certain, reverse=True)
    assert {one.plane for one in inquiry.ranked} == {SHOWN}
    assert bench.rows()[0].startswith(f"{certain[0]:.2f}   plane {SHOWN} ")
    for one in inquiry.ranked:  # what is labelled is not proposed
        assert np.count_nonzero(before[bench.full(one)]) <= 0.5 * one.area

    first = inquiry.current
    assert first is inquiry.ranked[0]
    known = {id(one.patch[2]): one.certainty for one in inquiry.ranked}
    bench.press(Qt.Key.Key_A)
    drawn = bench.full(first) & (before == 0)
    assert (own.data[drawn] == OWN[-1] + 1).all()
    np.testing.assert_array_equal(own.data[~drawn], before[~drawn])
    assert all(one.patch is not first.patch for one in inquiry.ranked)
    assert any(known.get(id(one.patch[2])) != one.certainty for one in inquiry.ranked)

    second = inquiry.current
    assert second is inquiry.ranked[0]
    after = own.data.copy()
    bench.press(Qt.Key.Key_R)
    np.testing.assert_array_equal(own.data, after)
    assert all(one.patch is not second.patch for one in inquiry.ranked)
    assert "1 accepted, 1 rejected" in bench.part.summary.text()


def test_answers_rank_anew_without_the_model(bench, monkeypatch):
    bench.find(on_range=True)
    before = {id(one.patch[2]): one.certainty for one in bench.inquiry.ranked}
    monkeypatch.setattr("napari_zeroseg.view.View.predict", None)
    monkeypatch.setattr("napari_zeroseg.view.View.embedding", None)
    bench.click(bench.part.reject)
    assert bench.inquiry.ranked
    assert any(before.get(id(one.patch[2])) != one.certainty for one in bench.inquiry.ranked)


def test_what_was_rejected_sinks_in_the_next_search_too(bench):
    bench.find()
    first = bench.inquiry.current
    before = len(bench.inquiry.ranked)
    bench.press(Qt.Key.Key_R)
    bench.finder.done()
    bench.find()
    assert not any(one.patch[0] == first.patch[0] and one.plane == first.plane for one in bench.inquiry.ranked)
    assert len(bench.inquiry.ranked) < before


def test_a_proposal_that_is_selected_is_shown(bench):
    bench.find(on_range=True)
    inquiry = bench.inquiry
    assert len({one.plane for one in inquiry.ranked}) > 1
    number, other = next((i, one) for i, one in enumerate(inquiry.ranked) if one.plane != inquiry.current.plane)
    bench.part.list.setCurrentIndex(bench.part.list.model().index(number, 0))
    bench.settle()
    assert inquiry.current is other
    assert bench.viewer.dims.current_step[0] == other.plane
    rows, columns, mask = other.patch
    centre = bench.viewer.scene.camera.center if hasattr(bench.viewer, "scene") else bench.viewer.camera.center
    assert centre[-2:] == pytest.approx(
        (10 + (rows.start + rows.stop - 1) / 4, 20 + (columns.start + columns.stop - 1) / 4)
    )
    shown = inquiry.preview.layer
    assert shown.name == PROPOSALS
    assert shown.visible
    inside = np.argwhere(mask)[0] + (rows.start, columns.start)
    assert shown.get_value((2 * other.plane, 10 + inside[0] / 2, 20 + inside[1] / 2), world=True) == 1
    bench.click(bench.part.accept)
    assert (bench.own.data[bench.full(other)] == OWN[-1] + 1).any()
    bench.click(bench.part.back)
    assert inquiry.current.patch is other.patch
    assert bench.part.list.currentIndex().row() == number
    bench.click(bench.part.done)
    assert PROPOSALS not in bench.viewer.layers


@pytest.mark.parametrize("how", ["button", "key", "napari"])
def test_undo(bench, how):
    bench.find()
    own, inquiry = bench.own, bench.inquiry
    before, first = own.data.copy(), inquiry.current
    bench.press(Qt.Key.Key_A)
    assert (own.data != before).any()
    bench.press(Qt.Key.Key_R)
    if how == "button":
        bench.click(bench.part.back)
        assert (own.data != before).any()
        bench.click(bench.part.back)
    elif how == "key":
        bench.viewer.layers.selection.active = bench.viewer.layers["em"]
        bench.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        assert (own.data != before).any()
        bench.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    else:
        bench.viewer.layers.selection.active = own
        bench.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(own.data, before)
    # it is ranked anew on the inference thread
    bench.until(lambda: inquiry.current is not None and inquiry.current.patch is first.patch)
    bench.until(lambda: "0 accepted, 0 rejected" in bench.part.summary.text())
    bench.until(lambda: not bench.part.back.isEnabled())
    bench.press(Qt.Key.Key_A)
    assert own.data.max() == OWN[-1] + 1


def test_take_back_leaves_later_edits_alone(bench):
    bench.find()
    bench.press(Qt.Key.Key_A)
    bench.own.data_setitem((np.array([0]), np.array([0]), np.array([0])), 40)
    after = bench.own.data.copy()
    with told(bench, "was edited since"):
        bench.click(bench.part.back)
    np.testing.assert_array_equal(bench.own.data, after)
    bench.press(Qt.Key.Key_A)
    assert bench.own.data.max() == 41


def test_take_back_is_of_what_was_accepted_and_not_of_a_stroke_behind_it(bench, monkeypatch):
    """A brush may come between the writing and the end of the run."""
    bench.find(on_range=True)
    own, commit = bench.own, OneEdit.commit

    def commit_and_paint(edit):
        written = commit(edit)
        own.data_setitem((np.array([0]), np.array([0]), np.array([0])), 40)
        return written

    monkeypatch.setattr(OneEdit, "commit", commit_and_paint)
    bench.part.least.setValue(0)
    bench.click(bench.part.all_above)
    after = own.data.copy()
    with told(bench, "was edited since"):
        bench.click(bench.part.back)
    np.testing.assert_array_equal(own.data, after)


def test_accept_all_above(bench):
    bench.find(on_range=True)
    own, inquiry = bench.own, bench.inquiry
    before, ranked = own.data.copy(), list(inquiry.ranked)
    least = (ranked[1].certainty + ranked[2].certainty) / 2 if len(ranked) > 2 else 0.5
    bench.part.least.setDecimals(6)
    bench.part.least.setValue(least)
    chosen = [one for one in ranked if one.certainty >= bench.part.least.value()]
    assert 0 < len(chosen) < len(ranked)
    assert bench.part.all_above.text() == f"Accept {len(chosen)} above"
    bench.click(bench.part.all_above)
    assert set(np.unique(own.data)) == {0, *OWN, *range(10, 10 + len(chosen))}
    for number, one in enumerate(sorted(chosen, key=lambda one: [c.plane for c in chosen].index(one.plane)), 10):
        assert (own.data[bench.full(one)] == number).mean() > 0.5
    np.testing.assert_array_equal(own.data[before > 0], before[before > 0])
    assert f"{len(chosen)} accepted" in bench.part.summary.text()
    bench.click(bench.part.back)
    np.testing.assert_array_equal(own.data, before)
    assert [one.certainty for one in inquiry.ranked] == pytest.approx([one.certainty for one in ranked])


def test_only_empty_pixels_are_written(bench):
    bench.find()
    first, own = bench.inquiry.current, bench.own
    places = np.argwhere(bench.full(first))
    part = tuple(places[: len(places) // 4].T)
    own.data_setitem(part, 30)
    bench.press(Qt.Key.Key_A)
    assert (own.data[part] == 30).all()
    assert (own.data[tuple(places[len(places) // 4 :].T)] == 31).all()
    second = bench.inquiry.current
    own.data_setitem(np.nonzero(bench.full(second)), 50)
    after = own.data.copy()
    bench.press(Qt.Key.Key_A)
    np.testing.assert_array_equal(own.data, after)
    assert "labelled there already" in bench.log()


def test_keys_hold_while_there_are_proposals(bench):
    ours = {str(key.key) for key in FIND_KEYS}
    assert not bench.keys & ours
    bench.find()
    assert bench.keys >= ours
    data = bench.own.data.copy()
    count = len(bench.inquiry.ranked)
    points = bench.viewer.add_points(np.full((3, 3), 2 * SHOWN), name="marks")
    bench.press(Qt.Key.Key_A)
    assert len(points.selected_data) == 3
    shapes = bench.viewer.add_shapes(ndim=3, name="outlines")
    bench.press(Qt.Key.Key_R)
    assert shapes.mode == "add_rectangle"
    assert len(bench.inquiry.ranked) == count
    np.testing.assert_array_equal(bench.own.data, data)
    assert not [layer for layer in bench.viewer.layers if isinstance(layer, (Points, Shapes)) and layer.keymap]
    bench.click(bench.part.done)
    assert not bench.keys & ours
    assert bench.part.isHidden()


def test_a_key_of_somebody_else_stays_theirs(bench):
    heard = []
    bench.viewer.bind_key("A", heard.append)
    bench.find()
    data = bench.own.data.copy()
    bench.press(Qt.Key.Key_A)
    assert len(heard) == 1
    np.testing.assert_array_equal(bench.own.data, data)
    bench.click(bench.part.done)
    assert "A" in bench.keys


def test_cancel_in_the_middle_keeps_what_was_found(bench):
    bench.begin(on_range=True)
    bench.under_way()
    bench.dock.cancel.click()
    assert bench.runner.task is None
    bench.until(lambda: bench.inquiry is not None)
    bench.settle()
    assert "cancelled" in bench.log()
    assert SHOWN in {one.plane for one in bench.inquiry.ranked}
    bench.press(Qt.Key.Key_A)
    assert bench.own.data.max() == OWN[-1] + 1


@pytest.mark.parametrize("which", ["em", "own"])
@pytest.mark.parametrize("when", ["searching", "asking"])
def test_removing_a_layer_in_the_middle(bench, which, when):
    bench.begin(on_range=True)
    if when == "searching":
        bench.under_way()
    else:
        bench.until(lambda: bench.inquiry is not None)
    bench.viewer.layers.remove(which)
    bench.settle()
    assert f"'{which}' was removed" in bench.log()
    assert bench.inquiry is None
    assert bench.part.isHidden()
    assert bench.keys == {"G", "Shift+G"}
    assert PROPOSALS not in bench.viewer.layers


def test_removing_the_preview(bench):
    bench.find()
    bench.viewer.layers.remove(PROPOSALS)
    bench.press(Qt.Key.Key_R)
    assert bench.inquiry.preview.layer in bench.viewer.layers


@pytest.mark.parametrize("when", ["searching", "asking"])
def test_closing_the_dock_in_the_middle(bench, when):
    bench.begin(on_range=True)
    if when == "searching":
        bench.under_way()
    else:
        bench.until(lambda: bench.inquiry is not None)
    bench.viewer.window.remove_dock_widget(bench.dock)
    bench.until(lambda: bench.session._channel.is_closed and shared_queue().is_idle)
    bench.qtbot.wait(60)
    assert bench.keys == set()
    assert [layer.name for layer in bench.viewer.layers] == ["em", "own"]


@pytest.mark.parametrize("when", ["searching", "asking"])
def test_closing_the_viewer_in_the_middle(bench, when):
    bench.begin(on_range=True)
    if when == "searching":
        bench.under_way()
    else:
        bench.until(lambda: bench.inquiry is not None)
    bench.viewer.close()
    bench.qtbot.wait(100)
    shared_queue().close(60)
    bench.qtbot.wait(100)
    assert bench.session._channel.is_closed


def test_nothing_labelled(bench):
    bench.own.data = np.zeros_like(bench.own.data)
    with told(bench, "Nothing is labelled: accept an object in the Segment dock or paint one"):
        bench.begin()
        bench.settle()
    assert bench.inquiry is None


def test_no_labels_at_all(bench):
    bench.viewer.layers.remove("own")
    with told(bench, "There are no labels to begin from"):
        bench.begin()
        bench.settle()


def test_examples_of_the_nearest_plane(bench):
    bench.viewer.dims.set_current_step(0, 0)
    bench.find()
    assert {one.plane for one in bench.inquiry.ranked} == {0}


def test_teach_a_word_and_find_it(bench):
    bench.own.data = bench.truth.astype(np.uint16)
    bench.dock.finding.word.setText("Mitochondria")
    bench.click(bench.dock.finding.teach)
    assert "'mitochondria' is taught from 3 planes; IoU 0." in bench.log()
    assert "absence" in bench.log()
    assert bench.finder.words == ["mitochondria"]
    bench.until(lambda: bench.dock.finding.like.isVisibleTo(bench.dock))
    bench.own.data = np.zeros_like(bench.own.data)
    bench.dock.finding.like.picked.emit("mitochondria")
    bench.find()
    best = bench.full(bench.inquiry.ranked[0])
    assert (bench.truth[best] > 0).mean() > 0.7
    bench.press(Qt.Key.Key_A)
    assert bench.own.data.max() == 1


def test_a_word_is_taught_to_a_model_that_reads(bench, clipseg_folder):
    """Its weights are random here: the vector is fitted, kept, and found by the model as by the command line."""
    spec = add_checkpoint(clipseg_folder / "model.safetensors")
    bench.own.data = bench.truth.astype(np.uint16)
    bench.session.set_model(spec.key)
    bench.dock.finding.word.setText("Mitochondria")
    bench.click(bench.dock.finding.teach)
    assert "'mitochondria' is taught from 3 planes; IoU 0." in bench.log()
    assert "by the bare word" in bench.log()
    assert is_taught(load_model(spec.key, device="cpu"), "mitochondria")
    remove_model(spec.key)


def test_a_word_cannot_be_taught_without_labels(bench):
    bench.own.data = np.zeros_like(bench.own.data)
    bench.dock.finding.word.setText("vesicle")
    with told(bench, "'vesicle' cannot be taught"):
        bench.click(bench.dock.finding.teach)
    assert bench.finder.words == []


@pytest.mark.slow
def test_what_the_model_has_learnt_is_proposed_without_any_example(bench, phantom, monkeypatch):
    monkeypatch.setattr(Workbench, "step_seconds", lambda _: 1.0)
    raw, truth = phantom
    like = bench.dock.finding.like

    def is_offered():
        return any("learnt" in like.itemText(i) for i in range(like.count()))

    assert not is_offered()
    pairs = (TrainingPair(raw[:2], truth[:2]), TrainingPair(raw[2:], truth[2:], role="validation"))
    train(TrainingConfig("mine", pairs, what="class", epochs=20, variants=1, min_pixels=30, device="cpu"))
    bench.viewer.layers.remove("own")  # no example, and no labels: these are made
    bench.session.zoo.refresh()
    bench.until(lambda: "mine" in bench.session.zoo.entries)
    bench.session.set_model("mine")
    bench.until(is_offered)
    bench.session.set_choices(like=LEARNT)
    bench.find(on_range=True)
    ranked = bench.inquiry.ranked
    assert [one.certainty for one in ranked] == sorted((one.certainty for one in ranked), reverse=True)
    assert {one.plane for one in ranked} == set(range(PLANES))
    assert np.mean([(bench.truth > 0)[bench.full(one)].mean() for one in ranked[:3]]) > 0.5
    first = bench.inquiry.current
    bench.press(Qt.Key.Key_A)
    assert (bench.session.labels.data[bench.full(first)] > 0).all()
    bench.session.set_model("mobile_sam")
    bench.until(lambda: not is_offered())
    assert like.currentIndex() == 0  # like what is labelled
