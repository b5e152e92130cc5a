"""What a killed process left in the models folder goes; what somebody works on stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights import WeightsSource, workplaces
from napari_zeroseg.weights.cards import model_folder
from napari_zeroseg.weights.download import download_model
from napari_zeroseg.weights.holding import one_at_a_time
from napari_zeroseg.weights.workplaces import IMPORTING, JOINING, sweep, workplace

from .conftest import QUICK, spec_of

JOIN = """
import time
from pathlib import Path
from napari_zeroseg.weights.workplaces import JOINING, workplace
with workplace(JOINING) as place:
    (place / "half.safetensors").write_bytes(b"0" * 1000)
    print(place, flush=True)
    time.sleep(60)
"""


def make_old(path):
    then = time.time() - workplaces.ABANDONED_SECONDS - 60
    os.utime(path, (then, then))


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_that_of_a_killed_process_goes_with_the_next_download(site, content):
    process = subprocess.Popen([sys.executable, "-c", JOIN], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        place = Path(process.stdout.readline().strip())
        make_old(place)
        sweep()
        assert (place / "half.safetensors").exists()  # as old as it may be, its owner lives
        process.send_signal(signal.SIGKILL)
    assert (place / "half.safetensors").exists()
    spec = spec_of(WeightsSource(site.put("/toy.safetensors", content)))
    download_model(spec, licence_accepted=True, patience=QUICK)
    assert not place.exists()


def test_what_is_young_stays():
    home = Settings.from_environment().models_dir
    (home / f"{IMPORTING}x").mkdir(parents=True)
    sweep()
    assert (home / f"{IMPORTING}x").is_dir()


def test_ones_own_stays():
    with workplace(JOINING) as place:
        make_old(place)
        sweep()
        assert place.is_dir()
    assert not place.exists()


def test_half_a_copy_goes_unless_its_folder_is_worked_on():
    folder = model_folder("mine")
    folder.mkdir(parents=True)
    copy = folder / ".mito.pth.tmp"
    copy.write_bytes(b"half")
    sweep()
    assert copy.exists()
    make_old(copy)
    with one_at_a_time(folder, CancelToken()):
        sweep()
        assert copy.exists()
    sweep()
    assert not folder.exists()
