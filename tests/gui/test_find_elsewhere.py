"""Find the rest in the Stack dock with the examples of another image that is open."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from napari_zeroseg._napari.find_elsewhere import Pair, labels_for, owner_of, pairs
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg.jobs import shared_queue
from napari_zeroseg.metrics import iou
from napari_zeroseg.phantom import em_like_stack

PATIENCE = 240_000


def test_whose_labels(make_napari_viewer):
    viewer, shape = make_napari_viewer(), (3, 8, 9)
    first, second = (viewer.add_image(np.zeros(shape), name=name) for name in ("a", "b"))
    labels = viewer.add_labels(np.zeros(shape, np.uint8), name="a – labels")
    loose = viewer.add_labels(np.zeros(shape, np.uint8), name="loose")
    assert owner_of(viewer, labels) is first
    assert owner_of(viewer, loose) is None
    assert labels_for(viewer, second, [labels]) is None
    assert labels_for(viewer, second, [labels, loose]) is loose
    assert labels_for(viewer, first, [loose, labels]) is labels
    offered = list(pairs(viewer, second, labels))
    assert Pair(first, labels) in offered
    assert list(pairs(viewer, first, labels)) == [Pair(second, loose)]
    workspace = Workspace(viewer)
    workspace.choose_image(second)
    workspace.choose_labels(loose)
    workspace.close()
    loose.name = "a – taken"
    assert owner_of(viewer, loose) is second
    _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Stack")
    assert dock.session.image is second
    assert dock.session.labels is loose
    viewer.layers.remove(loose)
    dock.session.choose_labels(None)
    dock._choose_layers()
    assert dock.session.labels is None
    dock.session.close()


@pytest.fixture
def bench(make_napari_viewer, qtbot, shared_memory, monkeypatch):
    """The dock on one plane, and another picture with two labelled objects, of another shape."""
    monkeypatch.setattr("napari_zeroseg._napari.stack_session.shared_engine", lambda: shared_memory)
    raw, truth = em_like_stack(2, 256, seed=1)
    viewer = make_napari_viewer()
    image = viewer.add_image(raw[1][None], name="searched")
    viewer.add_image(raw[:, :220, :240], name="other")
    labels = np.zeros((2, 220, 240), np.uint8)
    numbers, areas = np.unique(truth[0, :220, :240][truth[0, :220, :240] > 0], return_counts=True)
    for number in numbers[np.argsort(-areas)][:2]:
        labels[0][truth[0, :220, :240] == number] = number
    viewer.add_labels(labels, name="theirs")
    viewer.dims.set_current_step(0, 0)
    _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Stack")
    dock.session.choose_image(image)
    dock.session.choose_labels(None)
    qtbot.waitUntil(dock.finding.start.isEnabled, timeout=PATIENCE)
    yield viewer, dock, qtbot, truth
    dock.session.close()
    shared_queue().close(60)
    gc.collect()


def names(dock):
    return [dock.finding.examples.itemText(i) for i in range(dock.finding.examples.count())]


def choose(dock, qtbot, name):
    qtbot.waitUntil(lambda: name in names(dock), timeout=PATIENCE)
    dock.finding.examples.setCurrentIndex(names(dock).index(name))
    dock.finding.examples.activated.emit(names(dock).index(name))
    qtbot.wait(30)


def test_what_looks_like_the_objects_of_another_image(bench):
    viewer, dock, qtbot, truth = bench
    assert dock.finding.examples.isVisibleTo(dock)
    choose(dock, qtbot, "examples from other · theirs")
    dock.finding.start.click()
    qtbot.waitUntil(lambda: dock.session.finder.inquiry is not None, timeout=PATIENCE)
    found = np.zeros(truth.shape[1:], bool)
    for one in dock.session.finder.inquiry.ranked:
        if one.certainty > 0.5:
            found[one.patch[0], one.patch[1]] |= one.patch[2]
    assert iou(found, truth[1] > 0) > 0.3
    qtbot.waitUntil(dock.proposals.accept.isEnabled, timeout=PATIENCE)
    qtbot.waitUntil(lambda: shared_queue().is_idle, timeout=PATIENCE)
    qtbot.wait(60)  # until the labels are counted, and the window has heard of it
    dock.proposals.accept.click()
    qtbot.waitUntil(lambda: dock.session.labels is not None and dock.session.labels.data.any(), timeout=PATIENCE)
    assert dock.session.labels.data.shape == (1, 256, 256)  # made for it
    assert not viewer.layers["theirs"].data[1].any()


def test_an_image_without_labels_of_its_shape(bench):
    viewer, dock, qtbot, _ = bench
    viewer.add_image(np.zeros((50, 60), np.uint8), name="bare")
    choose(dock, qtbot, "examples from bare")
    dock.finding.start.click()
    qtbot.waitUntil(
        lambda: "'bare' has no labels of its shape (50, 60)" in dock.session.runner.status.text, timeout=999
    )
    assert dock.session.labels is None
    viewer.layers["theirs"].data[:] = 0
    choose(dock, qtbot, "examples from other · theirs")
    dock.finding.start.click()
    words = "Nothing is labelled on other · theirs"
    qtbot.waitUntil(lambda: words in dock.session.runner.status.text, timeout=PATIENCE)


def test_a_layer_that_goes_away(bench):
    viewer, dock, qtbot, _ = bench
    choose(dock, qtbot, "examples from other · theirs")
    assert dock.session.choices.examples is not None
    viewer.layers.remove("theirs")
    qtbot.wait(30)
    assert dock.session.choices.examples is None
    assert names(dock) == ["examples from this image", "examples from other"]
