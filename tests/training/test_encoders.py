"""Encoders that are trained, with the mask decoder or for the class alone; really run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import napari_zeroseg as zs
from napari_zeroseg.cascade import Queue
from napari_zeroseg.training import tasks
from napari_zeroseg.training.classes import class_segmenter_of
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.folder import RunFolder
from napari_zeroseg.training.networks import Network
from napari_zeroseg.training.run import train
from napari_zeroseg.training.tasks import variant_of

pytestmark = pytest.mark.usefixtures("kept_cache", "no_dry_steps")

Short = Callable[..., TrainingConfig]
StopAfter = Callable[[int, TrainingConfig, Path], RunFolder]
Equal = Callable[[Path, Path], None]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lora", "blocks"])
def test_encoders_learn_too(short: Short, little: tuple[TrainingPair, ...], what: str) -> None:
    trained = train(short(what=what, pairs=little, prompts={"box": 1}, batch=2))
    base, model = (zs.load_model(key, device="cpu", precision="float32") for key in ("mobile_sam", "mine"))
    picture = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    before, after = (np.asarray(one.encode(picture).tensors["image"]) for one in (base, model))
    assert 1e-6 < np.abs(before - after).mean() < 0.5
    assert trained.card["settings"]["what"] == what


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0] - 0.5, columns[0] - 0.5, rows[-1] + 0.5, columns[-1] + 0.5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_learns_and_goes_on_bit_by_bit(
    short: Short,
    stack: tuple[np.ndarray, np.ndarray],
    little: tuple[TrainingPair, ...],
    tmp_path: Path,
    stop_after: StopAfter,
    equal_to_the_bit: Equal,
) -> None:
    raw, truth = stack
    config = short(what="all", prompts={"box": 1}, pairs=little, batch=1)
    train(replace(config, name="whole"), out=tmp_path / "whole")
    folder = stop_after(1, config, tmp_path / "parted")
    trained = train(folder.path, resume=True)
    equal_to_the_bit(tmp_path / "whole", folder.path)
    learnt = load_file(folder.best)
    network = Network(TrainingConfig("a", (("x", "y"),), device="cpu", precision="float32"))
    encoder = [name for name in learnt if name.startswith("image_encoder.")]
    assert {name.split(".")[1] for name in encoder} == {"patch_embed", "layers", "neck"}
    changed = [name for name in encoder if not torch.equal(learnt[name], network.base_tensors[name].float())]
    assert len(changed) == len(encoder)
    model = trained.load(device="cpu", precision="float32")
    (prediction,) = zs.View(model, raw[4]).predict([zs.Prompt(box=_box(truth[4] == truth[4].max()))])
    drawn, true = prediction.mask, truth[4] == truth[4].max()
    assert (drawn & true).sum() / (drawn | true).sum() > 0.3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_class_learns_with_an_encoder_of_its_own(
    short: Short,
    stack: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    stop_after: StopAfter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prompts are answered as before; the class sees with another encoder, here, after a pause and in a file."""
    monkeypatch.setattr(tasks, "CLASS_BATCH", 1)
    folder = stop_after(1, short(what="class+all", variants=2), tmp_path / "parted")
    trained = train(folder.path, resume=True)
    assert trained.card["masks"] == {}
    assert len(trained.card["class"]["iou_interval"]) == 2
    raw, truth = stack
    base, model = (zs.load_model(key, device="cpu", precision="float32") for key in ("mobile_sam", "mine"))
    box = zs.Prompt(box=_box(truth[4] == truth[4].max()))
    answers = [zs.View(one, raw[4]).predict([box])[0].logits for one in (base, model)]
    np.testing.assert_array_equal(*answers)
    seen = zs.segment_class(model, zs.View(model, raw[4])).probability
    with_base = replace(class_segmenter_of(model), encoder=None).segment(model, zs.View(model, raw[4])).probability
    assert not np.array_equal(seen, with_base)  # two steps move it by little
    zs.export_model("mine", tmp_path / "mine.zip")
    zs.import_model(tmp_path / "mine.zip", "theirs")
    again = zs.load_model("theirs", device="cpu", precision="float32")
    np.testing.assert_array_equal(zs.segment_class(again, zs.View(again, raw[4])).probability, seen)
    assert isinstance(zs.find_class(model, raw[4]), Queue)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "learnt"),
    [("class+lora", r"\.attn\.qkv\."), ("class+blocks", r"layers\.3\.|neck\.")],
    ids=("lora", "blocks"),
)
def test_a_part_of_the_encoder_learns_for_the_class_alone(
    short: Short,
    stack: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    learnt: str,
) -> None:
    """Two steps of a window each; clicks stay the base's to the bit, here and in a file."""
    monkeypatch.setattr(tasks, "CLASS_BATCH", 1)
    trained = train(
        short(what=what, epochs=None, minutes=0.05, learning_rate=2e-3)
    )  # of steps that are said to take a second
    assert trained.card["steps"] == 2
    base, model = (zs.load_model(key, device="cpu", precision="float32") for key in ("mobile_sam", "mine"))
    plane = stack[0][4]
    clicks = [zs.Prompt([(row, column)]) for row in (60, 190) for column in (60, 190)]
    answers = zip(*(zs.View(one, plane).predict(clicks, multimask=None) for one in (base, model)), strict=True)
    for before, after in answers:
        np.testing.assert_array_equal(before.logits, after.logits)
        np.testing.assert_array_equal(before.scores, after.scores)
    own = class_segmenter_of(model)
    assert own.changed
    assert all(re.search(learnt, name) for name in own.changed)
    assert own.encoder is not None
    images = [np.asarray(one.encode(plane).tensors["image"]) for one in (base, own.encoder)]
    assert 1e-6 < np.abs(images[0] - images[1]).mean() < 0.5
    seen = zs.segment_class(model, zs.View(model, plane)).probability
    zs.export_model("mine", tmp_path / "mine.zip")
    zs.import_model(tmp_path / "mine.zip", "theirs")
    theirs = zs.load_model("theirs", device="cpu", precision="float32")
    np.testing.assert_array_equal(zs.segment_class(theirs, zs.View(theirs, plane)).probability, seen)


def test_an_encoder_that_is_trained_sees_new_variants_in_each_epoch(short: Short) -> None:
    kept, trained = short(what="class", variants=3), short(what="class+all", variants=3)
    assert [variant_of(kept, drawn, epoch) for epoch in (0, 5) for drawn in range(3)] == [0, 1, 2] * 2
    numbers = [variant_of(trained, drawn, epoch) for epoch in range(3) for drawn in range(3)]
    assert numbers == [0, 1, 2, 0, 3, 4, 0, 5, 6]


def test_what_is_computed_again_is_the_same() -> None:
    """Gradient checkpointing takes less memory and gives the same gradients."""
    picture = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 1024, 1024))).float()
    gradients = []
    for recompute in (False, True):
        settings = {"what": "blocks", "recompute": recompute, "device": "cpu", "precision": "float32"}
        network = Network(TrainingConfig("a", (("x", "y"),), **settings))
        network.modules.image_encoder(picture).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in network.encoder_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
