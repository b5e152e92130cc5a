"""PA-SAM's adapter on the embedded model: it begins as the base, learns by its own losses, is listed and resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import napari_zeroseg as zs
from napari_zeroseg.errors import InputError
from napari_zeroseg.models import vit
from napari_zeroseg.models.pa_sam import PaSamSegmenter
from napari_zeroseg.models.sam import SamNetwork
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.registry import add_checkpoint, find_model, remove_model
from napari_zeroseg.training.adapter import AdapterNetwork, adapter_losses, mask_losses
from napari_zeroseg.training.bases import check_base, form_of, ways_of
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.decoding import Prompter, TrainableDecoding
from napari_zeroseg.training.events import Control
from napari_zeroseg.training.losses import dice
from napari_zeroseg.training.patches import Seen
from napari_zeroseg.training.run import StoppedError, train

pytestmark = pytest.mark.usefixtures("kept_cache", "no_dry_steps")

Short = Callable[..., TrainingConfig]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> AdapterNetwork:
    return AdapterNetwork(TrainingConfig("a", (("x", "y"),), what="adapter", device="cpu", precision="float32"))


def test_a_new_adapter_changes_nothing_and_its_first_gradients_move_it(network: AdapterNetwork) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 128), np.uint8)
    frame = network.model.pipeline.frame(picture.shape)
    mask = np.zeros(picture.shape, bool)
    mask[20:60, 30:90] = True
    prompts = [Prompt(points=[(40, 60)]), Prompt(box=(20, 30, 60, 90)), Prompt(mask=mask)]
    sparse = Prompter(network.modules.prompt_encoder, CPU)(prompts, frame)
    image = torch.randn((1, 256, 64, 64), generator=torch.Generator().manual_seed(0))
    base = TrainableDecoding(network.modules.prompt_encoder, network.modules.mask_decoder, CPU, torch.float32)
    wanted, scores = base.answer(image, sparse)
    decoding = network.decoding(Seen(picture, np.zeros(picture.shape, np.int32)))
    answer = decoding.examine(image, sparse, samples=False)
    torch.testing.assert_close(answer.logits[:, 0], wanted[:, 0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(answer.scores, scores, atol=1e-4, rtol=1e-3)
    assert answer.positive.shape == (3, 0)
    decoding.examine(image, sparse).logits.mean().backward()
    opened = dict(network.decoder_parameters())
    assert opened["mask_decoder.guiding_conv.6.weight"].grad is not None
    assert opened["mask_decoder.guiding_conv.6.weight"].grad.abs().max() > 0
    closed = {name for name, one in network.modules.named_parameters() if not one.requires_grad}
    for part in ("image_encoder.", "prompt_encoder.", "mask_decoder.transformer.", "mask_decoder.iou_"):
        assert any(name.startswith(part) for name in closed)
        assert not any(name.startswith(part) for name in opened)
    network.modules.zero_grad(set_to_none=True)


def test_the_losses_tell_right_from_wrong(network: AdapterNetwork) -> None:
    from napari_zeroseg.models.pa_decoder import PaAnswer

    target = torch.zeros((1, 256, 256))
    target[:, 64:192, 64:192] = 1
    drawn = (torch.nn.functional.avg_pool2d(target, 4) * 2 - 1) * 12
    inner = torch.nn.functional.avg_pool2d(target, 4)
    band = inner - (torch.nn.functional.avg_pool2d(inner[:, None], 3, 1, 1)[:, 0] == 1).float()
    none = torch.zeros((1, 0), dtype=torch.int64)
    weight = torch.ones_like(target)

    def losses(uncertain: torch.Tensor, coarse: torch.Tensor, refined: torch.Tensor) -> float:
        answer = PaAnswer((target * 2 - 1)[:, None] * 12, torch.zeros(1, 4), uncertain, coarse, refined, none, none)
        return float(adapter_losses(answer, target, weight))

    right = losses(band.clamp(0.02, 0.98), drawn, drawn)
    assert losses((1 - band).clamp(0.02, 0.98), drawn, drawn) > right + 1
    # where nothing is uncertain, only the coarse mask counts, and the other way round
    sure, unsure = torch.full_like(band, 0.02), torch.full_like(band, 0.98)
    assert losses(sure, drawn, -drawn) == pytest.approx(losses(sure, drawn, drawn))
    assert losses(sure, -drawn, drawn) > losses(sure, drawn, drawn) + 5
    assert losses(unsure, -drawn, drawn) == pytest.approx(losses(unsure, drawn, drawn))
    fine = target.repeat_interleave(4, 1).repeat_interleave(4, 2)
    answer = PaAnswer((target * 2 - 1)[:, None] * 12, torch.zeros(1, 4), sure, drawn, drawn, none, none)
    assert float(mask_losses(dice, answer, fine, torch.ones_like(fine))) < 0.02


@pytest.mark.slow
def test_it_learns_is_listed_and_learns_on(short: Short, stack: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    config = short(what="adapter", epochs=4, prompts={"centre": 1, "box": 1, "correction": 1})
    trained = train(config, listener=told.append, out=tmp_path / "run")
    losses = [event["loss"] for event in told if event["event"] == "step"]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    base = zs.load_model(device="cpu", precision="float32")
    model = trained.load(device="cpu", precision="float32")
    assert isinstance(model, PaSamSegmenter)
    assert model.spec.base == "pa_mobile_sam"
    assert model.spec.licence == "Apache-2.0"
    assert "pa_mobile_sam" not in {spec.key for spec in zs.list_models()}
    assert trained.card["settings"]["what"] == "adapter"
    before, after = base._network.state_dict(), model._network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    opened = ("mask_decoder.mask_tokens", "mask_decoder.output_upscaling", "mask_decoder.output_hypernetworks_mlps.0")
    assert changed
    assert all(name.startswith(opened) for name in changed)
    assert {name.split(".")[1] for name in set(after) - set(before)} == {"guiding_conv", "prompt_adapter"}
    raw, _ = stack
    prompt = zs.Prompt(points=[(128, 128)])
    answers = [one.predict(one.encode(raw[4]), [prompt])[0].logits for one in (base, model)]
    assert np.abs(answers[0] - answers[1]).max() > 0.1
    path = zs.export_model("mine", tmp_path / "mine.zip")
    zs.import_model(path, "theirs")
    again = zs.load_model("theirs", device="cpu", precision="float32")
    np.testing.assert_array_equal(again.predict(again.encode(raw[4]), [prompt])[0].logits, answers[1])
    # the result can be a base itself, of its adapter alone
    further = AdapterNetwork(TrainingConfig("b", (("x", "y"),), base="mine", what="adapter", device="cpu"))
    assert further.form == "pa_mobile_sam"
    weight = "prompt_adapter.refined_mlp.layers.2.weight"
    assert torch.equal(further.modules.mask_decoder.state_dict()[weight], after[f"mask_decoder.{weight}"])
    with pytest.raises(InputError, match="only the setting 'what' adapter"):
        train(replace(short(base="mine"), name="other"), out=tmp_path / "no")


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_by_bit(short: Short, tmp_path: Path) -> None:
    config = short(what="adapter", epochs=2)
    train(config, out=tmp_path / "whole")
    remove_model("mine")
    controls: list[Control] = []

    def stop_after_two(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 2:
            controls[0].tell("stop")

    with pytest.raises(StoppedError, match="go on"):
        train(config, out=tmp_path / "parted", listener=stop_after_two, control=controls.append)
    train(tmp_path / "parted", resume=True)
    whole, parted = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "parted"))
    assert whole.keys() == parted.keys()
    assert all(torch.equal(tensor, parted[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_sam_gets_one_and_a_pa_sam_learns_on(tmp_path: Path) -> None:
    """Of the smallest ViT, with generated weights: how it answers, the embedded model shows."""
    settings = {"what": "adapter", "device": "cpu", "precision": "float32"}
    torch.manual_seed(0)
    sam = SamNetwork(vit.image_encoder(vit.SIZES["vit_b"]))
    save_file(sam.state_dict(), tmp_path / "sam.safetensors")
    add_checkpoint(tmp_path / "sam.safetensors", "sam_vit_b", "sam", link=True)
    network = AdapterNetwork(TrainingConfig("a", (("x", "y"),), base="sam", **settings))  # type: ignore[arg-type]
    tensors = {**network.base_tensors, **network.changed(dict(network.decoder_parameters()))}
    save_file(tensors, tmp_path / "adapted.safetensors")
    add_checkpoint(tmp_path / "adapted.safetensors", network.form, "adapted", link=True)
    assert find_model("adapted").base == "pa_sam_vit_b"
    further = AdapterNetwork(TrainingConfig("a", (("x", "y"),), base="adapted", **settings))  # type: ignore[arg-type]
    assert isinstance(further.model, PaSamSegmenter)
    assert further.form == "pa_sam_vit_b"
    trained = dict(further.decoder_parameters())
    assert trained.keys() == dict(network.decoder_parameters()).keys()
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(1)
    name = "mask_decoder.prompt_adapter.static_refined_token.weight"
    torch.testing.assert_close(further.base_tensors[name] + 1, trained[name].detach())
    answering = further.model_with(further.changed(trained), "step1")
    assert answering.model_key == further.model.model_key  # whose embeddings are the same
    moved = answering._network.state_dict()[name]
    assert torch.equal(moved, trained[name])
    assert torch.equal(further.model._network.state_dict()[name], further.base_tensors[name])


def test_what_bases_allow(short: Short) -> None:
    assert form_of(find_model("sam_vit_b"), "adapter") == "pa_sam_vit_b"
    assert form_of(find_model("pa_sam_vit_h"), "adapter") == "pa_sam_vit_h"
    assert form_of(find_model("sam_vit_b"), "lora") == "sam_vit_b"
    assert ways_of(find_model("pa_sam_vit_b")) == ("adapter",)
    for base in ("medsam_vit_b", "medsam_vit_b_2023_04", "lite_medsam"):
        with pytest.raises(InputError, match="cannot get PA-SAM's adapter"):
            check_base(base, "adapter", {})
    with pytest.raises(InputError, match="only the setting 'what' adapter can be trained, not 'lora'"):
        check_base("pa_sam_vit_b", "lora", {})
    with pytest.raises(InputError, match="reads no words"):
        check_base("mobile_sam", "decoder", {"mitochondrion": ()})
