"""A run's state as another process reads it: whether somebody still works on it, and what the figures speak for."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from napari_zeroseg._napari.train_watch import RunWatch
from napari_zeroseg.errors import WriteError
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.training.events import Control
from napari_zeroseg.training.folder import QUIET_SECONDS, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def rewritten(folder: RunFolder, **values: Any) -> str:
    """The state that another process reads when some of what was noted is other."""
    path = folder.path / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder.status()["state"])


def test_a_process_that_got_the_number_of_a_dead_one_does_not_work_on_the_run(folder: RunFolder) -> None:
    folder.write_status("running", name="mine")
    assert folder.status()["state"] == "running"
    assert rewritten(folder, born=time.time() - 86_400) == "killed"
    folder.write_status("running", name="mine")
    told = json.loads((folder.path / "status.json").read_text())
    del told["born"], told["host"]  # of an earlier version
    (folder.path / "status.json").write_text(json.dumps(told))
    assert folder.status()["state"] == "running"
    assert rewritten(folder, pid=2**22 + 1) == "killed"


def test_a_run_on_another_machine_is_alive_as_long_as_it_writes(folder: RunFolder) -> None:
    folder.write_status("running", name="mine")
    assert rewritten(folder, host="elsewhere", pid=2**22 + 1) == "running"
    long_ago = time.time() - QUIET_SECONDS - 60
    os.utime(folder.path / "status.json", (long_ago, long_ago))
    assert folder.status()["state"] == "killed"
    folder.events.write_text("")
    assert folder.status()["state"] == "running"
    folder.write_status("paused", name="mine")
    assert rewritten(folder, host="elsewhere", pid=2**22 + 1) == "paused"


def test_a_run_that_is_worked_on_is_not_removed(folder: RunFolder) -> None:
    folder.config.write_text("")
    with only_run_on(folder.path), pytest.raises(WriteError, match="Another run is writing"):
        folder.remove()
    assert folder.config.exists()


def test_a_pause_that_is_taken_back_before_it_is_followed_does_not_happen(folder: RunFolder) -> None:
    folder.write_status("running", name="mine")
    watch, control = RunWatch(folder), Control(folder.control)
    watch.look()
    watch.tell("pause")
    assert watch.wanted == "pause"
    watch.tell("resume")
    assert not watch.wanted
    heard: list[str] = []
    control.wait(heard.append)
    assert not heard


@pytest.mark.parametrize(
    ("choice", "offers"), [("trained", ("mine",)), ("unsure", ("mine", "mobile_sam")), ("base", ("mobile_sam",))]
)
def test_the_base_is_offered_where_it_was_better_or_nobody_knows(
    folder: RunFolder, choice: str, offers: tuple[str, ...]
) -> None:
    folder.write_status("done", name="mine", verdict="So it is.", choice=choice, base="mobile_sam")
    watch = RunWatch(folder)
    watch.look()
    assert watch.offers == offers
    assert watch.status.tone == ("good" if choice == "trained" else "warning")
    folder.write_status("running", name="mine")
    watch.look()
    assert watch.offers == ()
