"""The decoder for training against segment-anything's own modules: answers and gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from napari_zeroseg.prompts import Prompt
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.decoding import Prompter, TrainableDecoding
from napari_zeroseg.training.networks import LoraLinear, Network
from napari_zeroseg.weights.resting import joined


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(TrainingConfig("a", (("x", "y"),), device="cpu", precision="float32"))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn((1, 256, 64, 64), generator=torch.Generator().manual_seed(0))


def test_answers_and_gradients_are_those_of_the_published_modules(network: Network, image: torch.Tensor) -> None:
    modules = network.modules
    frame = network.model.pipeline.frame((512, 512))
    prompts = [Prompt(points=[(100, 300)]), Prompt(box=(50, 60, 200, 300))]
    sparse = Prompter(modules.prompt_encoder, torch.device("cpu"))(prompts, frame)
    ours, theirs = modules.mask_decoder, copy.deepcopy(modules.mask_decoder)
    decoding = TrainableDecoding(modules.prompt_encoder, ours, torch.device("cpu"), torch.float32)
    logits, scores = decoding.answer(image, sparse)
    wanted, wanted_scores = theirs.predict_masks(
        image_embeddings=image,
        image_pe=modules.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse.tokens,
        dense_prompt_embeddings=modules.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(2, -1, 64, 64),
    )
    torch.testing.assert_close(logits, wanted, atol=3e-4, rtol=1e-4)
    torch.testing.assert_close(scores, wanted_scores, atol=1e-5, rtol=1e-4)
    for found, score in ((logits, scores), (wanted, wanted_scores)):
        (found.sigmoid().mean() + score.square().sum()).backward()
    # a second pass through the same decoding, of one prompt alone
    alone = Prompter(modules.prompt_encoder, torch.device("cpu"))(prompts[:1], frame)
    decoding.answer(image, alone)[0].sigmoid().mean().backward()
    theirs.predict_masks(
        image_embeddings=image,
        image_pe=modules.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=alone.tokens,
        dense_prompt_embeddings=modules.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 64, 64),
    )[0].sigmoid().mean().backward()
    decoding.gather()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), name
        if parameter.grad is not None and other.grad is not None:
            size = other.grad.abs().max()
            assert (parameter.grad - other.grad).abs().max() <= 1e-3 * size + 1e-7, name
    ours.zero_grad(set_to_none=True)


def test_the_prompt_encoder_and_the_encoder_stay_as_they_are(network: Network) -> None:
    names = [name for name, parameter in network.modules.named_parameters() if parameter.requires_grad]
    assert names
    assert all(name.startswith("mask_decoder.") for name in names)


def test_lora_starts_as_the_base_and_is_merged_exactly() -> None:
    linear = torch.nn.Linear(6, 9)
    layer = LoraLinear(linear, 2, torch.Generator().manual_seed(0))
    x = torch.randn(4, 6)
    torch.testing.assert_close(layer(x), linear(x))
    torch.nn.init.normal_(layer.lora_up)
    merged = linear.weight + layer.lora_up @ layer.lora_down
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, merged, linear.bias))


@pytest.mark.parametrize(
    ("what", "opened"),
    [("lora", ("lora_",)), ("blocks", ("layers.3.blocks", "neck")), ("all", ("patch_embed", "layers", "neck"))],
)
def test_the_encoder_is_opened_as_asked(what: str, opened: tuple[str, ...]) -> None:
    network = Network(TrainingConfig("a", (("x", "y"),), what=what, device="cpu", precision="float32"))
    names = [name for name, _ in network.encoder_parameters()]
    assert names
    assert all(any(part in name for part in opened) for name in names)
    alone = Network(TrainingConfig("a", (("x", "y"),), what=f"class+{what}", device="cpu", precision="float32"))
    assert [name for name, _ in alone.encoder_parameters()] == names
    assert not list(alone.decoder_parameters())
    assert alone.rate_of(names[0]) >= network.rate_of(names[0])
    values = {**dict(network.encoder_parameters()), **dict(network.decoder_parameters())}
    whole = joined(network.base_tensors, network.changed(values))
    assert set(whole) == set(network.base_tensors)
    for name, tensor in whole.items():  # nothing has been learnt yet
        np.testing.assert_allclose(tensor, network.base_tensors[name].float(), atol=1e-6)
