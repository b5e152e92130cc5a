"""Runs that were stopped, killed or moved, or ran out of room, and go on; really run."""

from __future__ import annotations

import json
import os
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
import tifffile
import torch
from safetensors import SafetensorError

import napari_zeroseg as zs
from napari_zeroseg._napari.train_watch import RunWatch
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError, ReadError, WriteError
from napari_zeroseg.training import fitting, keeping, patches
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.events import Control
from napari_zeroseg.training.folder import RunFolder, new_run, open_run
from napari_zeroseg.training.loop import read_state, save_state
from napari_zeroseg.training.run import StoppedError, train

pytestmark = pytest.mark.usefixtures("kept_cache", "no_dry_steps")

Short = Callable[..., TrainingConfig]
StopAfter = Callable[[int, TrainingConfig, Path], RunFolder]
Equal = Callable[[Path, Path], None]


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_by_bit(
    short: Short, tmp_path: Path, stop_after: StopAfter, equal_to_the_bit: Equal
) -> None:
    config = short(epochs=1)
    train(config, out=tmp_path / "whole")
    zs.export_model("mine", tmp_path / "whole.zip")
    from napari_zeroseg.registry import remove_model

    remove_model("mine")
    moved = stop_after(2, config, tmp_path / "parted").path.rename(tmp_path / "moved")
    train(moved, resume=True)
    equal_to_the_bit(tmp_path / "whole", moved)


@pytest.mark.slow
def test_a_run_whose_variants_are_forgotten_goes_on_bit_by_bit(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: StopAfter, equal_to_the_bit: Equal
) -> None:
    """With room for all variants, with room for one, and stopped in between: the same weights."""
    config = short(variants=3, epochs=2, batch=6, prompts={"box": 1})
    train(replace(config, name="roomy"), out=tmp_path / "roomy")
    made: Counter[str] = Counter()
    once = patches.varied

    def counted(*given: Any) -> Any:
        made[str(given[3].bit_generator.state)] += 1
        return once(*given)

    monkeypatch.setattr(patches, "varied", counted)
    monkeypatch.setattr(patches, "_REMEMBERED", 1)
    folder = stop_after(2, config, tmp_path / "parted")
    train(folder.path, resume=True)
    assert max(made.values()) > 2  # more than once in one of the two parts
    equal_to_the_bit(tmp_path / "roomy", folder.path)


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
def test_a_validation_that_was_stopped_is_done_when_the_run_goes_on(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: StopAfter, equal_to_the_bit: Equal
) -> None:
    """The weights chosen are those of a run that was never stopped."""
    monkeypatch.setattr(fitting, "_FEWEST_BETWEEN", 1)
    config = short(prompts={"box": 1}, learning_rate=1e-3)
    train(replace(config, name="whole"), out=tmp_path / "whole")
    folder = stop_after(2, config, tmp_path / "parted")  # each step is validated, so the stop is seen within
    assert [row["step"] for row in read_state(folder.last)["history"]] == [1]
    train(folder.path, resume=True)
    equal_to_the_bit(tmp_path / "whole", folder.path)
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
    away = folder.best.rename(tmp_path / "away")
    with pytest.raises(ReadError, match="put it back"):
        train(folder.path, resume=True)
    away.rename(folder.best)
    state = read_state(folder.last)
    save_state(folder.last, state | {"form": 1})
    with pytest.raises(InputError, match="another version"):
        train(folder.path, resume=True)
    save_state(folder.last, state)
    train(folder.path, resume=True)
    assert [event["step"] for event in folder.read_events() if event["event"] == "step"] == [1, 2]


@pytest.mark.slow
def test_a_run_whose_labels_are_others_now_does_not_go_on(
    stack: tuple[np.ndarray, np.ndarray], short: Short, tmp_path: Path, stop_after: StopAfter
) -> None:
    raw, truth = stack
    for name, planes in (("raw", raw), ("truth", truth)):
        tifffile.imwrite(tmp_path / f"{name}.tif", planes, photometric="minisblack")
    files = (tmp_path / "raw.tif", tmp_path / "truth.tif")
    pairs = (TrainingPair(*files, "0:3"), TrainingPair(*files, "4", role="validation"))
    folder = stop_after(1, short(pairs=pairs, prompts={"box": 1}), tmp_path / "run")
    tifffile.imwrite(files[1], np.where(truth == 1, 0, truth), photometric="minisblack")
    with pytest.raises(InputError, match="are not those that it was stopped with"):
        train(folder.path, resume=True)
    tifffile.imwrite(files[1], truth, photometric="minisblack")
    assert train(folder.path, resume=True).key == "mine"


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
        (keeping, "save_file", full_for_weights),
        (fitting.previews, "save", full),
        (keeping.csv, "DictWriter", full),
    ]
    for place, name, fails in [*places, (keeping, "save_class", full_for_weights)]:
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
    """Nor what was done of the one that was stopped; the figures are those of a run that was not."""
    raw, truth = stack
    pairs = (TrainingPair(raw[:3], truth[:3]),)
    config = short(pairs=pairs, epochs=2, what="class", gap=0)
    whole = train(replace(config, name="whole"), out=tmp_path / "whole")
    controls: list[Control] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event.get("block") == 2:
            controls[0].tell("stop")

    with pytest.raises(StoppedError):
        train(config, out=tmp_path / "run", listener=listen, control=controls.append)
    told: list[dict[str, Any]] = []
    trained = train((tmp_path / "run").rename(tmp_path / "moved"), resume=True, listener=told.append)
    assert not list((tmp_path / "moved").glob("last_block*"))  # all are done
    left = [(event.get("block"), event["step"]) for event in told if event["event"] == "step"]
    assert left == [(2, 2), (3, 1), (3, 2)]
    watch = RunWatch(RunFolder(tmp_path / "moved"))
    watch.look()
    assert [step for step, _ in watch.losses] == [1, 2]
    assert [step for step, _ in watch._seen[2][0]] == [1, 2]
    for figures in ("masks", "class", "split"):
        assert trained.card[figures] == whole.card[figures]
    assert trained.card["class"]["planes"] == 3


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
    control.tell("pause")
    control.wait(told.append, lambda: True)  # an API's cancel, which needs no resume
    assert told[2:] == ["paused", "resumed"]
    control.tell("stop")
    control.tell("resume")
    assert control.stopped
