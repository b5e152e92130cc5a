"""The embedded model and a generated plane whose truth is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import tifffile

from napari_zeroseg import View, load_model
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.segmenter import Segmenter


class Scene(NamedTuple):
    """Two neighbouring planes, seen by the model, and their truth."""

    views: list[View]
    truth: np.ndarray

    def masks(self, plane: int, count: int) -> list[np.ndarray]:
        """The largest objects of a plane."""
        sizes = np.bincount(self.truth[plane].ravel())
        sizes[0] = 0
        return [self.truth[plane] == label for label in np.argsort(-sizes)[:count]]


@pytest.fixture(scope="session")
def model() -> Segmenter:
    return load_model(device="cpu")


@pytest.fixture(scope="session")
def scene(model) -> Scene:
    raw, truth = em_like_stack(2, 384)
    return Scene([View(model, plane) for plane in raw], truth)


@pytest.fixture
def files(scene, tmp_path):
    """The planes as raw.tif, their truth as truth.tif, and three objects of the first plane as some.tif."""
    tifffile.imwrite(tmp_path / "raw.tif", np.stack([view.picture for view in scene.views]))
    labels = scene.truth.astype(np.uint16)
    tifffile.imwrite(tmp_path / "truth.tif", labels)
    some = np.where(np.isin(labels, np.unique(labels[0][labels[0] > 0])[:3]), labels, 0)
    some[1] = 0
    tifffile.imwrite(tmp_path / "some.tif", some)
    return tmp_path
