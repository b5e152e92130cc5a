"""Devices that run out of memory: fewer prompts at once, the encoder on the CPU, and a sentence when nothing helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import napari_zeroseg as zs
from napari_zeroseg.errors import DeviceMemoryError
from napari_zeroseg.models.encoder_place import EncoderPlace

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")


class Encoder(nn.Module):
    """Knows where it is, since no GPU is at hand; its two halves are moved one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = [GPU, GPU]
        self.fits = True

    def to(self, device: Any) -> Encoder:
        for number in range(2):
            if device == GPU and number == 1 and not self.fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.halves[number] = device
        return self


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def place(encoder: Encoder) -> EncoderPlace:
    return EncoderPlace(encoder, GPU)


def test_a_picture_is_encoded_on_the_cpu_and_the_next_one_where_the_encoder_belongs(
    encoder: Encoder, place: EncoderPlace
) -> None:
    room = [False, True]

    def compute(device: torch.device) -> torch.device:
        assert encoder.halves == [device, device]
        if device == GPU and not room.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return device

    assert place.compute(compute) == CPU
    assert place.compute(compute) == GPU
    assert encoder.halves == [GPU, GPU]


def test_an_encoder_that_cannot_come_back_stays_whole(encoder: Encoder, place: EncoderPlace) -> None:
    def compute(device: torch.device) -> torch.device:
        assert encoder.halves == [device, device]
        if device == GPU:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return device

    place.compute(compute)
    encoder.fits = False
    assert [place.compute(lambda device: (device, *encoder.halves)) for _ in range(2)] == [(CPU, CPU, CPU)] * 2
    encoder.fits = True
    assert place.compute(lambda device: device) == GPU


def test_when_the_cpu_is_full_as_well_a_sentence_says_so(encoder: Encoder, place: EncoderPlace) -> None:
    def full(_: torch.device) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(
        DeviceMemoryError, match=r"cuda:0 ran out of memory while encoding a picture, on the CPU as well"
    ):
        place.compute(full)
    with pytest.raises(DeviceMemoryError, match="cpu ran out of memory while looking at an example: close"):
        EncoderPlace(encoder, CPU).compute(full, "looking at an example")

    def broken(_: torch.device) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        place.compute(broken)


def test_fewer_prompts_are_answered_at_once_with_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = zs.load_model("mobile_sam", device="cpu", precision="float32")
    picture = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    embedding = model.encode(picture)
    prompts = [zs.Prompt([(10.0 * i, 12.0 * i)]) for i in range(1, 8)]
    wanted = model.predict(embedding, prompts)
    once, sizes, most = model._decoding.decode, [], 2

    def decode(side: Any, image: Any, sparse: Any, which: slice) -> Any:
        sizes.append(len(sparse.tokens))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return once(side, image, sparse, which)

    monkeypatch.setattr(model._decoding, "decode", decode)
    found = model.predict(embedding, prompts)
    assert sizes == [4, 2, 2, 2, 1]
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other.logits, one.logits, atol=1e-3)
    most = 0
    with pytest.raises(DeviceMemoryError, match="cpu ran out of memory while answering a prompt"):
        model.predict(embedding, prompts)


def test_words_are_looked_for_in_smaller_batches_and_examples_say_it_too(
    wordy_clipseg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = zs.load_model("clipseg_rd16", weights=wordy_clipseg, device="cpu", precision="float32")
    embedding = model.encode(np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8))
    conditions = np.random.default_rng(1).normal(size=(5, model.network.config.projection_dim)).astype(np.float32)
    wanted = model.predict_conditions(embedding, conditions)
    once, sizes, most = model.network.decode, [], 2

    def decode(activations: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return once(activations, batch)

    monkeypatch.setattr(model.network, "decode", decode)
    found = model.predict_conditions(embedding, conditions)
    assert max(sizes) > 2
    assert sum(size for size in sizes if size <= 2) == 5
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other.logits, one.logits, atol=1e-4)
    most = 0
    with pytest.raises(DeviceMemoryError, match="while looking for a phrase"):
        model.predict_conditions(embedding, conditions)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.network._vision, "forward", full)
    with pytest.raises(DeviceMemoryError, match="while looking at an example"):
        model.picture_condition(np.random.default_rng(2).integers(0, 256, (60, 80), np.uint8))
