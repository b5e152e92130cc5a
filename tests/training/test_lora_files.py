"""What LoRA learnt is kept as a small file that rests on its base, and is joined with it wherever it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import napari_zeroseg as zs
from napari_zeroseg.errors import WeightsError
from napari_zeroseg.registry import add_checkpoint, find_model, remove_model, verify
from napari_zeroseg.training.bioimageio import _module_of
from napari_zeroseg.training.classes import ClassHead, ClassSegmenter, class_segmenter_of, save_class
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.networks import Network
from napari_zeroseg.training.result import register
from napari_zeroseg.weights.cards import CLASS_HEAD, model_folder
from napari_zeroseg.weights.resting import Ground, ground_of, joined, kept

from .conftest import CARD

LORA_CARD = CARD | {"settings": {"what": "lora"}}
PICTURE = np.random.default_rng(0).integers(0, 256, (96, 128), np.uint8)

Learnt = tuple[Network, dict[str, torch.Tensor]]
Make = Callable[..., Learnt]


@pytest.fixture
def make() -> Make:
    """Put a model with LoRA into the list, as if a run had moved all that it trains; its network and what changed."""

    def make(name: str, base: str = "mobile_sam", what: str = "lora") -> Learnt:
        network = Network(TrainingConfig("a", (("x", "y"),), base, what, device="cpu", precision="float32"))
        generator = torch.Generator().manual_seed(len(name))
        values = {**dict(network.encoder_parameters()), **dict(network.decoder_parameters())}
        moved = {key: value + 0.02 * torch.randn(value.shape, generator=generator) for key, value in values.items()}
        changed = network.changed(moved)
        tensors, head = kept(network.base_tensors, changed, Ground(base, network.base_sha256))
        register(name, network.model.spec, network.form, tensors, LORA_CARD, {}, head=head)
        return network, changed

    return make


def _weights(name: str) -> Path:
    return model_folder(name) / "weights.safetensors"


def _damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def _image(model: zs.Segmenter) -> np.ndarray:
    return np.asarray(model.encode(PICTURE).tensors["image"])


def _load(name: str) -> zs.Segmenter:
    return zs.load_model(name, device="cpu", precision="float32")


def test_the_file_is_small_and_the_model_that_of_merged_weights_to_the_bit(make: Make, tmp_path: Path) -> None:
    network, changed = make("mine")
    names = set(load_file(_weights("mine")))
    assert names == set(changed)
    assert {name.rpartition(".")[2] for name in names if name.startswith("image_encoder.")} == {"lora_down", "lora_up"}
    # merged results, as they were kept before, load as ever
    register("whole", network.model.spec, network.form, joined(network.base_tensors, changed), LORA_CARD, {})
    assert ground_of(_weights("whole")) is None
    assert _weights("mine").stat().st_size < 0.6 * _weights("whole").stat().st_size
    expected = _image(_load("whole"))
    assert np.abs(expected - _image(_load("mobile_sam"))).mean() > 1e-4
    np.testing.assert_array_equal(_image(_load("mine")), expected)
    np.testing.assert_array_equal(_image(network.model_with(changed, "step1")), expected)
    prompt = zs.Prompt([(40, 60)])
    answers = [zs.View(_load(name), PICTURE).predict([prompt])[0].logits for name in ("mine", "whole")]
    np.testing.assert_array_equal(*answers)
    zs.import_model(zs.export_model("mine", tmp_path / "mine"), "theirs")
    np.testing.assert_array_equal(_image(_load("theirs")), expected)
    assert verify("theirs").ok
    assert find_model("theirs").state == "ready"


def test_one_rests_on_another_which_is_not_removed_under_it(make: Make) -> None:
    make("first")
    network, changed = make("second", "first")
    np.testing.assert_array_equal(_image(_load("second")), _image(network.model_with(changed, "step1")))
    with pytest.raises(WeightsError, match="the weights of second rest on it, so remove those first"):
        remove_model("first")
    _load("first")
    remove_model("second")
    remove_model("first")


def test_a_base_may_have_another_name_where_it_is_imported(make: Make, tmp_path: Path) -> None:
    make("first")
    make("second", "first")
    expected = _image(_load("second"))
    files = [zs.export_model(name, tmp_path / name) for name in ("first", "second")]
    remove_model("second")
    remove_model("first")
    make("first", what="decoder")  # the name is taken by another
    with pytest.raises(WeightsError, match="those here are others"):
        zs.import_model(files[1])
    zs.import_model(files[0], "theirs")
    zs.import_model(files[1])
    np.testing.assert_array_equal(_image(_load("second")), expected)
    remove_model("first")
    with pytest.raises(WeightsError, match="the weights of second rest on it"):
        remove_model("theirs")


def test_a_damaged_base_can_be_removed_and_come_again(make: Make, tmp_path: Path) -> None:
    make("first")
    make("second", "first")
    expected = _image(_load("second"))
    file = zs.export_model("first", tmp_path / "first")
    _damage(_weights("first"))
    assert not verify("first").ok
    remove_model("first")
    with pytest.raises(WeightsError, match="there is no such model here: import or add that one first"):
        _load("second")
    zs.import_model(file)
    np.testing.assert_array_equal(_image(_load("second")), expected)


def test_the_embedded_base_is_part_of_the_package_whatever_rests_on_it(make: Make) -> None:
    make("mine")
    with pytest.raises(WeightsError, match="is part of napari-zeroseg"):
        remove_model("mobile_sam")


def test_a_file_that_rests_on_itself_is_refused(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, changed = make("mine")
    _, head = kept({}, changed, Ground("sam_vit_b", "0" * 64))
    save_file(changed, tmp_path / "sam_vit_b.safetensors", head)
    monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path))
    with pytest.raises(WeightsError, match="those here are others"):
        zs.load_model("sam_vit_b", device="cpu")


def test_another_base_or_none_is_one_sentence(make: Make, tmp_path: Path) -> None:
    _, changed = make("mine")
    sha256 = ground_of(_weights("mine")).sha256
    narrow = {name: value[..., :-1] if name.endswith("lora_down") else value for name, value in changed.items()}
    single = {name: value for name, value in changed.items() if not name.endswith("lora_up")}
    for tensors, ground, words in (
        (changed, Ground("mobile_sam", "0" * 64), "those here are others .* get those that it was trained from"),
        (changed, Ground("gone", sha256), "beside the weights of gone, and there is no such model here: import or add"),
        (changed, Ground("sam_vit_b", sha256), "not on this machine: download them"),
        (narrow, Ground("mobile_sam", sha256), "do not fit the weights"),
        (single, Ground("mobile_sam", sha256), "do not fit the weights"),
    ):
        kept_tensors, head = kept({}, tensors, ground)
        save_file({name: value.contiguous() for name, value in kept_tensors.items()}, tmp_path / "a.safetensors", head)
        with pytest.raises(WeightsError, match=words):
            zs.load_model("mobile_sam", weights=tmp_path / "a.safetensors", device="cpu")
        with pytest.raises(WeightsError, match=words):
            add_checkpoint(tmp_path / "a.safetensors", "mobile_sam", "other")
    assert "other" not in {spec.key for spec in zs.list_models()}


def test_verifying_reads_what_it_rests_on(make: Make) -> None:
    make("first")
    make("second", "first")
    assert verify("second").ok
    _damage(_weights("first"))
    report = verify("second")
    assert not report.ok
    assert "beside the weights of first" in report.sentence


def test_a_class_keeps_the_matrices_of_its_own_encoder(make: Make, tmp_path: Path) -> None:
    network, _ = make("base", what="class+lora")  # only for its network: prompts are answered by the base
    changed = {
        name: value.detach() + 0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        for name, value in network.encoder_parameters()
    }
    torch.manual_seed(0)
    segmenter = ClassSegmenter(ClassHead().eval(), 0, network.model_with(changed, "step1"), changed)  # type: ignore[arg-type]
    save_class(segmenter, tmp_path / CLASS_HEAD)
    assert (tmp_path / CLASS_HEAD).stat().st_size < 3_000_000
    files = {CLASS_HEAD: tmp_path / CLASS_HEAD}
    register("mine", network.model.spec, network.form, network.base_tensors, LORA_CARD, files)
    own = class_segmenter_of(_load("mine")).encoder  # type: ignore[arg-type]
    assert own is not None
    assert segmenter.encoder is not None
    np.testing.assert_array_equal(_image(own), _image(segmenter.encoder))
    pixels = own.pipeline.pixels(PICTURE)
    with torch.no_grad():
        told = _module_of("mine").encoder(pixels)
    np.testing.assert_allclose(told.numpy(), _image(own), atol=1e-3)
