"""`zeroseg embed`: what it leaves in the cache, and that a kill loses one plane at most."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from .conftest import command


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def long(stack, tmp_path_factory) -> Path:
    """Eight different planes."""
    path = tmp_path_factory.mktemp("pictures") / "long.npy"
    planes = np.concatenate([np.roll(stack.raw, shift, 2) for shift in (0, 20, 40)])
    np.save(path, planes[:8])
    return path


def test_killed_and_taken_up(zeroseg, long, cache):
    process = subprocess.Popen(command(["embed", long]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(kept(cache)) < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = kept(cache)
    assert 3 <= len(before) < 8
    stamps = {path: path.stat().st_mtime_ns for path in before}
    report = json.loads(zeroseg("embed", long, "--json").out)
    assert [plane["encoded"] for plane in report["planes"]] == [0] * len(before) + [1] * (8 - len(before))
    assert len(kept(cache)) == 8
    assert {path: path.stat().st_mtime_ns for path in before} == stamps


def test_later_runs_take_them_from_there(zeroseg, stack, cache, tmp_path):
    said = zeroseg("embed", stack.path, "--around", "1", "--planes", "1:")
    assert said.code == 0
    assert said.out.startswith("2 of 2 planes: 2 of 2 windows encoded in ")
    before = kept(cache)
    assert zeroseg("segment", stack.path, "--point", "128,128", "--planes", "1:", "-o", tmp_path / "out.npy").code == 0
    assert kept(cache) == before
    assert "0 of 3 windows" not in zeroseg("embed", stack.path).out
    assert "0 of 3 windows encoded" in zeroseg("embed", stack.path).out


def test_a_budget(zeroseg, stack, cache):
    report = json.loads(zeroseg("embed", stack.path, "--around", "2", "--budget", "5MB", "--json").out)
    assert [plane["plane"] for plane in report["planes"]] == [2, 1]
    assert report["planes_left"] == 1
    assert "used up: give more by --budget" in report["summary"]
    assert sum(path.stat().st_size for path in kept(cache)) <= 5_000_000


def test_windows_that_were_never_looked_at_are_not_there_already(zeroseg, cache, tmp_path):
    large = tmp_path / "large.npy"
    np.save(large, np.random.default_rng(0).integers(0, 255, (1, 2048, 2048), np.uint8))
    assert "1 windows encoded" in zeroseg("embed", large, "--windows", 1).out
    report = json.loads(zeroseg("embed", large, "--budget", "5MB", "--json").out)
    (plane,) = report["planes"]
    assert (plane["looked"], plane["encoded"], report["planes_left"]) == (2, 1, 1)
    assert report["summary"].startswith(f"0 of 1 planes: 1 of {plane['windows']} windows encoded")
    assert "1 was there already. The room for embeddings is used up" in report["summary"]


def test_broken_planes_are_named_and_the_rest_is_done(zeroseg, stack, cache, tmp_path):
    folder = tmp_path / "planes"
    folder.mkdir()
    for number, plane in enumerate(stack.raw):
        tifffile.imwrite(folder / f"p{number}.tif", plane, compression="zlib")
    half = (folder / "p1.tif").read_bytes()
    with (folder / "p1.tif").open("r+b") as file:  # the directory stays, the pixels are noise
        file.seek(len(half) // 2)
        file.write(os.urandom(len(half) // 4))
    done = zeroseg("embed", folder)
    assert done.code == 0
    assert "Plane 1 was skipped: " in done.err
    assert done.err.count("\n") == 1
    assert len(kept(cache)) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--around", "7"), "There is no plane 7: planes are counted from 0 to 2."),
        (("--budget", "plenty"), "'plenty' is not a size: write for example '500MB' or '10GB'."),
        (("--windows", "0"), "--windows is at least 1; got 0."),
        (("--planes", "9"), "There is no plane 9: planes are counted from 0 to 2."),
    ],
)
def test_wrong_options(zeroseg, stack, cache, options, sentence):
    assert zeroseg("embed", stack.path, *options).error() == sentence


def test_no_room_at_all(zeroseg, stack, monkeypatch):
    monkeypatch.setenv("ZEROSEG_DISK_CACHE", "0")
    assert "ZEROSEG_DISK_CACHE is 0: set it to the room" in zeroseg("embed", stack.path).error()


def test_nothing_to_see(zeroseg, tmp_path, cache):
    np.save(tmp_path / "black.npy", np.zeros((2, 64, 64), np.uint8))
    assert "None of 2 planes could be encoded. Plane 0: All pixels" in zeroseg("embed", tmp_path / "black.npy").error()
