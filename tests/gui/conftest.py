"""The dock opened as users open it: through the manifest, in a viewer, with the embedded model."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from napari_zeroseg._napari import engine as engines
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.jobs import shared_queue
from napari_zeroseg.phantom import em_like_stack


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/gui" in item.path.as_posix():
            item.add_marker(pytest.mark.gui)


@pytest.fixture(scope="session")
def shared_memory():
    """One engine for all these tests, so that the model is loaded and the planes are encoded once."""
    engine = engines.Engine(store=EmbeddingStore())
    patch = pytest.MonkeyPatch()
    patch.setattr(engines, "shared_engine", lambda: engine)
    patch.setattr("napari_zeroseg._napari.session.shared_engine", lambda: engine)
    yield engine
    patch.undo()


@pytest.fixture(scope="session")
def stack():
    """A stack like electron microscopy, and its mitochondria."""
    return em_like_stack(planes=3, size=256, seed=1)


@dataclass
class Bench:
    """An open dock and what a test does with it."""

    viewer: Any
    dock: Any
    qtbot: Any

    @property
    def session(self):
        return self.dock.session

    @property
    def workspace(self):
        return self.dock.session.workspace

    def begin(self, kind="points"):
        self.until(self.dock.kinds.buttons[kind].isEnabled)
        self.dock.kinds.buttons[kind].click()
        self.until(lambda: self.session.preview.layer is not None)

    def until(self, condition, timeout=60_000):
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=timeout)

    def settle(self):
        """Wait until nothing is under way any more."""
        self.qtbot.wait(20)
        self.until(lambda: not self.session.asking.is_waiting and not self.session.asking._is_overdue)
        self.qtbot.wait(20)

    def rest(self):
        """Wait until the inference thread has nothing to do either."""
        self.settle()
        self.qtbot.wait(250)
        self.until(lambda: shared_queue().is_idle and not self.dock.bridge._calls)

    def click(self, *position):
        self.workspace.points.add(np.array(position, float))
        self.settle()


@pytest.fixture
def open_bench(make_napari_viewer, qtbot, shared_memory):
    benches = []

    def open_(*, show=False):
        viewer = make_napari_viewer(show=show)
        _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
        benches.append(Bench(viewer, dock, qtbot))
        return benches[-1]

    yield open_
    for bench in benches:
        bench.session.close(keep_layers=True)
    benches.clear()
    shared_queue().close(30)
    gc.collect()


@pytest.fixture
def bench(open_bench):
    return open_bench()


@pytest.fixture
def middle(stack):
    """(row, column) inside the largest mitochondrion of plane 1, and its mask."""
    _, truth = stack
    values, counts = np.unique(truth[1][truth[1] > 0], return_counts=True)
    mask = truth[1] == values[counts.argmax()]
    rows, columns = np.nonzero(mask)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return (float(rows[nearest]), float(columns[nearest])), mask
