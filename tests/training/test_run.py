"""Real runs of the embedded model on a generated stack: learning, stopping, killing, going on, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import napari_zeroseg as zs
from napari_zeroseg.cascade import Queue, SimilarOptions
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError, ReadError, WriteError
from napari_zeroseg.training import fitting, patches, tasks
from napari_zeroseg.training.classes import class_segmenter_of
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.events import Control
from napari_zeroseg.training.folder import RunFolder, find_runs, new_run, open_run
from napari_zeroseg.training.loop import read_state
from napari_zeroseg.training.networks import Network
from napari_zeroseg.training.run import StoppedError, train
from napari_zeroseg.training.tasks import variant_of
from napari_zeroseg.training.workbench import Workbench

pytestmark = pytest.mark.usefixtures("kept_cache")

Short = Callable[..., TrainingConfig]


@pytest.mark.slow
def test_it_learns_and_is_listed_with_its_card(short: Short, stack: tuple[np.ndarray, np.ndarray]) -> None:
    told: list[dict[str, Any]] = []
    trained = train(short(what="decoder+class", epochs=2), listener=told.append)
    losses = [event["loss"] for event in told if event["event"] == "step"]
    assert losses[-1] < losses[0]
    for entry in trained.card["masks"].values():
        assert entry["objects"] == 4
        assert entry["iou_after"] > entry["iou_before"] - 0.01
        assert entry["gain_interval"][0] <= entry["gain"] <= entry["gain_interval"][1]
    assert "mine" in {spec.key for spec in zs.list_models()}
    model = trained.load(device="cpu", precision="float32")
    raw, truth = stack
    view = zs.View(model, raw[4])
    (prediction,) = view.predict([zs.Prompt(box=_box(truth[4] == truth[4].max()))])
    assert prediction.mask.any()
    found = zs.segment_class(model, view)
    assert found.probability.shape == found.instances.shape == raw[4].shape
    inside = found.probability[truth[4] > 0].mean()
    assert inside > found.probability[truth[4] == 0].mean()
    queue = zs.find_class(model, view, options=SimilarOptions(least_certainty=0.05))
    best = np.zeros(raw[4].shape, bool)
    best[queue[0].patch[:2]] = queue[0].patch[2]
    assert (truth[4][best] > 0).mean() > 0.5
    assert [one.certainty for one in queue] == sorted((one.certainty for one in queue), reverse=True)
    there = zs.find_class(model, view, labels=truth[4], options=SimilarOptions(least_certainty=0.05))
    assert all((truth[4][one.patch[:2]][one.patch[2]] > 0).mean() <= 0.5 for one in there)
    text = (Path(os.environ["ZEROSEG_DATA_DIR"]) / "models" / "mine" / "training.md").read_text()
    for word in ("MobileSAM", "Apache-2.0", trained.card["base"]["sha256"], trained.card["data"]["fingerprint"]):
        assert word in text
    assert next(iter(find_runs())).status()["state"] == "done"
    with pytest.raises(InputError, match="already"):
        train(short())


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0] - 0.5, columns[0] - 0.5, rows[-1] + 0.5, columns[-1] + 0.5


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_by_bit(short: Short, tmp_path: Path) -> None:
    config = short(epochs=1)
    train(config, out=tmp_path / "whole")
    zs.export_model("mine", tmp_path / "whole.zip")
    from napari_zeroseg.registry import remove_model

    remove_model("mine")
    moved = _stop_after(2, config, tmp_path / "parted").path.rename(tmp_path / "moved")
    train(moved, resume=True)
    _assert_equal_to_the_bit(tmp_path / "whole", moved)


def _stop_after(steps: int, config: TrainingConfig, path: Path) -> RunFolder:
    """A run that was stopped after so many steps."""
    controls: list[Control] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == steps:
            controls[0].tell("stop")

    with pytest.raises(StoppedError, match="go on"):
        train(config, out=path, listener=listen, control=controls.append)
    folder = RunFolder(path)
    assert folder.status()["state"] == "stopped"
    assert read_state(folder.last)["trainer"]["done"] == steps
    return folder


def _assert_equal_to_the_bit(*paths: Path) -> None:
    whole, parted = (load_file(path / "best.safetensors") for path in paths)
    assert whole.keys() == parted.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parted[name]), name
    one, other = (read_state(path / "last.pt")["trainer"] for path in paths)
    for name, tensor in one["parameters"].items():
        assert torch.equal(tensor, other["parameters"][name]), name
    moments, others = one["optimizer"]["state"], other["optimizer"]["state"]
    assert all(torch.equal(moments[i]["exp_avg_sq"], others[i]["exp_avg_sq"]) for i in moments)


@pytest.mark.slow
def test_a_run_whose_variants_are_forgotten_goes_on_bit_by_bit(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for all variants, with room for one, and stopped in between: the same weights."""
    config = short(variants=3, epochs=2, batch=6, prompts={"box": 1})
    train(replace(config, name="roomy"), out=tmp_path / "roomy")
    made: Counter[str] = Counter()
    once = patches.varied

    def counted(*given: Any) -> Any:
        made[str(given[-1].bit_generator.state)] += 1
        return once(*given)

    monkeypatch.setattr(patches, "varied", counted)
    monkeypatch.setattr(patches, "_REMEMBERED", 1)
    folder = _stop_after(2, config, tmp_path / "parted")
    train(folder.path, resume=True)
    assert max(made.values()) > 2  # more than once in one of the two parts
    _assert_equal_to_the_bit(tmp_path / "roomy", folder.path)


def test_a_forgotten_variant_is_made_as_it_was(
    stack: tuple[np.ndarray, np.ndarray], short: Short, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TrainingData(short(variants=3))
    windows = [patches.near(data, one) for one in data.objects[:2]]
    first, second = (patches.Patch(one.plane, window, 2) for one, window in zip(data.objects, windows, strict=False))
    kept = patches.Patches(data, seed=3)
    before = kept.see(first)
    kept.see(second)
    assert kept.see(first) is before
    monkeypatch.setattr(patches, "_REMEMBERED", before.size)
    few = patches.Patches(data, seed=3)
    few.see(first)
    few.see(second)
    again = few.see(first)
    assert again is not before
    np.testing.assert_array_equal(again.picture, before.picture)
    np.testing.assert_array_equal(again.objects, before.objects)


@pytest.mark.slow
def test_a_killed_process_is_found_and_goes_on(short: Short, tmp_path: Path) -> None:
    folder = new_run(short(epochs=3, checkpoint_seconds=0), tmp_path / "run")
    command = [sys.executable, "-m", "napari_zeroseg", "train", str(folder.path), "--resume", "--events", "-"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert child.stdin is not None
    assert child.stdout is not None
    seen: list[dict[str, Any]] = []
    for line in child.stdout:
        seen.append(json.loads(line))
        if seen[-1]["event"] == "step" and seen[-1]["step"] == 1:
            child.stdin.write("pause\n")
            child.stdin.flush()
        if seen[-1]["event"] == "paused":
            assert folder.status()["state"] == "paused"
            folder.tell("resume")  # as another napari would, by the file
        if seen[-1]["event"] == "saved" and seen[-1]["step"] >= 3:
            child.send_signal(signal.SIGKILL) if sys.platform != "win32" else child.kill()
            break
    child.wait()
    child.stdin.close()
    child.stdout.close()
    kinds = [event["event"] for event in seen]
    assert kinds.index("paused") < kinds.index("resumed")
    assert folder.status()["state"] == "killed"
    kept = read_state(folder.last)["trainer"]["done"]
    assert kept >= 3
    assert main(["train", str(folder.path), "--resume", "--quiet"]) == 0
    steps = [event["step"] for event in folder.read_events() if event["event"] == "step"]
    assert steps.count(kept + 1) >= 1
    assert folder.status()["state"] == "done"
    assert "mine" in {spec.key for spec in zs.list_models()}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lora", "blocks"])
def test_encoders_learn_too(short: Short, what: str) -> None:
    trained = train(short(what=what, epochs=1, batch=16, prompts={"box": 1}))
    base, model = (zs.load_model(key, device="cpu", precision="float32") for key in ("mobile_sam", "mine"))
    picture = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    before, after = (np.asarray(one.encode(picture).tensors["image"]) for one in (base, model))
    assert 1e-6 < np.abs(before - after).mean() < 0.5
    assert trained.card["settings"]["what"] == what


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_learns_and_goes_on_bit_by_bit(
    short: Short, stack: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    raw, truth = stack
    pairs = ((raw[:2], truth[:2]), TrainingPair(raw[4:], truth[4:], role="validation"))
    config = short(what="all", prompts={"box": 1}, pairs=pairs)
    train(replace(config, name="whole"), out=tmp_path / "whole")
    folder = _stop_after(1, config, tmp_path / "parted")
    trained = train(folder.path, resume=True)
    _assert_equal_to_the_bit(tmp_path / "whole", folder.path)
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
    short: Short, stack: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Prompts are answered as before; the class sees with another encoder, here, after a pause and in a file."""
    config = short(what="class+all", epochs=2, variants=2)
    train(replace(config, name="whole"), out=tmp_path / "whole")
    folder = _stop_after(1, config, tmp_path / "parted")
    trained = train(folder.path, resume=True)
    _assert_equal_to_the_bit(tmp_path / "whole", folder.path)
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
    monkeypatch.setattr(Workbench, "step_seconds", lambda _: 1.0)
    trained = train(short(what=what, epochs=None, minutes=0.05, learning_rate=2e-3))
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


@pytest.mark.slow
def test_a_validation_that_was_stopped_is_done_when_the_run_goes_on(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights chosen are those of a run that was never stopped."""
    monkeypatch.setattr(fitting, "_FEWEST_BETWEEN", 1)
    config = short(prompts={"box": 1}, learning_rate=1e-3)
    train(replace(config, name="whole"), out=tmp_path / "whole")
    folder = _stop_after(2, config, tmp_path / "parted")  # each step is validated, so the stop is seen within
    assert [row["step"] for row in read_state(folder.last)["history"]] == [1]
    train(folder.path, resume=True)
    _assert_equal_to_the_bit(tmp_path / "whole", folder.path)
    rows, others = (read_state(path / "last.pt")["history"] for path in (tmp_path / "whole", folder.path))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in others]
    assert len(folder.metrics.read_text().splitlines()) == 1 + len(rows)


@pytest.mark.slow
def test_a_run_that_stopped_early_does_not_go_on_to_learn(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_FEWEST_BETWEEN", 1)
    train(short(prompts={"box": 1}, patience=1, learning_rate=1e-12), out=tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert read_state(folder.last)["trainer"]["done"] == 2
    zs.registry.remove_model("mine")
    train(folder.path, resume=True)
    assert [event["step"] for event in folder.read_events() if event["event"] == "step"] == [1, 2]


@pytest.mark.slow
def test_a_full_disk_in_a_validation_is_told_and_the_run_goes_on(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_FEWEST_BETWEEN", 1)
    folder = new_run(short(prompts={"box": 1}, what="decoder+class"), tmp_path / "run")

    def full_for_weights(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    places = [
        (fitting, "save_file", full_for_weights),
        (fitting.previews, "save", full),
        (fitting.csv, "DictWriter", full),
    ]
    for place, name, fails in [*places, (fitting, "save_class", full_for_weights)]:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fails)
            with pytest.raises(WriteError, match="make room there, then go on with --resume"):
                train(folder.path, resume=True)
    train(folder.path, resume=True)
    steps = [event["step"] for event in folder.read_events() if event["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert [row["step"] for row in read_state(folder.last)["history"]] == steps
    assert not list(folder.path.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_blocks_that_are_done_are_not_done_again(
    short: Short, stack: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    raw, truth = stack
    pairs = (TrainingPair(raw[:4], truth[:4]),)
    config = short(prompts={"box": 1}, pairs=pairs, batch=8, what="decoder+class", gap=0)
    whole = train(replace(config, name="whole"), out=tmp_path / "whole")
    controls: list[Control] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event.get("block") == 3:
            controls[0].tell("stop")

    with pytest.raises(StoppedError):
        train(config, out=tmp_path / "run", listener=listen, control=controls.append)
    told: list[dict[str, Any]] = []
    trained = train((tmp_path / "run").rename(tmp_path / "moved"), resume=True, listener=told.append)
    assert {event.get("block") for event in told if event["event"] == "step"} == {3, 4}
    for figures in ("masks", "class", "split"):
        assert trained.card[figures] == whole.card[figures]
    assert trained.card["class"]["planes"] == 4


@pytest.mark.slow
def test_a_model_that_was_made_before_a_kill_is_found_by_its_run_alone(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = short(prompts={"box": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("napari_zeroseg.training.result._furnish", full)
        with pytest.raises(WriteError, match="--resume writes the model"):
            train(config, out=tmp_path / "run")
    assert "mine" not in {spec.key for spec in zs.list_models()}
    trained = train(tmp_path / "run", resume=True)
    RunFolder(trained.run).write_status("running", name="mine")  # as if it had been killed here
    folder = RunFolder(trained.run.rename(tmp_path / "moved"))
    again = train(folder.path, resume=True)
    assert again.run == folder.path
    assert again.card == trained.card == json.loads(json.dumps(again.card))
    assert folder.status()["state"] == "done"
    assert [event["event"] for event in folder.read_events()][-2:] == ["done", "done"]
    other = new_run(replace(config, name="mine"), tmp_path / "other")
    with pytest.raises(InputError, match="already"):
        train(other.path, resume=True)


def test_a_run_for_tensorboard(short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(short(tensorboard=True), out=tmp_path / "run")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "run"))
    found.Reload()
    tags = found.Tags()
    told = {"steps/loss", "steps/learning rate", "iou/centre", "iou of the base/box", "dice/box"}
    assert told <= set(tags["scalars"])
    assert tags["images"] == ["held-back objects"]
    events = [event for event in RunFolder(tmp_path / "run").read_events() if event["event"] == "step"]
    losses = {event["step"]: event["loss"] for event in events}
    assert {one.step: pytest.approx(one.value, rel=1e-4) for one in found.Scalars("steps/loss")} == losses
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(zs.ZerosegError, match="TensorBoard is not installed"):
        train(replace(short(tensorboard=True), name="other"), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_wrong_is_said_before_anything_is_computed(short: Short, tmp_path: Path) -> None:
    with pytest.raises(zs.ZerosegError, match="no model 'nothing'"):
        train(short(base="nothing"), out=tmp_path / "a")
    with pytest.raises(InputError, match="say which words"):
        train(short(base="clipseg_rd64"), out=tmp_path / "b")
    with pytest.raises(zs.ZerosegError, match="not on this machine"):
        train(short(base="sam_vit_b"), out=tmp_path / "c")
    assert not list(tmp_path.glob("[abc]"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("the user's")
    with pytest.raises(zs.ZerosegError, match="no model 'nothing'"):
        train(short(base="nothing"), out=tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]
    new_run(short(), tmp_path / "a")
    with pytest.raises(InputError, match="holds a run already"):
        train(short(), out=tmp_path / "a")
    with pytest.raises(ReadError, match="moved"):
        train(tmp_path / "nowhere", resume=True)
    with pytest.raises(InputError, match="cannot be a model's name"):
        train(TrainingConfig("my/model", short().pairs))
    with pytest.raises(zs.ZerosegError, match="no model 'nothing'"):
        train(new_run(short(base="nothing"), tmp_path / "kept").path, resume=True)
    assert RunFolder(tmp_path / "kept").status()["state"] == "failed"  # whoever made the folder looks there


def test_a_refused_run_tells_of_no_folder(
    stack: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, array in zip(("raw", "labels"), stack, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    files = ["--images", str(tmp_path / "raw.npy"), "--labels", str(tmp_path / "labels.npy")]
    assert main(["train", *files, "--name", "a", "--base", "sam_vit_b", "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "not on this machine" in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_moved_folder_takes_its_snapshot_along(short: Short, tmp_path: Path) -> None:
    folder = new_run(short(), tmp_path / "here")
    identity, settings = folder.identity, folder.settings(TrainingConfig.read(folder.config))
    (tmp_path / "there").parent.mkdir(exist_ok=True)
    folder.path.rename(tmp_path / "there")
    moved, config = open_run(tmp_path / "there")
    assert Path(config.pairs[0].image).is_file()
    assert moved.identity == identity
    assert moved.settings(config) == settings
    assert new_run(short(), tmp_path / "here").identity != identity


def test_a_full_disk_is_told_and_the_last_state_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_zeroseg.training import loop

    loop.save_state(tmp_path / "last.pt", {"a": torch.zeros(3)})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop.os, "fsync", full)
    with pytest.raises(WriteError, match="make room"):
        loop.save_state(tmp_path / "last.pt", {"a": torch.ones(3)})
    assert loop.read_state(tmp_path / "last.pt")["a"].sum() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_pause_ends_when_it_is_told(tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    control.tell("pause")
    told: list[str] = []

    def listen(state: str) -> None:
        told.append(state)
        if state == "paused":
            (tmp_path / "control").write_text("resume\n")

    start = time.monotonic()
    control.wait(listen)
    assert told == ["paused", "resumed"]
    assert time.monotonic() - start < 30
    control.tell("stop")
    control.tell("resume")
    assert control.stopped
