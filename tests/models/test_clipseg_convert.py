"""Files of CLIPSeg's own repository: the names, and the same numbers from CLIP's published code."""

from __future__ import annotations

import importlib.util
import shutil
from importlib.metadata import distribution

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from napari_zeroseg.errors import WeightsError
from napari_zeroseg.models import clipseg
from napari_zeroseg.models.clipseg_conditions import pixels_of
from napari_zeroseg.models.clipseg_convert import convert_original, has_clip, is_original
from napari_zeroseg.registry import find_model
from napari_zeroseg.weights import Weights

CPU = torch.device("cpu")
SPEC = find_model("clipseg_rd64")
EXTRACTED = (3, 6, 9)


class Original(nn.Module):
    """The authors' network in a small size: CLIP's published code, and torch's own transformer layers."""

    def __init__(self, refined: bool) -> None:
        super().__init__()
        path = distribution("clip-anytorch").locate_file("clip/model.py")
        spec = importlib.util.spec_from_file_location("_published_clip", path)
        published = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(published)
        # 24 out, 352 pixels, 11 blocks of 128 channels, patches of 16; 16 of 100 words, 64 channels, 2 heads, 2 blocks
        self.clip_model = published.CLIP(24, 352, 11, 128, 16, 16, 100, 64, 1, 2)
        self.model = self.clip_model.visual
        self.film_mul, self.film_add = nn.Linear(24, 16), nn.Linear(24, 16)
        self.reduce = nn.Linear(128, 16)
        self.reduces = nn.ModuleList(nn.Linear(128, 16) for _ in EXTRACTED)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 4, 2048) for _ in EXTRACTED)
        self.trans_conv = nn.ConvTranspose2d(16, 1, 16, stride=16)
        if refined:
            self.trans_conv = nn.Sequential(
                *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
                *(nn.ConvTranspose2d(16, 8, 4, stride=4), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, stride=4)),
            )

    def forward(self, pixels, condition):
        kept = []
        hooks = [
            self.model.transformer.resblocks[number].register_forward_hook(lambda _, __, out: kept.append(out))
            for number in EXTRACTED
        ]
        self.model(pixels)
        for hook in hooks:
            hook.remove()
        hidden = 0
        for number, (activation, reduce, block) in enumerate(
            zip(reversed(kept), self.reduces, self.blocks, strict=True)
        ):
            hidden = reduce(activation) + hidden
            if number == 0:
                hidden = self.film_mul(condition) * hidden + self.film_add(condition)
            hidden = block(hidden)
        return self.trans_conv(hidden[1:].permute(1, 2, 0).reshape(1, 16, 22, 22))[0]


@pytest.fixture(scope="module", params=["plain", "refined"])
def original(request):
    torch.manual_seed(1)
    network = Original(request.param == "refined").eval().requires_grad_(False)
    for name, weights in network.named_parameters():
        if weights.ndim > 1:
            weights.normal_(std=(weights.numel() / len(weights)) ** -0.5)
        elif "bias" in name:
            weights.normal_(std=0.1)
    return network


@pytest.fixture(scope="module")
def converted(original):
    tensors = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    return clipseg.build(SPEC, Weights(tensors, "0" * 64), CPU, torch.float32)


def test_the_same_numbers_as_the_published_code(original, converted, synthetic_picture):
    picture = synthetic_picture(120, 90)
    tokens = torch.tensor([[98, 5, 6, 7, 99, *[0] * 11], [98, 44, 99, *[0] * 13]])
    conditions = converted.network.text_conditions(tokens)
    torch.testing.assert_close(conditions, original.clip_model.encode_text(tokens), atol=2e-5, rtol=1e-4)
    example = original.clip_model.encode_image(pixels_of(picture))[0]
    np.testing.assert_allclose(converted.picture_condition(picture), example, atol=2e-5, rtol=1e-4)
    answers = converted.predict_conditions(converted.encode(picture), conditions.numpy())
    for condition, answer in zip(conditions, answers, strict=True):
        np.testing.assert_allclose(answer.logits, original(pixels_of(picture), condition), atol=5e-5)


@pytest.mark.parametrize("name", ["rd64", "rd64_refined"])
def test_every_name_has_its_place(published_keys, name):
    keys = published_keys("clipseg")
    theirs = keys[f"{name}_original_names"]
    wanted = set(keys["rd64"])
    if name == "rd64_refined":
        wanted = {k for k in wanted if "transposed_convolution" not in k} | set(keys["rd64_refined"])
    rows = {each: torch.zeros(3, 1) for each in theirs}
    assert is_original(rows)
    assert has_clip(rows)
    assert set(convert_original(rows)) == wanted
    assert not is_original(keys["rd64"])


def _decoder(original):
    return {name: t for name, t in original.state_dict().items() if not name.startswith(("clip_model.", "model."))}


def test_a_decoder_alone_takes_clip_from_beside(original, converted, tmp_path, synthetic_picture):
    whole = convert_original(original.state_dict())
    save_file(whole, tmp_path / "model.safetensors")
    alone = clipseg.build(SPEC, Weights(_decoder(original), "1" * 64, folder=tmp_path), CPU, torch.float32)
    assert alone.model_key != converted.model_key
    picture = synthetic_picture(60, 60)
    condition = converted.picture_condition(picture)[None]
    one = alone.predict_conditions(alone.encode(picture), condition)[0]
    other = converted.predict_conditions(converted.encode(picture), condition)[0]
    np.testing.assert_array_equal(one.logits, other.logits)


def test_a_decoder_alone_takes_clip_and_words_from_this_machine(original, clip_words, monkeypatch, tmp_path):
    weights = Weights(_decoder(original), "1" * 64, folder=tmp_path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(clipseg, "_on_this_machine", list)
        with pytest.raises(WeightsError, match=r"decoder alone.*download clipseg_rd64_refined"):
            clipseg.build(SPEC, weights, CPU, torch.float32)
    if isinstance(original.trans_conv, nn.Sequential):
        return  # no published size has so few channels and several convolutions
    there = tmp_path / "models"
    there.mkdir()
    save_file(convert_original(original.state_dict()), there / "clipseg_rd16.safetensors")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(clip_words / name, there)
    monkeypatch.setenv("ZEROSEG_MODELS", str(there))
    model = clipseg.build(SPEC, weights, CPU, torch.float32)
    assert model.cut("lung " * 20) == "lung " * 5 + "lung"
    model.picture_condition(np.arange(99, dtype=np.uint8).reshape(9, 11))


def test_wrong_files(original):
    decoder = _decoder(original)
    with pytest.raises(WeightsError, match="1 entries that CLIPSeg does not have, first other"):
        convert_original({**decoder, "other.weight": torch.zeros(1)}, {"clip.x": torch.zeros(1)})
    with pytest.raises(WeightsError, match="film_mul"):
        convert_original({"image_encoder.weight": torch.zeros(1)})
    lacking = {name: tensor for name, tensor in original.state_dict().items() if name != "reduces.1.bias"}
    with pytest.raises(WeightsError, match=r"lacks 1 entries, first decoder\.reduces\.1\.bias"):
        clipseg.build(SPEC, Weights(lacking, "0" * 64), CPU, torch.float32)
