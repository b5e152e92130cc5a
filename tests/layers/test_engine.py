"""Loaded models: what is let go of, and when."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_zeroseg._napari.engine import Engine, ModelChoice
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.registry import MOBILE_SAM, add_checkpoint, remove_model


@pytest.fixture
def engine() -> Engine:
    return Engine(store=EmbeddingStore())


def test_another_file_under_the_same_name(engine, tmp_path):
    tensors = load_file(MOBILE_SAM.weights.path)
    keys = []
    for shift in (1, 2):
        name = "mask_decoder.iou_token.weight"
        save_file({**tensors, name: torch.full_like(tensors[name], shift)}, tmp_path / f"{shift}.safetensors")
        add_checkpoint(tmp_path / f"{shift}.safetensors", name="swap")
        keys.append(engine.model(ModelChoice("swap", "cpu", "float32")).model_key)
        remove_model("swap")
        engine.forget("swap")
    assert keys[0] != keys[1]
    assert not engine._models
