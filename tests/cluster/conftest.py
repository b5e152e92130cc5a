"""A cluster of two worker processes, which all tests of a module share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("distributed", reason="runs on clusters need dask.distributed")

from napari_zeroseg.cluster import Recipe, connected

TOYS = Path(__file__).parents[1] / "data" / "toys"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOYS))  # which the workers' processes inherit
        patch.setenv("ZEROSEG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ZEROSEG_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        with connected(workers=2) as client:
            yield client


@pytest.fixture
def recipe() -> Recipe:
    return Recipe("toy_flood")


@pytest.fixture
def source(tmp_path) -> Path:
    """Nine planes of noise, of which one is dark, read lazily by dask."""
    raw = np.random.default_rng(0).integers(0, 255, (9, 64, 80), np.uint8)
    raw[4] = 0
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, raw, compression="zlib")
    return path
