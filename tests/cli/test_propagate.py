"""`zeroseg propagate`: labels through a stack, told in a table, killed and taken up."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_zeroseg.errors import CancelledError
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.write import LabelsWriter, write_labels
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.metrics import iou
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.propagate_file import PropagateRun, propagate_file
from napari_zeroseg.propagation import PropagationOptions
from napari_zeroseg.registry import load_model


@pytest.fixture(scope="module")
def seeds(stack, tmp_path_factory) -> Path:
    """Labels of the stack's three planes, of which the middle one is outlined."""
    labels = np.zeros(stack.truth.shape, np.uint16)
    labels[1] = stack.truth[1]
    path = tmp_path_factory.mktemp("seeds") / "seeds.tif"
    tifffile.imwrite(path, labels, photometric="minisblack")
    return path


def test_labels_table_and_provenance(zeroseg, stack, seeds, tmp_path):
    out, table = tmp_path / "labels.tif", tmp_path / "objects.csv"
    done = zeroseg("propagate", stack.path, "--seeds", seeds, "-o", out, "--table", table, "--json")
    report = json.loads(done.out)
    labels = tifffile.imread(out)
    np.testing.assert_array_equal(labels[1], stack.truth[1])
    names = [int(n) for n in np.unique(stack.truth[1]) if n]
    assert np.mean([iou(labels[z] == n, stack.truth[z] == n) for z in (0, 2) for n in names]) > 0.8
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(int(row["plane"]), int(row["label"])) for row in rows} == {(z, n) for z in range(3) for n in names}
    assert all(row["certainty"] == "1.0" for row in rows if row["outlined"] == "1")
    assert all(0 < float(row["certainty"]) <= 1 for row in rows)
    assert json.loads(out.with_name("labels.tif.json").read_text()) == report
    assert report["settings"]["propagation"]["spacing"] == pytest.approx([0.05, 0.004, 0.005])
    assert [plane["plane"] for plane in report["planes"]] == [0, 1, 2]
    again = zeroseg("propagate", stack.path, "--seeds", seeds, "-o", out, "--table", table)
    assert again == (0, f"{out} is already there from the same run: nothing to do.\n", "")
    other = ("propagate", stack.path, "--seeds", seeds, "-o", out, "--direction", "forwards", "--no-check")
    assert "is not from this run" in zeroseg(*other).error()
    assert zeroseg(*other, "--overwrite").code == 0
    assert not tifffile.imread(out)[0].any()


def test_outlines_from_nifti(zeroseg, stack, seeds, tmp_path):
    """It is written, so it is read."""
    outlined = tmp_path / "seeds.nii.gz"
    write_labels(outlined, tifffile.imread(seeds))
    for source, out in ((outlined, "a.npy"), (seeds, "b.npy")):
        done = zeroseg("propagate", stack.path, "--seeds", source, "-o", tmp_path / out, "--no-check")
        assert done.code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_what_cannot_be_done_is_said_in_a_line(zeroseg, stack, seeds, plane, tmp_path):
    out = tmp_path / "labels.tif"
    empty = tmp_path / "empty.npy"
    np.save(empty, np.zeros(stack.truth.shape, np.uint8))
    assert "no object to follow" in zeroseg("propagate", stack.path, "--seeds", empty, "-o", out).error()
    assert "Labels of 3 planes" in zeroseg("propagate", stack.path, "--seeds", plane, "-o", out).error()
    gaps = ("propagate", stack.path, "--seeds", seeds, "--planes", "0,2", "-o", out)
    assert "without gaps" in zeroseg(*gaps).error()
    assert (
        "choose another name for the labels" in zeroseg("propagate", stack.path, "--seeds", seeds, "-o", seeds).error()
    )
    assert "--seeds" in zeroseg("propagate", stack.path, "-o", out).usage_error()
    assert list(tmp_path.iterdir()) == [empty]


@pytest.fixture
def long(tmp_path) -> tuple[Path, Path]:
    """Seven planes, of which the middle one is outlined."""
    raw, truth = em_like_stack(7, 256, seed=3)
    np.save(tmp_path / "long.npy", raw)
    seeds = np.zeros(truth.shape, np.int32)
    seeds[3] = truth[3]
    np.save(tmp_path / "seeds.npy", seeds)
    return tmp_path / "long.npy", tmp_path / "seeds.npy"


def steps(out: Path) -> set[str]:
    return {file.stem for file in out.with_name(f".{out.name}.partial").glob("sweep*.json")}


def wait_for_steps(process: subprocess.Popen[str], out: Path, count: int) -> None:
    end = time.monotonic() + 240
    while len(steps(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_killed_in_the_middle_and_taken_up(zeroseg, start, long, tmp_path):
    out = tmp_path / "labels.npy"
    arguments = ("propagate", long[0], "--seeds", long[1])
    process = start(*arguments, "-o", out)
    wait_for_steps(process, out, 4)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = {name: (out.with_name(f".{out.name}.partial") / f"{name}.json").read_bytes() for name in steps(out)}
    assert len(before) >= 4
    assert not out.exists()
    report = json.loads(zeroseg(*arguments, "-o", out, "--json").out)
    assert report["steps_done_before"] == len(before)
    whole = tmp_path / "whole.npy"
    assert zeroseg(*arguments, "-o", whole).code == 0
    np.testing.assert_array_equal(np.load(out), np.load(whole))
    assert not out.with_name(f".{out.name}.partial").exists()


class Bar:
    """Counts what is done, and calls the token off after so many."""

    def __init__(self, total: int, token: CancelToken | None = None, most: int = 0) -> None:
        self.total, self.n = total, 0
        self._token, self._most = token, most

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, steps: int = 1) -> None:
        self.n += steps
        if self._token is not None and self.n >= self._most > 0:
            self._token.cancel()


@pytest.fixture
def written(monkeypatch) -> list[int]:
    """Planes in the order in which they are written."""
    planes: list[int] = []
    write = LabelsWriter.write
    monkeypatch.setattr(
        LabelsWriter, "write", lambda self, plane, labels: planes.append(plane) or write(self, plane, labels)
    )
    return planes


def test_only_planes_of_the_range_are_written(long, written, tmp_path):
    seeds = np.load(long[1])
    seeds[0] = seeds[3]
    np.save(long[1], seeds)
    job = PropagateRun(long[0], long[1], tmp_path / "out.ome.zarr", "2:5", options=PropagationOptions(check=False))
    bars: list[Bar] = []
    propagate_file(job, load_model, lambda total, done: bars.append(Bar(total)) or bars[-1])
    assert written == [3, 4, 2]
    assert (bars[0].total, bars[0].n) == (1, 1)
    labels = open_image(job.out).data[:]
    assert [z for z in range(7) if labels[z].any()] == [2, 3, 4]


@pytest.mark.parametrize("most", [1, 5])
def test_what_is_drawn_is_not_drawn_again(long, written, tmp_path, most):
    """Cancelled between planes, and in the midst of the way back."""
    job, token = PropagateRun(long[0], long[1], tmp_path / "out.ome.zarr", "2:6"), CancelToken()
    bars: list[Bar] = []

    def bar(total: int, done: int) -> Bar:
        bars.append(Bar(total, token, most * (len(bars) == 1)))
        return bars[-1]

    with pytest.raises(CancelledError):
        propagate_file(job, load_model, bar, token)
    first = list(written)
    written.clear()
    report = propagate_file(job, load_model, lambda total, done: Bar(total))
    assert report["steps_done_before"] == most
    whole = tmp_path / "whole.ome.zarr"
    again = list(written)
    written.clear()
    propagate_file(replace(job, out=whole), load_model, lambda total, done: Bar(total))
    np.testing.assert_array_equal(open_image(job.out).data[:], open_image(whole).data[:])
    assert len(first) + len(again) <= len(written) + 1
    assert 3 not in again[:1]


def test_cancelled_before_anything_is_drawn(long, written, tmp_path):
    job, token = PropagateRun(long[0], long[1], tmp_path / "out.npy"), CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        propagate_file(job, load_model, lambda total, done: Bar(total), token)
    assert written == []
