"""The dock opened as users open it: through the manifest, in a viewer, with the embedded model."""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from napari_zeroseg._napari import engine as engines
from napari_zeroseg._napari.zoo import Zoo
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.jobs import shared_queue
from napari_zeroseg.phantom import em_like_stack

SIZES = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


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


@pytest.fixture
def open_models(qtbot, shared_memory, monkeypatch):
    """Open the Models dock in a viewer, through the manifest, with a list of its own."""
    zoo = Zoo()
    monkeypatch.setattr("napari_zeroseg._napari.models.shared_zoo", lambda: zoo)
    monkeypatch.setattr("napari_zeroseg._napari.session.shared_zoo", lambda: zoo)
    monkeypatch.setattr("napari_zeroseg._napari.models.shared_engine", lambda: shared_memory)

    def open_(viewer):
        _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Models", tabify=True)
        qtbot.waitUntil(lambda: all(entry.state for entry in zoo.entries.values()), timeout=20_000)
        qtbot.wait(30)
        return dock

    yield open_
    for key in list(zoo.errands):
        zoo.cancel(key)
    qtbot.waitUntil(lambda: not zoo.errands, timeout=20_000)


@pytest.fixture(scope="session")
def clipseg_folder(tmp_path_factory, clip_words):
    """A folder as transformers saves it: a small CLIPSeg with random weights and all of CLIP's words."""
    folder = tmp_path_factory.mktemp("clipseg")
    for file in clip_words.iterdir():
        shutil.copy(file, folder)
    config = CLIPSegConfig(
        text_config=SIZES | {"vocab_size": 49408, "hidden_size": 32, "bos_token_id": 49406, "eos_token_id": 49407},
        vision_config=SIZES | {"hidden_size": 48, "num_hidden_layers": 5, "patch_size": 16, "image_size": 224},
        projection_dim=24,
        extract_layers=[1, 2, 3],
        reduce_dim=16,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )
    torch.manual_seed(0)
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    return folder
