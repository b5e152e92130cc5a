"""Words to instances through CLIPSeg's own architecture, small and with generated weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_zeroseg import Prompt
from napari_zeroseg.cascade import TextOptions, segment_text
from napari_zeroseg.models import clipseg
from napari_zeroseg.registry import find_model
from napari_zeroseg.weights import read_weights

SPEC = find_model("clipseg_rd64")


@pytest.fixture(scope="module")
def words(wordy_clipseg):
    weights = read_weights(wordy_clipseg, SPEC.weights, SPEC.title)
    return clipseg.build(SPEC, weights, torch.device("cpu"), torch.float32)


def test_every_stage_agrees_with_the_map(words, model, synthetic_picture):
    picture = synthetic_picture(150, 200)
    (answer,) = words.predict(words.encode(picture), [Prompt(text="lung")])
    heat = clipseg.heat_map(answer)
    threshold = float(np.quantile(heat, 0.9))  # generated weights are nowhere sure
    result = segment_text(
        picture, "lung", words, model, TextOptions(threshold, min_area=4, least_agreement=0, least_score=0)
    )
    np.testing.assert_allclose(result.heat[0], heat, atol=2e-3)
    assert result.regions
    for region in result.regions:
        assert result.heat[0][region.peak] > threshold
    assert len(result.prompts) == 2 * len(result.regions)
    assert len(result.instances) + len(result.dropped) <= len(result.regions)


def test_what_is_not_read_is_told(words, model, synthetic_picture):
    long = "a very " + "long " * 90 + "phrase"
    result = segment_text(synthetic_picture(150, 200), [long, "мозг"], words, model, TextOptions(0.99))
    (note,) = [note for note in result.notes if "too long" in note]
    assert "phrase" in note
    assert sum("nowhere more probable" in note for note in result.notes) == 2
