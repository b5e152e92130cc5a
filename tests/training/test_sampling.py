"""Losses on a part of a window's places: where they lie, what they stand for, and what the network then learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_zeroseg.prompts import Prompt
from napari_zeroseg.training import losses
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.decoding import Prompter, TrainableDecoding
from napari_zeroseg.training.networks import Network
from napari_zeroseg.training.sampling import MOST, sampled


def maps(size: int = 40, at: int = 100, rows: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    target, weight = torch.zeros(1, 256, 256), torch.zeros(1, 256, 256)
    target[0, at : at + size, 60 : 60 + size] = 1
    weight[0, :rows] = 1
    return target, weight


def test_all_near_the_object_and_some_of_the_rest_each_once() -> None:
    target, weight = maps()
    sample = sampled(target, weight, 3)
    assert sample is not None
    assert sample.places.shape == (1, MOST)
    assert len(sample.places.unique()) == MOST
    rows, columns = np.divmod(sample.places[0].numpy(), 64)
    near = (np.abs(rows - 29.5) < 9.5) & (np.abs(columns - 19.5) < 9.5)  # of 10 x 10 places, with 4 around
    assert near.sum() == 18 * 18
    assert set(sample.weight[0, torch.from_numpy(near)].flatten().tolist()) == {1.0}
    assert min(rows.min(), columns.min()) < 8
    assert min(rows.max(), columns.max()) > 55
    assert float(sample.weight.sum()) == pytest.approx(4096, rel=1e-5)


def test_what_a_sample_holds_are_the_cells_of_its_places() -> None:
    numbers = torch.arange(65536.0).view(1, 256, 256)
    sample = sampled(*maps(), 0)
    assert sample is not None
    cells = sample.of(numbers)[0]
    for place, found in zip(sample.places[0, :50], cells, strict=False):
        row, column = 4 * (int(place) // 64), 4 * (int(place) % 64)
        torch.testing.assert_close(found, numbers[0, row : row + 4, column : column + 4].flatten())


def test_padding_is_not_drawn_and_stands_for_nothing() -> None:
    sample = sampled(*maps(rows=128), 0)
    assert sample is not None
    assert float(sample.places.max()) < 32 * 64
    assert float(sample.weight.sum()) == pytest.approx(32 * 64, rel=1e-5)
    target, weight = maps(rows=40, at=10, size=20)  # fewer places count than would be drawn
    few = sampled(target, weight, 0)
    assert few is not None
    assert float((few.weight * few.of(weight)).sum()) == pytest.approx(40 * 256)


def test_an_object_that_fills_the_window_needs_all_places() -> None:
    assert sampled(*maps(size=200, at=20), 0) is None
    target, weight = maps(size=100, at=50)
    sample = sampled(target, weight, 0)
    assert sample is not None
    assert MOST < sample.places.shape[1] < 4096


@pytest.mark.parametrize("name", ["dice", "dice_bce", "dice_focal", "tversky"])
def test_losses_are_those_of_the_whole_window_on_average(name: str) -> None:
    target, weight = maps()
    logits = torch.randn((1, 256, 256), generator=torch.Generator().manual_seed(0)) + 6 * target - 3
    whole = float(losses.mask_loss(name)(logits, target, weight))
    found = []
    for seed in range(20):
        sample = sampled(target, weight, seed)
        assert sample is not None
        loss = losses.mask_loss(name)(sample.of(logits), sample.of(target), sample.of(weight) * sample.weight)
        found.append(float(loss))
    assert np.mean(found) == pytest.approx(whole, rel=0.01)
    assert np.std(found) > 0


def test_drawn_places_have_the_logits_and_gradients_of_the_whole() -> None:
    network = Network(TrainingConfig("a", (("x", "y"),), device="cpu", precision="float32"))
    modules, frame = network.modules, network.model.pipeline.frame((512, 512))
    image = torch.randn((1, 256, 64, 64), generator=torch.Generator().manual_seed(0))
    prompts = [Prompt(points=[(100, 300)]), Prompt(box=(50, 60, 200, 300))]
    sparse = Prompter(modules.prompt_encoder, torch.device("cpu"))(prompts, frame)
    target, weight = (torch.cat([one, two]) for one, two in zip(maps(), maps(at=150), strict=True))
    sample = sampled(target, weight, 0)
    assert sample is not None
    gradients = []
    for places in (None, sample.places):
        modules.mask_decoder.zero_grad(set_to_none=True)
        decoding = TrainableDecoding(modules.prompt_encoder, modules.mask_decoder, torch.device("cpu"), torch.float32)
        logits, scores = decoding.answer(image, sparse, places)
        if places is None:
            logits = torch.stack([sample.of(logits[:, k]) for k in range(4)], 1)
        gradients.append((logits, scores))
        logits.square().mean().backward()
        decoding.gather()
        gradients[-1] += tuple(p.grad for p in modules.mask_decoder.parameters() if p.grad is not None)
    for ours, theirs in zip(*gradients, strict=True):
        # as a whole: of what keys' biases add to all scores alike, gradients are rounding alone
        assert torch.linalg.vector_norm(ours - theirs) <= 1e-3 * torch.linalg.vector_norm(theirs) + 1e-4
