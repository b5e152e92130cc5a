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
from napari_zeroseg.errors import WriteError
from napari_zeroseg.io.heat_maps import HeatWriter
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import remove
from napari_zeroseg.locks import only_run_on
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


@pytest.fixture
def once(monkeypatch):
    """Stops the first run after one plane; what is yielded lets further ones go on."""
    from napari_zeroseg import cascade_ways

    look, planes = cascade_ways.heat_of, []

    def stop(*arguments):
        if planes:
            raise KeyboardInterrupt
        planes.append(0)
        return look(*arguments)

    monkeypatch.setattr(cascade_ways, "heat_of", stop)
    return lambda: monkeypatch.setattr(cascade_ways, "heat_of", look)


def test_heat_maps_of_a_run_that_was_stopped(spots, capsys, toys, once):
    heat, out = spots.with_name("heat.tif"), spots.with_name("out.tif")
    ask = ("segment", spots, "--model", "toy_words", "--text", "bright", "--heat", heat, "-o", out)
    code, _, error = run(capsys, *ask)
    assert "Planes that are done are kept" in error
    assert not heat.exists()
    once()
    code, told, error = run(capsys, *ask)
    assert code == 0, error
    assert "1 plane(s) had been done by the run before" in told
    np.testing.assert_allclose(tifffile.imread(heat).squeeze(), tifffile.imread(spots) / 255, atol=0.01)
    code, _, error = run(capsys, *ask, "--threshold", "0.6", "-o", spots.with_name("other.tif"))
    assert code == 1
    assert f"{heat} is already there" in error


@pytest.mark.parametrize("out", ["out.tif", "other.tif"])
def test_a_refused_run_leaves_the_maps_of_one_that_was_stopped(spots, capsys, toys, once, out):
    heat = spots.with_name("heat.tif")
    ask = (
        "segment",
        spots,
        "--model",
        "toy_words",
        "--text",
        "bright",
        "--heat",
        heat,
        "-o",
        spots.with_name("out.tif"),
    )
    run(capsys, *ask)
    kept = {file.name: file.read_bytes() for file in heat.with_name(".heat.tif.heat.partial").iterdir()}
    assert len(kept) == 2
    once()
    another = (*ask, "--threshold", "0.6", "-o", spots.with_name(out))
    code, _, error = run(capsys, *another)
    assert code == 1
    assert "1 planes of an unfinished run with another picture or settings" in error
    assert {file.name: file.read_bytes() for file in heat.with_name(".heat.tif.heat.partial").iterdir()} == kept
    code, told, error = run(capsys, *another, "--overwrite")
    assert code == 0, error
    assert "done by the run before" not in told
    assert not list(spots.parent.glob(".heat*"))


def test_maps_are_not_mixed_with_those_of_another_run(tmp_path):
    maps = {"cell": np.ones((4, 5))}
    first, second = (HeatWriter(tmp_path / "heat.tif", (4, 5), None, None, run) for run in ("a", "b"))
    assert not list(tmp_path.iterdir())
    first.write(0, maps)
    assert (first.done, second.done) == ({0}, set())
    with pytest.raises(WriteError, match="unfinished run with another picture or settings"):
        second.write(0, maps)
    second.forget()
    second.write(0, maps)
    assert (first.done, second.done) == (set(), {0})


def test_one_run_at_a_time_on_heat_maps(spots, capsys, toys):
    heat, out = spots.with_name("heat.tif"), spots.with_name("out.tif")
    ask = ("segment", spots, "--model", "toy_words", "--text", "bright", "--heat", heat, "-o", out)
    with only_run_on(heat):
        code, _, error = run(capsys, *ask)
    assert code == 1
    assert f"Another run is writing {heat}" in error


def test_heat_maps_that_are_asked_for_elsewhere(spots, capsys, toys):
    heat, out = spots.with_name("heat.tif"), spots.with_name("out.tif")
    ask = ("segment", spots, "--model", "toy_words", "--text", "bright, dark", "-o", out)
    code, told, error = run(capsys, *ask, "--heat", heat, "--json")
    assert code == 0, error
    assert json.loads(told)["classes"] == {"bright": 1, "dark": 2}
    code, _, error = run(capsys, *ask, "--heat", spots)
    assert code == 1  # the picture itself
    unrelated = spots.with_name("unrelated.tif")
    unrelated.write_bytes(b"something")
    code, _, error = run(capsys, *ask, "--heat", unrelated)
    assert code == 1
    assert f"its heat maps are {heat}: {unrelated} is something else" in error


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


def test_examples_of_the_picture_itself_are_none(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    ask = ("find", files / "raw.tif", "--like", "some.tif", "--planes", "0")
    plain, named = files / "plain.tif", files / "named.tif"
    code, _, error = run(capsys, *ask, "-o", plain)
    assert code == 0, error
    code, _, error = run(capsys, *ask, "--examples", "raw.tif", "-o", named)
    assert code == 0, error
    some = tifffile.imread(files / "some.tif")
    assert (tifffile.imread(named)[some > 0] == some[some > 0]).all()
    np.testing.assert_array_equal(tifffile.imread(named), tifffile.imread(plain))
