"""`zeroseg segment` on good input: prompts in every form, planes, outputs, report and provenance."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version

import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from napari_zeroseg.io.read import open_image
from napari_zeroseg.metrics import iou
from napari_zeroseg.registry import MOBILE_SAM


def numbers(values) -> str:
    return ",".join(map(str, values))


def labels_of(path) -> np.ndarray:
    if path.name.endswith(".nii.gz"):
        return np.asarray(nibabel.load(path).dataobj).T
    return np.asarray(open_image(path).data)


def test_a_box_and_a_point_are_two_objects(zeroseg, stack, plane, tmp_path):
    out = tmp_path / "labels.tif"
    done = zeroseg(
        "segment", plane, "--box", numbers(stack.box(1, 1)), "--point", numbers(stack.centre(2, 1)), "-o", out
    )
    assert done == (0, f"{out}: 2 objects on 1 plane in {done.out.split()[-2]} s.\n", "")
    labels = labels_of(out)
    assert labels.shape == (256, 256)
    assert iou(labels == 1, stack.truth[1] == 1) > 0.8
    assert iou(labels == 2, stack.truth[1] == 2) > 0.8


def test_one_object_of_points_on_it_and_on_background(zeroseg, stack, plane, tmp_path):
    row, column = stack.centre(1, 1)
    top = stack.box(1, 1)[0]
    prompts = ["--point", f"{row},{column}", "--point", f"{row + 4},{column}", "--negative", f"{top - 6},{column}"]
    report = json.loads(
        zeroseg("segment", plane, *prompts, "--one-object", "--json", "-o", tmp_path / "labels.tif").out
    )
    (found,) = report["settings"]["prompts"]
    assert found["signs"] == [True, True, False]
    assert iou(labels_of(tmp_path / "labels.tif") == 1, stack.truth[1] == 1) > 0.8


def test_prompts_of_flags_are_for_all_planes(zeroseg, stack, tmp_path):
    report = json.loads(
        zeroseg("segment", stack.path, "--box", numbers(stack.box(1, 1)), "--json", "-o", tmp_path / "labels.tif").out
    )
    assert [item["plane"] for item in report["planes"]] == [0, 1, 2]
    assert all([item["label"] for item in plane["objects"]] == [1] for plane in report["planes"])
    assert [np.count_nonzero(plane == 1) for plane in labels_of(tmp_path / "labels.tif")] == [
        item["objects"][0]["area"] for item in report["planes"]
    ]


@pytest.mark.parametrize(
    ("planes", "chosen"),
    [("1", [1]), ("0:2", [0, 1]), ("0:3:2", [0, 2]), ("2,0", [0, 2]), ("-1:", [2]), (":", [0, 1, 2]), ("2:99", [2])],
)
def test_planes(zeroseg, stack, tmp_path, planes, chosen):
    done = zeroseg("segment", stack.path, "--point", "128,128", "--planes", planes, "-o", tmp_path / "labels.npy")
    assert done.code == 0
    labels = labels_of(tmp_path / "labels.npy")
    assert labels.shape == (3, 256, 256)
    assert [z for z in range(3) if labels[z].any()] == chosen


@pytest.mark.parametrize("ending", [".tif", ".ome.zarr", ".npy", ".nii.gz"])
def test_outputs(zeroseg, stack, tmp_path, ending):
    out = tmp_path / f"labels{ending}"
    assert zeroseg("segment", stack.path, "--box", numbers(stack.box(1, 1)), "-o", out).code == 0
    labels = labels_of(out)
    assert labels.shape == (3, 256, 256)
    assert labels.dtype.kind in "iu"
    assert iou(labels[1] == 1, stack.truth[1] == 1) > 0.8
    assert sorted(file.name for file in tmp_path.iterdir()) == [out.name, f"{out.name}.json"]
    spacing = {"Z": 0.05, "Y": 0.004, "X": 0.005}
    if ending == ".nii.gz":
        image = nibabel.load(out)
        assert image.header.get_zooms() == pytest.approx([spacing[axis] for axis in "XYZ"])
        assert image.header.get_xyzt_units()[0] == "micron"
    elif ending != ".npy":
        assert open_image(out).spacing == pytest.approx(spacing)


def test_report_and_provenance(zeroseg, stack, tmp_path):
    out = tmp_path / "labels.tif"
    arguments = ["--box", numbers(stack.box(1, 1)), "--planes", "0:2", "--field", "plane"]
    done = zeroseg("segment", stack.path, *arguments, "--json", "-o", out)
    report = json.loads(done.out)
    assert report == json.loads((tmp_path / "labels.tif.json").read_text())
    assert done.err == ""
    assert report["out"] == str(out)
    settings = report["settings"]
    assert settings["input"]["path"] == str(stack.path)
    assert settings["input"]["bytes"] == stack.path.stat().st_size
    assert settings["model"] == "mobile_sam"
    assert settings["model_hash"].startswith(MOBILE_SAM.weights.sha256[:16])
    assert hashlib.sha256(MOBILE_SAM.weights.path.read_bytes()).hexdigest() == MOBILE_SAM.weights.sha256
    assert settings["version"] == version("napari-zeroseg")
    assert settings["prompts"] == [{"label": 1, "box": [float(n) for n in stack.box(1, 1)], "planes": [0, 1]}]
    assert (settings["field"], settings["overlap"], settings["contrast"]) == ("plane", "keep", None)
    assert report["started"] <= report["finished"]
    assert report["seconds"] > 0
    assert report["torch"] == version("torch")
    assert [item["fault"] for item in report["planes"]] == ["", ""]
    assert 0.5 < report["planes"][0]["objects"][0]["score"] <= 1.1


def test_overlap(zeroseg, stack, plane, tmp_path):
    row, column = stack.centre(1, 1)
    twice = ["--point", f"{row},{column}", "--box", numbers(stack.box(1, 1))]
    areas = {}
    for policy in ("keep", "replace", "empty"):
        out = tmp_path / f"{policy}.tif"
        assert zeroseg("segment", plane, *twice, "--overlap", policy, "-o", out).code == 0
        labels = labels_of(out)
        areas[policy] = np.count_nonzero(labels == 1), np.count_nonzero(labels == 2)
    assert areas["keep"] == areas["empty"]
    assert areas["keep"][0] > areas["keep"][1]
    assert areas["replace"][1] > areas["replace"][0]


def test_contrast_is_what_the_model_sees(zeroseg, stack, tmp_path):
    wide = tmp_path / "wide.npy"
    np.save(wide, stack.raw[1].astype(np.float32) * 100 - 5000)
    same = ["--box", numbers(stack.box(1, 1))]
    assert zeroseg("segment", wide, *same, "--contrast", "-5000,20500", "-o", tmp_path / "a.npy").code == 0
    np.save(tmp_path / "plane.npy", stack.raw[1])
    assert zeroseg("segment", tmp_path / "plane.npy", *same, "-o", tmp_path / "b.npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_a_box_may_stick_out_of_the_picture(zeroseg, plane, tmp_path):
    assert zeroseg("segment", plane, "--box", "-5,-8.5,60,60", "-o", tmp_path / "labels.tif").code == 0
    assert labels_of(tmp_path / "labels.tif").any()


def test_other_pictures(zeroseg, stack, tmp_path):
    colour = np.stack([stack.raw[1]] * 3, -1)
    tifffile.imwrite(tmp_path / "rgb.tif", colour, photometric="rgb")
    np.save(tmp_path / "big_endian.npy", stack.raw[1].astype(">u2") * 200)
    holes = stack.raw[1].astype(np.float64)
    holes[:20, :20] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    (tmp_path / "folder").mkdir()
    for z, one in enumerate(stack.raw):
        tifffile.imwrite(tmp_path / "folder" / f"plane{z + 8}.tif", one)
    group = zarr.open_group(tmp_path / "levels.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=stack.raw)
    box = ["--box", numbers(stack.box(1, 1))]
    for name in ("rgb.tif", "big_endian.npy", "holes.npy", "folder"):
        out = tmp_path / f"{name}.labels.tif"
        done = zeroseg("segment", tmp_path / name, *box, "-o", out)
        assert done.code == 0, done
        labels = labels_of(out)
        assert iou((labels[1] if labels.ndim == 3 else labels) == 1, stack.truth[1] == 1) > 0.8, name


def test_quiet_and_verbose(zeroseg, plane, tmp_path):
    point = ["--point", "128,128"]
    assert zeroseg("segment", plane, *point, "--quiet", "-o", tmp_path / "a.tif") == (0, "", "")
    done = zeroseg("segment", plane, *point, "--verbose", "-o", tmp_path / "b.tif")
    assert "zeroseg: Plane 0: 1 objects" in done.err


def test_as_a_process(child, stack, plane, tmp_path):
    done = child("segment", plane, "--box", numbers(stack.box(1, 1)), "-o", "labels.tif")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("labels.tif: 1 object on 1 plane in ")
    assert labels_of(tmp_path / "labels.tif").max() == 1
