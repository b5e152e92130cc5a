"""Heat maps as an output of the command line, and examples of another picture."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tifffile
import zarr

from napari_zeroseg.cascade.words import save_word, teach
from napari_zeroseg.cli import main
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import remove
from napari_zeroseg.metrics import iou


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(part) for part in (*arguments, "--device", "cpu")])
    told = capsys.readouterr()
    return code, told.out, told.err


def names_of(path):
    if path.suffix == ".zarr":
        return [channel["label"] for channel in zarr.open_group(path, mode="r").attrs["ome"]["omero"]["channels"]]
    with tifffile.TiffFile(path) as tif:
        return re.findall(r'Channel [^>]*Name="([^"]+)"', tif.ome_metadata)


@pytest.fixture
def spots(tmp_path):
    """Two planes with a bright rectangle each."""
    planes = np.full((2, 120, 130), 90, np.uint8)
    planes[0, 30:70, 40:90] = planes[1, 50:90, 20:70] = 240
    tifffile.imwrite(tmp_path / "spots.tif", planes, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    return tmp_path / "spots.tif"


@pytest.mark.parametrize("ending", [".tif", ".ome.zarr"])
@pytest.mark.parametrize("alone", [True, False])
def test_heat_maps(spots, capsys, toys, ending, alone):
    heat, out = spots.with_name("heat" + ending), spots.with_name("out.tif")
    models = ("--model", "toy_words") if alone else ("--text-model", "toy_words")
    ask = ("segment", spots, *models, "--text", "bright, dark, -pale", "--threshold", "0.7", "--heat", heat, "-o", out)
    code, told, error = run(capsys, *ask, "--json")
    assert code == 0, error
    assert json.loads(told)["heat"] == str(heat)
    picture = open_image(heat)
    assert picture.data.dtype == np.float32
    assert set(picture.axes) == {"Z", "C", "Y", "X"}
    assert names_of(heat) == ["bright", "dark"]
    maps = np.asarray(picture.data).transpose([picture.axes.index(axis) for axis in "CZYX"])
    raw = tifffile.imread(spots)
    np.testing.assert_allclose(maps[0], raw / 255, atol=0.01)
    np.testing.assert_allclose(maps[1], 1 - raw / 255, atol=0.01)
    assert picture.spacing["X"] == pytest.approx(0.5)
    assert not list(spots.parent.glob(".*partial"))
    code, told, error = run(capsys, *ask)
    assert "nothing to do" in told
    remove(heat)
    code, _, error = run(capsys, *ask)
    assert code == 1
    assert "but its heat maps" in error


def test_heat_maps_of_a_run_that_was_stopped(spots, capsys, toys, monkeypatch):
    from napari_zeroseg import cascade_ways

    heat, out = spots.with_name("heat.tif"), spots.with_name("out.tif")
    ask = ("segment", spots, "--model", "toy_words", "--text", "bright", "--heat", heat, "-o", out)
    look, planes = cascade_ways.heat_of, []

    def once(*arguments):
        if planes:
            raise KeyboardInterrupt
        planes.append(0)
        return look(*arguments)

    monkeypatch.setattr(cascade_ways, "heat_of", once)
    code, _, error = run(capsys, *ask)
    assert "Planes that are done are kept" in error
    assert not heat.exists()
    planes.clear()
    code, told, error = run(capsys, *ask)
    assert code == 0, error
    assert "1 plane(s) had been done by the run before" in told
    np.testing.assert_allclose(tifffile.imread(heat).squeeze(), tifffile.imread(spots) / 255, atol=0.01)
    code, _, error = run(capsys, *ask, "--threshold", "0.6", "-o", spots.with_name("other.tif"))
    assert code == 1
    assert f"{heat} is already there" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--like", "raw.tif", "--heat", "h.tif"], "--heat is for --text"),
        (["--text", "cell", "--heat", "h.png"], "Heat maps are written to files that end in .tif, .tiff, .ome.zarr"),
        (["--text", "cell", "--heat", "raw.tif"], "itself or lies inside it"),
        (["--text", "cell", "--heat", "x.tif"], "itself or lies inside it"),
        (["--text", "cell", "--examples", "raw.tif"], "--examples is for --like"),
        (["--like", "some.tif", "--examples", "one.tif"], "one.tif 1 of"),
    ],
)
def test_mistakes_of_heat_and_examples(files, capsys, arguments, said):
    tifffile.imwrite(files / "one.tif", np.zeros((60, 70), np.uint8))
    given = [str(files / part) if "." in part else part for part in arguments]
    try:
        code = main(["find", str(files / "raw.tif"), "-o", str(files / "x.tif"), *given])
    except SystemExit as stopped:
        code = stopped.code
    assert code in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_heat_of_words_that_were_taught_by_looks(files, capsys, scene):
    save_word(teach("spots", scene.views[0].model, scene.views, list(scene.truth)))
    code, _, error = run(
        capsys, "segment", files / "raw.tif", "--text", "spots", "--heat", files / "h.tif", "-o", files / "x.tif"
    )
    assert code == 1
    assert "--heat means nothing here, since all of these words were taught by examples" in error


def test_examples_of_another_picture(files, capsys, scene):
    one, two = files / "first.tif", files / "second.tif"
    tifffile.imwrite(one, scene.views[0].picture[:300, :340])
    tifffile.imwrite(files / "given.tif", tifffile.imread(files / "some.tif")[0, :300, :340])
    tifffile.imwrite(two, scene.views[1].picture)
    ask = ("find", two, "--like", files / "given.tif", "-o", files / "out.tif")
    code, _, error = run(capsys, *ask)
    assert code == 1
    assert "name it by --examples" in error
    code, _, error = run(capsys, *ask, "--examples", one)
    assert code == 0, error
    labels = tifffile.imread(files / "out.tif")
    assert sorted(set(np.unique(labels)) - {0}) == list(range(1, labels.max() + 1))
    assert iou(labels > 0, scene.truth[1] > 0) > 0.4
