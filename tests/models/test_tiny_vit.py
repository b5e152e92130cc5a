"""MobileSAM's image encoder against the published one, and its quicker ways against its plain way."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from napari_zeroseg.models import activation
from napari_zeroseg.models.tiny_vit import STRIP_ROWS, ConvBN, TinyViT, _in_strips


@pytest.fixture(scope="module")
def encoder(network) -> TinyViT:
    return network.image_encoder


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """A quarter of the usual side: the same layers, their windows padded, a sixteenth of the time."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 256, 256))).float()


def test_embeddings_are_the_published_ones(encoder, reference, synthetic_picture):
    pixels = synthetic_picture(600, 900)
    resized = np.asarray(Image.fromarray(pixels).resize((1024, 683), Image.Resampling.BILINEAR))
    normal = (resized - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    padded = np.zeros((1, 3, 1024, 1024), np.float32)
    padded[0, :, :683] = normal.transpose(2, 0, 1)
    with torch.inference_mode():
        embedding = encoder(torch.from_numpy(padded))
    np.testing.assert_allclose(embedding[0, ::8, ::8, ::8], reference("mobile_sam")["embedding_s8"], atol=2e-5)


def test_fused_strips_and_channels_last_change_nothing(encoder, picture):
    fused = copy.deepcopy(encoder)
    fused.fuse()
    fused = fused.to(memory_format=torch.channels_last)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    with torch.enable_grad():
        plain = encoder(picture)
    with torch.inference_mode():
        quick = fused(picture.to(memory_format=torch.channels_last))
    assert quick.shape == (1, 256, 16, 16)
    torch.testing.assert_close(quick, plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [STRIP_ROWS // 2, STRIP_ROWS, 2 * STRIP_ROWS, 3 * STRIP_ROWS, 3 * STRIP_ROWS + 8])
def test_strips_equal_the_whole(encoder, rows):
    stage = encoder.layers[0]
    x = torch.randn((1, 64, rows, 40), generator=torch.Generator().manual_seed(rows))
    with torch.inference_mode():
        torch.testing.assert_close(_in_strips(stage, x), stage(x), atol=1e-4, rtol=1e-4)


def test_working_in_place_leaves_the_input_and_the_weights_alone(encoder, picture):
    given = picture.clone()
    weights = {key: value.clone() for key, value in encoder.state_dict().items()}
    with torch.inference_mode():
        first, second = encoder(given), encoder(given)
    assert torch.equal(first, second)
    assert torch.equal(given, picture)
    assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())


def test_gradients_flow_in_training(network, picture):
    encoder = copy.deepcopy(network.image_encoder).train().requires_grad_(True)
    out = encoder(picture)
    out.square().mean().backward()
    unused = {key for key, value in encoder.named_parameters() if value.grad is None}
    assert all(key.startswith(("head.", "norm_head.")) for key in unused)
    assert all(torch.isfinite(value.grad).all() for value in encoder.parameters() if value.grad is not None)
    assert all(value.grad.abs().max() > 0 for key, value in encoder.named_parameters() if "attention_biases" in key)


def test_narrowing_keeps_the_sensitive_part_exact(encoder, picture):
    narrow = copy.deepcopy(encoder)
    narrow.fuse()
    exact = copy.deepcopy(narrow).layers[1].downsample.state_dict()
    narrow.narrow(torch.bfloat16)
    kept = narrow.layers[1].downsample.state_dict()
    assert all(value.dtype == torch.float32 and torch.equal(value, exact[key]) for key, value in kept.items())
    others = {value.dtype for key, value in narrow.named_parameters() if not key.startswith("layers.1.downsample")}
    assert others == {torch.bfloat16}
    with torch.inference_mode():
        quick, plain = narrow(picture.bfloat16()), encoder(picture)
    assert quick.dtype == torch.bfloat16
    assert (quick.float() - plain).norm() < 0.05 * plain.norm()


def test_folding_a_batch_norm():
    layer = ConvBN(5, 7, 3, stride=2)
    torch.nn.init.normal_(layer.bn.running_mean)
    torch.nn.init.uniform_(layer.bn.running_var, 0.5, 2)
    torch.nn.init.normal_(layer.bn.weight)
    torch.nn.init.normal_(layer.bn.bias)
    layer.eval()
    x = torch.randn(2, 5, 9, 11)
    expected = layer.bn(F.conv2d(x, layer.c.weight, stride=2, padding=1))
    layer.fuse()
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    layer.fuse()  # again: nothing left to do
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_gelu_fused_with_the_layer_before_it_is_gelu_after_it(encoder, picture, monkeypatch):
    fused = copy.deepcopy(encoder)
    fused.fuse()
    with torch.no_grad():
        quick = fused(picture)
        monkeypatch.setattr(activation, "_has_fused_gelu", lambda _: False)
        plain = fused(picture)
    assert (quick - plain).abs().max() < 1e-5
