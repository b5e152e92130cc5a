"""Real runs of the embedded model on a generated stack: what is learnt, told and refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_zeroseg as zs
from napari_zeroseg.cascade import SimilarOptions
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError, ReadError, WriteError
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.settings import Settings
from napari_zeroseg.training import patches
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.folder import RunFolder, find_runs, new_run
from napari_zeroseg.training.run import train

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
    (tmp_path / "b" / "snapshot").mkdir(parents=True)
    for name in ("id", "snapshot/mine.npy"):
        (tmp_path / "b" / name).write_text("the user's")
    with pytest.raises(InputError, match=r"holds id, snapshot, .* and no run: name another folder"):
        train(short(base="nothing"), out=tmp_path / "b")
    assert all((tmp_path / "b" / name).read_text() == "the user's" for name in ("id", "snapshot/mine.npy"))
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


def test_a_disk_that_is_full_before_the_run_keeps_nothing(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(file: Path, *_: object, **__: object) -> None:
        file.write_bytes(bytes(1000))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_zeroseg.training.folder.np.save", half)
    with pytest.raises(WriteError, match="make room"):
        new_run(short(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_runs_of_one_name_meet_before_they_learn(short: Short, tmp_path: Path) -> None:
    models = Settings.from_environment().models_dir
    models.mkdir(parents=True, exist_ok=True)
    with only_run_on(models / "mine"), pytest.raises(WriteError, match=r"Another run is writing .*mine: wait until"):
        train(short(name="mine"), out=tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_where_the_unexpected_happened_stays_in_the_folder(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a driver says no")

    monkeypatch.setattr("napari_zeroseg.training.run.split_for", broken)
    with pytest.raises(RuntimeError, match="driver"):
        train(short(), out=tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert "error.txt in the run's folder" in folder.status()["message"]
    assert "in broken" in folder.error.read_text()
