"""`zeroseg evaluate` on files of every kind that labels are written to."""

from __future__ import annotations

import csv
import json
import os
import subprocess

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_zeroseg as zs

from .conftest import command

SPACING = {"Z": 0.05, "Y": 0.004, "X": 0.005}


@pytest.fixture(scope="module")
def files(tmp_path_factory, stack):
    """The truth of the stack, and the same moved by a pixel with one object lost and one invented."""
    folder = tmp_path_factory.mktemp("labels")
    prediction = np.roll(stack.truth, 1, 2)
    prediction[prediction == 2] = 0
    prediction[0, :9, :9] = 40
    return {
        name: zs.write_labels(folder / name, labels, SPACING)
        for name, labels in (("truth.tif", stack.truth), ("found.tif", prediction), ("found.ome.zarr", prediction))
    } | {
        name: zs.write_labels(folder / name, labels, SPACING, "micrometer")
        for name, labels in (("found.nii.gz", prediction), ("truth.nii.gz", stack.truth))
    }


def test_a_table_and_a_csv(zeroseg, files, tmp_path):
    result = zeroseg("evaluate", files["found.tif"], files["truth.tif"], "--csv", tmp_path / "rows.csv")
    assert (result.code, result.err) == (0, "")
    assert "3 planes of 256 x 256 pixels, 0.05 x 0.004 x 0.005 micrometer apart" in result.out
    assert "missed 2" in result.out
    assert "extra 40" in result.out
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {"foreground", "plane", "object", "extra"}
    (lost,) = [row for row in rows if row["kind"] == "object" and row["label"] == "2"]
    assert (lost["iou"], lost["match"], lost["matched"]) == ("0", "0", "False")


@pytest.mark.parametrize("name", ["found.tif", "found.ome.zarr", "found.nii.gz"])
@pytest.mark.parametrize("truth", ["truth.tif", "truth.nii.gz"])
def test_json_is_the_report_whatever_the_format(zeroseg, files, stack, name, truth):
    result = zeroseg("evaluate", files[name], files[truth], "--json")
    assert result.err == ""
    report = json.loads(result.out)
    expected = zs.evaluate(zs.open_image(files["found.tif"]).data, stack.truth, (0.05, 0.004, 0.005), unit="micrometer")
    instances = expected.as_dict()["instances"]
    assert report["instances"].pop("thresholds") == instances.pop("thresholds")
    assert report["instances"] == pytest.approx(instances, rel=1e-5)
    figures = ("iou", "dice", "precision", "recall", "assd", "hd95", "nsd")
    measured = [getattr(expected.foreground, name) for name in figures]
    assert [report["foreground"][name] for name in figures] == pytest.approx(measured, rel=1e-5)
    assert report["spacing"] == pytest.approx([0.05, 0.004, 0.005], rel=1e-5)
    assert report["files"] == {"prediction": str(files[name]), "truth": str(files[truth])}


def test_options_are_those_of_the_function(zeroseg, files, stack):
    options = ["--planes", "1:3", "--per-plane", "--ignore", "1", "--spacing", "9,2,2", "--tolerance", "3"]
    report = json.loads(zeroseg("evaluate", files["found.tif"], files["truth.tif"], *options, "--json").out)
    expected = zs.evaluate(
        zs.open_image(files["found.tif"]).data,
        stack.truth,
        (9, 2, 2),
        planes=[1, 2],
        per_plane=True,
        ignore=1,
        tolerance=3,
        unit="micrometer",
    )
    assert report == {"files": report["files"], **json.loads(json.dumps(expected.as_dict()))}
    classes = ("--mode", "semantic", "--no-distances", "--json")
    semantic = json.loads(zeroseg("evaluate", files["found.tif"], files["truth.tif"], *classes).out)
    assert (semantic["mode"], semantic["foreground"]["assd"]) == ("semantic", None)


def test_masks_as_png(zeroseg, tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:15] = 255
    Image.fromarray(mask).save(tmp_path / "found.png")
    np.save(tmp_path / "truth.npy", mask > 0)
    result = zeroseg("evaluate", tmp_path / "found.png", tmp_path / "truth.npy")
    assert "One plane of 20 x 30 pixels, 1 x 1 px apart; labels are classes." in result.out
    assert "taken as one class" in result.out
    assert zeroseg("evaluate", tmp_path / "found.png", tmp_path / "truth.npy", "--quiet") == (0, "", "")


def test_voxel_sizes_that_differ_are_told(zeroseg, files, stack, tmp_path):
    zs.write_labels(tmp_path / "other.tif", stack.truth, {**SPACING, "Z": 0.07})
    result = zeroseg("evaluate", tmp_path / "other.tif", files["truth.tif"])
    assert result.code == 0
    assert "The files say different voxel sizes; that of the truth, (0.05, 0.004, 0.005) micrometer" in result.err


def test_bad_input_is_one_line(zeroseg, files, stack, tmp_path):
    tifffile.imwrite(tmp_path / "raw.tif", stack.raw.astype(np.float32) / 7, photometric="minisblack")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    truth = files["truth.tif"]
    for name, sentence in (
        ("raw.tif", "must hold whole numbers"),
        ("colour.png", "is a colour picture"),
        ("broken.nii.gz", "could not be read as NIfTI"),
        ("none.nii.gz", "There is no file"),
        ("none.tif", "There is no file"),
    ):
        assert sentence in zeroseg("evaluate", tmp_path / name, truth).error()
    short = zs.write_labels(tmp_path / "short.tif", stack.truth[:2], SPACING)
    assert "must have one shape" in zeroseg("evaluate", short, truth).error()
    assert "names none of" in zeroseg("evaluate", truth, truth, "--planes", "7:9").error()
    assert "each of the axes" in zeroseg("evaluate", truth, truth, "--spacing", "1,1").error()
    assert "does not exist" in zeroseg("evaluate", truth, truth, "--csv", tmp_path / "no" / "rows.csv").error()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "required: PREDICTION, TRUTH"),
        (["a.tif", "b.tif", "--spacing", "1,0,1"], "2 or 3 numbers above 0"),
        (["a.tif", "b.tif", "--spacing", "wide"], "2 or 3 numbers above 0"),
        (["a.tif", "b.tif", "--tolerance", "-1"], "a distance from 0"),
        (["a.tif", "b.tif", "--csv", "b.tif"], "ends in .csv"),
        (["a.tif", "b.tif", "--mode", "objects"], "invalid choice"),
        (["a.tif", "b.tif", "--ignore", "all"], "invalid int"),
        (["a.tif", "b.tif", "--planes", "all"], "3, 0:20, 0:20:2 or 1,4,7 was expected"),
    ],
)
def test_wrong_usage(zeroseg, arguments, sentence):
    assert sentence in zeroseg("evaluate", *arguments).usage_error()


def test_it_needs_no_torch_and_no_window(files):
    code = (
        "import sys; from napari_zeroseg.cli import main; "
        f"code = main(['evaluate', {str(files['found.tif'])!r}, {str(files['truth.tif'])!r}, '--quiet']); "
        "print(code, {'torch', 'napari', 'qtpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [command([])[0], "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout == "0 set()\n"
