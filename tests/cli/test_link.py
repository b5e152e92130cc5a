"""`zeroseg link` on files."""

from __future__ import annotations

import json

import numpy as np
import pytest

import napari_zeroseg as zs
from napari_zeroseg import provenance
from napari_zeroseg.io.label_files import open_labels
from napari_zeroseg.io.write import LabelsWriter

SPACING = {"Z": 0.05, "Y": 0.004, "X": 0.004}


@pytest.fixture
def planes(tmp_path, stack):
    """The truth of the stack with other numbers on each plane, and a speck."""
    rng = np.random.default_rng(0)
    labels = np.stack([np.r_[0, rng.permutation(stack.truth.max()) + 1][plane] for plane in stack.truth])
    labels[1, :2, :2] = labels.max() + 1
    return zs.write_labels(tmp_path / "planes.tif", labels, SPACING)


def same_objects(one, other):
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


@pytest.mark.parametrize("name", ["linked.tif", "linked.ome.zarr", "linked.npy", "linked.nii.gz"])
def test_objects_have_one_number_on_all_planes(zeroseg, planes, stack, tmp_path, name):
    result = zeroseg("link", planes, "-o", tmp_path / name, "--min-area", 5 * 0.004**2, "--json")
    assert (result.code, result.err) == (0, "")
    report = json.loads(result.out)
    linked = open_labels(tmp_path / name)
    assert same_objects(np.asarray(linked.data[:]), stack.truth)
    assert len(report["objects"]) == stack.truth.max()
    if not name.endswith(".npy"):
        assert linked.spacing["Z"] == pytest.approx(0.05)


def test_provenance_and_the_same_run_again(zeroseg, planes, tmp_path):
    out = tmp_path / "out.tif"
    report = json.loads(zeroseg("link", planes, "-o", out, "--gap", 1, "--max-hole-area", "inf", "--json").out)
    told = json.loads(provenance.path_beside(out).read_text(), parse_constant=pytest.fail)
    assert told == report
    assert told["settings"]["input"]["path"] == str(planes)
    chosen = told["settings"]["link"]
    assert (chosen["gap"], chosen["branches"], chosen["max_hole_area"]) == (1, "join", "inf")
    assert chosen["spacing"] == pytest.approx([0.05, 0.004, 0.004])
    assert told["started"] <= told["finished"]
    assert {"version"} <= told["settings"].keys()
    assert {"python", "system", "seconds"} <= told.keys()
    before = out.stat().st_mtime_ns
    flags = ("--gap", 1, "--max-hole-area", "inf")
    again = zeroseg("link", planes, "-o", out, *flags)
    assert again == (0, f"{out} is already there from the same run: nothing to do.\n", "")
    assert json.loads(zeroseg("link", planes, "-o", out, *flags, "--json").out)["objects"] == report["objects"]
    assert "is not from this run" in zeroseg("link", planes, "-o", out, "--gap", 1).error()
    assert out.stat().st_mtime_ns == before
    assert zeroseg("link", planes, "-o", out, "--overwrite").code == 0
    assert json.loads(provenance.path_beside(out).read_text())["settings"]["link"]["gap"] == 0


def test_what_is_there_stays(zeroseg, planes, tmp_path):
    out = zs.write_labels(tmp_path / "mine.tif", np.ones((2, 3), int))
    before = out.read_bytes()
    assert "is already there" in zeroseg("link", planes, "-o", out).error()
    assert "itself or lies inside it" in zeroseg("link", planes, "-o", planes, "--overwrite").error()
    assert out.read_bytes() == before
    assert zeroseg("link", planes, "-o", out, "--overwrite", "--quiet").code == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    ("flags", "sentence"), [(("--high", "0.1"), "0 < low <= high <= 1"), (("--min-planes", "0"), "at least 1")]
)
def test_absurd_options(zeroseg, planes, tmp_path, flags, sentence):
    assert sentence in zeroseg("link", planes, "-o", tmp_path / "out.tif", *flags).error()
    assert not (tmp_path / "out.tif").exists()


def test_one_plane_is_no_stack(zeroseg, tmp_path):
    plane = zs.write_labels(tmp_path / "plane.tif", np.eye(4, dtype=int))
    assert "A stack" in zeroseg("link", plane, "-o", tmp_path / "out.tif").error()


def test_stopped_in_the_middle_and_taken_up(zeroseg, planes, tmp_path, monkeypatch):
    """Planes that are written stay, and other options do not take them up."""
    out = tmp_path / "out.ome.zarr"
    write, written = LabelsWriter.write, []

    def until_stopped(self, index, plane):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(index)
        write(self, index, plane)

    monkeypatch.setattr(LabelsWriter, "write", until_stopped)
    assert "Planes that are done are kept" in zeroseg("link", planes, "-o", out).error()
    assert "unfinished run" in zeroseg("link", planes, "-o", out, "--gap", 1).error()
    written.clear()
    assert zeroseg("link", planes, "-o", out, "--json").code == 0
    assert written == [2]
    monkeypatch.undo()
    assert zeroseg("link", planes, "-o", tmp_path / "whole.npy").code == 0
    assert np.array_equal(open_labels(out).data[:], np.load(tmp_path / "whole.npy"))


def test_what_is_linked_is_no_plane_of_the_labels(zeroseg, stack, tmp_path):
    for number, plane in enumerate(stack.truth):
        zs.write_labels(tmp_path / f"{number}.tif", plane)
    assert "itself or lies inside it" in zeroseg("link", tmp_path, "-o", tmp_path / "out.tif").error()
    assert len(list(tmp_path.iterdir())) == len(stack.truth)


def test_labels_that_are_still_being_written_are_told(zeroseg, stack, tmp_path):
    source, out = tmp_path / "labels.ome.zarr", tmp_path / "out.npy"
    writer = LabelsWriter(source, stack.truth.shape)
    writer.write(0, stack.truth[0])
    done = zeroseg("link", source, "-o", out)
    assert done.code == 0
    assert f"{source} is not finished: planes that are not done are empty" in done.err
    assert np.load(out).any((1, 2)).tolist() == [True, False, False]
    for number in (1, 2):
        writer.write(number, stack.truth[number])
    writer.close()
    assert zeroseg("link", source, "-o", out, "--overwrite").err == ""


def test_labels_that_cannot_be_linked_leave_nothing(zeroseg, tmp_path):
    wrong = np.zeros((3, 4, 5), int)
    wrong[2, 1, 1] = -1
    np.save(tmp_path / "wrong.npy", wrong)
    assert "Labels go from 0" in zeroseg("link", tmp_path / "wrong.npy", "-o", tmp_path / "out.ome.zarr").error()
    assert [file.name for file in tmp_path.iterdir() if "out" in file.name and not file.name.endswith(".lock")] == []


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--gap", 1, "--max-hole-volume", 1, "--min-planes", 2, "--preserve")])
def test_several_processes_link_as_one(zeroseg, planes, tmp_path, flags):
    pytest.importorskip("distributed", reason="runs on several processes need dask.distributed")
    alone = zeroseg("link", planes, "-o", tmp_path / "alone.tif", "--json", *flags)
    several = zeroseg("link", planes, "-o", tmp_path / "several.tif", "--json", "--workers", 2, *flags)
    assert (several.code, several.err) == (0, "")
    assert json.loads(several.out)["objects"] == json.loads(alone.out)["objects"]
    assert (tmp_path / "several.tif").read_bytes() == (tmp_path / "alone.tif").read_bytes()


def test_where_the_planes_are_linked(zeroseg, planes, tmp_path):
    result = zeroseg("link", planes, "-o", tmp_path / "out.tif", "--workers", 2, "--scheduler", "tcp://127.0.0.1:1")
    assert "not allowed with argument" in result.usage_error()
    assert "a number of processes" in zeroseg("link", planes, "-o", tmp_path / "out.tif", "--workers", 0).usage_error()
