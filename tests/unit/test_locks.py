"""One run at a time on one output."""

from __future__ import annotations

import subprocess
import sys

import pytest

from napari_zeroseg.errors import WriteError
from napari_zeroseg.locks import only_run_on

HOLD = """
import sys, time
from pathlib import Path
from napari_zeroseg.locks import only_run_on
with only_run_on(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_held_and_let_go(tmp_path):
    out = tmp_path / "out.tif"
    for _ in range(2):
        with only_run_on(out):
            with pytest.raises(WriteError, match=r"Another run is writing .*out\.tif: wait"), only_run_on(out):
                pass
            with only_run_on(tmp_path / "other.tif"):
                pass
        assert not list(tmp_path.iterdir())


def test_let_go_by_an_error(tmp_path):
    with pytest.raises(KeyError), only_run_on(tmp_path / "out.tif"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    out = tmp_path / "out.tif"
    process = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(WriteError, match="Another run"), only_run_on(out):
            pass
        process.kill()
    assert [file.name for file in tmp_path.iterdir()] == [".out.tif.lock"]
    with only_run_on(out):
        pass
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path):
    with pytest.raises(WriteError, match="Nothing can be written beside"), only_run_on(tmp_path / "no" / "out.tif"):
        pass
