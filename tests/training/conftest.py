"""Small labelled stacks whose truth is known, and the embedded model trained on one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.training.config import TrainingConfig, TrainingPair

Stack = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="session")
def stack() -> Stack:
    """(5, 256, 256) planes and mitochondria; four a plane."""
    return em_like_stack(5, 256, seed=1)


@pytest.fixture
def short(stack: Stack) -> Callable[..., TrainingConfig]:
    """A run that takes seconds: three planes to learn from, one to validate on."""
    raw, truth = stack

    def make(**settings: object) -> TrainingConfig:
        pairs = (TrainingPair(raw[:3], truth[:3]), TrainingPair(raw[4:], truth[4:], role="validation"))
        values = {
            "batch": 4,
            "epochs": 1,
            "variants": 1,
            "min_pixels": 30,
            "validation_objects": 4,
            "prompts": {"centre": 1, "box": 1},
            "device": "cpu",
            "precision": "float32",
        }
        return TrainingConfig(**({"name": "mine", "pairs": pairs} | values | settings))  # type: ignore[arg-type]

    return make


@pytest.fixture
def kept_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache of embeddings for all tests of this folder: the encoder is what takes longest."""
    folder = tmp_path_factory.getbasetemp() / "training-cache"
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(folder))
    return folder
