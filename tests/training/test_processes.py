"""Several processes that share a run, really started: they learn what one learns, pause, stop and go on together."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

import napari_zeroseg as zs
from napari_zeroseg.errors import DeviceMemoryError, InputError, ReadError
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.events import Control
from napari_zeroseg.training.folder import RunFolder, new_run
from napari_zeroseg.training.launch import check_devices
from napari_zeroseg.training.loop import read_state
from napari_zeroseg.training.processes import ALONE, error_of
from napari_zeroseg.training.run import StoppedError, train

pytestmark = [pytest.mark.usefixtures("kept_cache", "no_dry_steps"), pytest.mark.timeout(900)]

Short = Callable[..., TrainingConfig]


def _steps(path: Path) -> list[dict[str, Any]]:
    return [event for event in RunFolder(path).read_events() if event["event"] == "step"]


def _both(short: Short, tmp_path: Path, **settings: Any) -> list[Path]:
    """The folders of the same run on one process and on two."""
    folders = []
    for count in (1, 2):
        trained = train(replace(short(**settings), name=f"by{count}", processes=count), out=tmp_path / str(count))
        assert trained.card["settings"]["processes"] == count
        assert f"by{count}" in {spec.key for spec in zs.list_models()}
        folders.append(tmp_path / str(count))
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("what", ["decoder+class", "lora"])
def test_two_processes_learn_what_one_learns(
    short: Short, little: tuple[TrainingPair, ...], tmp_path: Path, what: str
) -> None:
    one, two = _both(short, tmp_path, what=what, pairs=little, batch=2, epochs=2, prompts={"box": 1})
    losses, others = ([event["losses"] for event in _steps(folder)] for folder in (one, two))
    assert len(losses) == len(others) > 1
    for loss, other in zip(losses, others, strict=True):
        assert other == pytest.approx(loss, rel=1e-3)
    learnt, same = (read_state(folder / "last.pt")["trainer"] for folder in (one, two))
    for name, parameter in learnt["parameters"].items():
        # as a whole: where a gradient is almost 0, AdamW's step follows its last digits
        assert torch.linalg.vector_norm(same["parameters"][name] - parameter) < 2e-3 * torch.linalg.vector_norm(
            parameter
        )
    assert RunFolder(two).status()["state"] == "done"
    told = [event["event"] for event in RunFolder(two).read_events()]
    assert told.count("started") == told.count("done") == 1  # one of them tells


@pytest.mark.slow
def test_they_pause_stop_and_go_on_together(short: Short, tmp_path: Path) -> None:
    config = short(epochs=2, processes=2, prompts={"box": 1})
    train(replace(config, name="whole"), out=tmp_path / "whole")
    controls: list[Control] = []
    told: list[str] = []
    quiet: list[float] = []
    folder = RunFolder(tmp_path / "parted")

    def steer(event: dict[str, Any]) -> None:
        told.append(event["event"])
        if event["event"] == "step" and event["step"] == 1:
            controls[0].tell("pause")
        if event["event"] == "paused":
            assert folder.status()["state"] == "paused"
            before = len(_steps(folder.path))
            time.sleep(1)
            quiet.append(len(_steps(folder.path)) - before)
            controls[0].tell("resume")
        if event["event"] == "step" and event["step"] == 3:
            controls[0].tell("stop")

    with pytest.raises(StoppedError, match="go on"):
        train(config, out=folder.path, listener=steer, control=controls.append)
    assert told.index("paused") < told.index("resumed")
    assert quiet == [0]
    assert folder.status()["state"] == "stopped"
    assert 3 <= read_state(folder.last)["trainer"]["done"] < len(_steps(tmp_path / "whole"))
    train(folder.path, resume=True)
    whole, parted = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "parted"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, parted[name]), name


def _members() -> list[psutil.Process]:
    """Processes of runs that this one has started, launchers included."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if one.status() != "zombie" and "napari_zeroseg.training.member" in one.cmdline()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a process is ended otherwise there")
def test_one_that_is_killed_ends_all_and_the_run_goes_on(short: Short, tmp_path: Path) -> None:
    folder = new_run(short(epochs=3, processes=2, checkpoint_seconds=0), tmp_path / "run")
    lost: list[int] = []

    def kill_the_second(event: dict[str, Any]) -> None:
        if event["event"] == "saved" and event["step"] == 2:
            lost.extend(child.pid for child in _members() if child.environ().get("RANK") == "1")
            os.kill(lost[0], signal.SIGKILL)

    with pytest.raises(zs.ZerosegError, match="--resume goes on"):
        train(folder.path, resume=True, listener=kill_the_second)
    assert lost
    assert not _members()
    assert folder.status()["state"] == "killed"
    assert train(folder.path, resume=True).key == "mine"


@pytest.mark.slow
def test_what_is_refused_in_the_processes_is_one_sentence(short: Short, tmp_path: Path) -> None:
    with pytest.raises(zs.ZerosegError, match="not on this machine"):
        train(short(base="sam_vit_b", processes=2), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_had_is_said_before_anything_starts(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="'cuda:0' names one"):
        check_devices(short(processes=2, device="cuda:0"))
    with pytest.raises(InputError, match="torch finds one CUDA GPU here: ask for 1"):
        train(short(processes=2, device="auto"), out=tmp_path / "a")
    with pytest.raises(InputError, match="want a core each"):
        train(short(processes=4096), out=tmp_path / "a")
    with pytest.raises(InputError, match="whole number"):
        short(processes=1.5)
    with pytest.raises(InputError, match="at least 1"):
        short(processes=0)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match=r"napari-zeroseg\[multi-gpu\]"):
        train(short(processes=2), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_error_of_another_process_keeps_its_kind() -> None:
    assert isinstance(error_of("DeviceMemoryError", "a"), DeviceMemoryError)
    assert isinstance(error_of("StoppedError", "a"), StoppedError)
    assert type(error_of("ValueError", "a")) is zs.ZerosegError
    assert str(error_of("ReadError", "why")) == "why"
    assert isinstance(error_of("ReadError", "a"), ReadError)


def test_one_process_shares_with_nobody() -> None:
    assert list(ALONE.share("abc")) == list("abc")
    assert ALONE.leads
    assert ALONE.sum({"masks": 0.5}) == {"masks": 0.5}
