"""Runs that are stopped, repeated, changed or started twice: nothing is lost, done twice or mixed up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from napari_zeroseg import provenance
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.write import LabelsWriter

PROMPT = ("--point", "128,128", "--box", "20,30,120,140")


@pytest.fixture(scope="module")
def long(stack, tmp_path_factory) -> Path:
    """Six different planes."""
    path = tmp_path_factory.mktemp("pictures") / "long.npy"
    np.save(path, np.concatenate([stack.raw, np.roll(stack.raw, 20, 2)]))
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "labels.npy"


def kept(out: Path) -> set[int]:
    """Planes that wait beside `out`."""
    return {int(file.stem) for file in out.with_name(f".{out.name}.partial").glob("*.tif")}


def wait_for_planes(process: subprocess.Popen[str], out: Path, count: int) -> None:
    end = time.monotonic() + 60
    while len(kept(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("stop", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_stopped_in_the_middle(zeroseg, start, long, out, stop):
    if not hasattr(signal, stop):
        pytest.skip(f"there is no {stop} here")
    process = start("segment", long, *PROMPT, "-o", out)
    wait_for_planes(process, out, 2)
    said = zeroseg("segment", long, *PROMPT, "-o", out).error()
    assert said == f"Another run is writing {out}: wait until it is done, or choose another name for this one."
    process.send_signal(getattr(signal, stop))
    said, complained = process.communicate(timeout=60)
    if stop != "SIGKILL":
        assert process.returncode == 1
        assert said == ""
        assert complained == (
            "zeroseg: error: Stopped. Planes that are done are kept: the same command goes on from there.\n"
        )
        assert names(out.parent) == [f".{out.name}.partial"]
    assert not out.exists()
    before = kept(out)
    assert 2 <= len(before) < 6
    reports = {
        plane: json.loads((out.with_name(f".{out.name}.partial") / f"{plane:06d}.json").read_text()) for plane in before
    }
    report = json.loads(zeroseg("segment", long, *PROMPT, "--json", "-o", out).out)
    assert report["planes_done_before"] == sorted(before)
    assert f"{len(before)} planes had been done by the run before." in report["summary"]
    assert [plane["plane"] for plane in report["planes"]] == list(range(6))
    assert all(report["planes"][plane] == told for plane, told in reports.items())
    assert all(len(plane["objects"]) == 2 for plane in report["planes"])
    assert names(out.parent) == [out.name, f"{out.name}.json"]
    assert zeroseg("segment", long, *PROMPT, "-o", out.with_name("whole.npy")).code == 0
    np.testing.assert_array_equal(np.load(out), np.load(out.with_name("whole.npy")))


class TestRepeated:
    @pytest.fixture(autouse=True)
    def done(self, zeroseg, stack, out):
        assert zeroseg("segment", stack.path, *PROMPT, "-o", out).code == 0

    def test_the_same_run_has_nothing_to_do(self, zeroseg, stack, out):
        before = out.stat().st_mtime_ns
        told = json.loads(provenance.path_beside(out).read_text())
        done = zeroseg("segment", stack.path, *PROMPT, "-o", out)
        assert done == (0, f"{out} is already there from the same run: nothing to do.\n", "")
        again = json.loads(zeroseg("segment", stack.path, *PROMPT, "--json", "-o", out).out)
        assert {**again, "summary": ""} == {**told, "summary": ""}
        assert out.stat().st_mtime_ns == before

    @pytest.mark.parametrize("other", [("--overlap", "replace"), ("--planes", "0:2"), ("--negative", "5,5")])
    def test_another_run_is_refused_unless_told(self, zeroseg, stack, out, other):
        before = out.read_bytes()
        said = zeroseg("segment", stack.path, *PROMPT, *other, "-o", out).error()
        assert "is already there and is not from this run: choose another name, or add --overwrite" in said
        assert out.read_bytes() == before
        assert zeroseg("segment", stack.path, *PROMPT, *other, "--overwrite", "-o", out).code == 0
        assert "nothing to do" in zeroseg("segment", stack.path, *PROMPT, *other, "-o", out).out

    def test_a_picture_that_changed_is_another_run(self, zeroseg, stack, out, tmp_path):
        copy = tmp_path / "copy.tif"
        copy.write_bytes(stack.path.read_bytes())
        assert "is not from this run" in zeroseg("segment", copy, *PROMPT, "-o", out).error()

    def test_a_picture_that_moved_is_the_same(self, zeroseg, stack, out, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        moved = tmp_path / "elsewhere" / stack.path.name
        moved.write_bytes(stack.path.read_bytes())
        status = stack.path.stat()
        os.utime(moved, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert "nothing to do" in zeroseg("segment", moved, *PROMPT, "-o", out).out

    def test_labels_without_provenance_are_not_ours(self, zeroseg, stack, out):
        provenance.path_beside(out).write_text("{")
        assert "is not from this run" in zeroseg("segment", stack.path, *PROMPT, "-o", out).error()

    def test_killed_between_labels_and_provenance(self, zeroseg, stack, out):
        beside = provenance.path_beside(out)
        told = json.loads(beside.read_text())
        beside.unlink()
        provenance.prepare(out, told)
        assert "is not from this run" in zeroseg("segment", stack.path, *PROMPT, "-o", out).error()  # labels are older
        now = time.time() + 1
        os.utime(out, (now, now))
        assert "nothing to do" in zeroseg("segment", stack.path, *PROMPT, "-o", out).out
        assert json.loads(beside.read_text()) == told
        assert names(out.parent) == [out.name, beside.name]


class TestBegunByAnotherRun:
    def test_refused_unless_told(self, zeroseg, stack, out):
        LabelsWriter(out, (3, 256, 256), run="another").write(0, np.ones((256, 256), int))
        assert "1 planes of an unfinished run" in zeroseg("segment", stack.path, *PROMPT, "-o", out).error()
        assert kept(out) == {0}
        assert zeroseg("segment", stack.path, *PROMPT, "--overwrite", "-o", out).code == 0
        assert names(out.parent) == [out.name, f"{out.name}.json"]

    def test_nothing_that_it_did_stands_in_the_way(self, zeroseg, stack, out):
        LabelsWriter(out, (3, 256, 256), run="another")
        assert zeroseg("segment", stack.path, *PROMPT, "-o", out).code == 0

    def test_planes_that_failed_are_tried_again(self, zeroseg, stack, out):
        raw = stack.raw.copy()
        raw[0] = 0
        picture = out.with_name("picture.npy")
        np.save(picture, raw)
        status = picture.stat()
        run = json.loads(zeroseg("segment", picture, *PROMPT, "--json", "-o", out).out)["run"]
        writer = LabelsWriter(out, raw.shape, run=run)
        fault = {"plane": 0, "objects": [], "seconds": 0.1, "fault": "The disk of the picture was away."}
        provenance.write_json(writer.folder / "000000.json", fault)
        writer.write(0, np.zeros((256, 256), int))
        out.unlink()
        np.save(picture, stack.raw)  # the same picture to all appearance, and readable now
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
        report = json.loads(zeroseg("segment", picture, *PROMPT, "--json", "-o", out).out)
        assert report["planes_done_before"] == []
        assert [plane["fault"] for plane in report["planes"]] == ["", "", ""]


SMALL_FILES = """
import resource, signal, sys
import torch, tifffile, imagecodecs
from napari_zeroseg.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(sys.argv[1:]))
"""


def test_no_room_for_the_cache_and_the_labels(zeroseg, stack, out, tmp_path, monkeypatch):
    pytest.importorskip("resource", reason="needs a limit on the size of files to play a full disk")
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(tmp_path / "cache"))
    arguments = ["segment", str(stack.path), *PROMPT, "-o", str(out)]
    done = subprocess.run([sys.executable, "-c", SMALL_FILES, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    cache, labels = done.stderr.splitlines()  # the cache is told once; what fails is the labels
    assert cache.startswith("zeroseg: Embeddings cannot be kept on disk")
    assert labels.startswith("zeroseg: error: labels.npy could not be written: the disk is full")
    assert kept(out) == {0, 1, 2}
    report = json.loads(zeroseg(*arguments, "--json").out)
    assert report["planes_done_before"] == [0, 1, 2]
    assert np.load(out).any()


@pytest.fixture
def tiny_disk():
    """A disk of 24 kB."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("only root can make a tiny disk, where the system lets it")
        yield Path(folder)
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk(zeroseg, stack, tiny_disk):
    out = tiny_disk / "labels.tif"
    (tiny_disk / "thesis.txt").write_bytes(b"." * 12_000)
    said = zeroseg("segment", stack.path, *PROMPT, "-o", out).error()
    assert "could not be written" in said
    assert "No space left" in said or "the disk is full" in said
    assert not out.exists()
    (tiny_disk / "thesis.txt").unlink()
    (tiny_disk / "more.txt").unlink(missing_ok=True)
    assert zeroseg("segment", stack.path, "--point", "128,128", "--planes", "1", "--overwrite", "-o", out).code == 0
    assert np.asarray(open_image(out).data).any()


def test_a_full_disk_for_the_cache(zeroseg, plane, tiny_disk, out, monkeypatch):
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(tiny_disk))
    done = zeroseg("segment", plane, *PROMPT, "-o", out)
    assert done.code == 0
    assert done.err.startswith("zeroseg: Embeddings cannot be kept on disk")
    assert done.err.count("\n") == 1
