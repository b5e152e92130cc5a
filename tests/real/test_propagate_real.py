"""Mitochondria of serial sections, outlined on one and followed through its neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from napari_zeroseg import load_model, propagate
from napari_zeroseg.metrics import iou
from napari_zeroseg.propagation import PropagationOptions

pytestmark = pytest.mark.real

MIDDLE = 10
WINDOW = np.s_[:, 256:768, 256:768]


def test_better_than_copying_and_sure_of_it(shared: Path):
    folder = shared / "data" / "em_vnc"
    raw = tifffile.imread(folder / "raw.tif")[MIDDLE - 2 : MIDDLE + 3][WINDOW]
    truth = tifffile.imread(folder / "mitochondria.tif")[MIDDLE - 2 : MIDDLE + 3][WINDOW] > 0
    components, count = ndimage.label(truth[2])
    sizes = np.bincount(components.ravel())
    seeds = np.where(np.isin(components, [n for n in range(1, count + 1) if sizes[n] >= 300]), components, 0)
    run = propagate(raw, load_model(device="cpu"), {2: seeds}, options=PropagationOptions(spacing=(50, 4.6, 4.6)))
    copied = [iou(seeds > 0, truth[z]) for z in (0, 1, 3, 4)]
    followed = [iou(run.labels(z) > 0, truth[z]) for z in (0, 1, 3, 4)]
    assert np.mean(followed) > np.mean(copied) + 0.1
    assert set(run.curve()) == {0, 1, 3, 4}
    assert np.mean(list(run.curve().values())) > 0.7
