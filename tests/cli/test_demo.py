"""`zeroseg demo`: sample pictures or one's own in; labels, overlay and report out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_zeroseg import demo
from napari_zeroseg.io.read import open_image


def test_samples(zeroseg, tmp_path):
    pytest.importorskip("data_store", reason="needs pydicom-data, of the extra `samples`")
    out = tmp_path / "made" / "here"
    done = zeroseg("demo", "--out", out, "--json")
    assert done.code == 0, done
    report = json.loads(done.out)
    chest, em = report["samples"]
    assert (chest["objects"], chest["planes"]) == (2, 1)
    assert em["planes"] == demo.EM_PLANES
    assert em["mean_iou"] > 0.85
    assert em["worst_iou"] > 0.6
    assert json.loads((out / "report.json").read_text())["samples"] == report["samples"]
    assert sorted(file.name for file in out.iterdir()) == [
        "chest_labels.tif",
        "chest_overlay.png",
        "em_labels.tif",
        "em_overlay.png",
        "report.json",
    ]
    for sample in report["samples"]:
        labels = np.asarray(open_image(sample["labels"]).data)
        assert len(np.unique(labels)) == sample["objects"] + 1
        with Image.open(sample["overlay"]) as overlay:
            assert overlay.size == labels.shape[:-3:-1]


@pytest.mark.parametrize("kind", ["plane", "stack", "colour"])
def test_own_picture(zeroseg, stack, tmp_path, kind):
    picture = {"plane": stack.raw[1], "stack": stack.raw, "colour": np.dstack([stack.raw[1]] * 3)}[kind]
    tifffile.imwrite(tmp_path / "mine.tif", picture, photometric="rgb" if kind == "colour" else "minisblack")
    done = zeroseg("demo", tmp_path / "mine.tif", "--out", tmp_path / "out")
    assert done.code == 0, done
    assert done.out.startswith(f"mine.tif, plane {1 if kind == 'stack' else 0}, clicks of a grid: ")
    labels = np.asarray(open_image(tmp_path / "out" / "mine_labels.tif").data)
    assert labels.shape == ((3, 256, 256) if kind == "stack" else (256, 256))
    assert labels.any()


def test_faults(zeroseg, tmp_path):
    np.save(tmp_path / "grey.npy", np.full((40, 40), 3))
    out = tmp_path / "out"
    assert "There is no file or folder" in zeroseg("demo", tmp_path / "nowhere.tif", "--out", out).error()
    assert "have the same value (3)" in zeroseg("demo", tmp_path / "grey.npy", "--out", out).error()
    (tmp_path / "file").touch()
    assert "cannot be made" in zeroseg("demo", "--out", tmp_path / "file").error()
