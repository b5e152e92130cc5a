"""Wrong, broken and absurd input: exit code 1, one sentence on stderr, and nothing left behind."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_zeroseg.io.read import open_image
from napari_zeroseg.registry import MOBILE_SAM


@pytest.fixture
def out(tmp_path) -> Path:
    """A name in a folder of its own, in which nothing may be left behind."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder / "labels.tif"


@pytest.fixture
def refused(zeroseg, out):
    """Run `zeroseg segment`, which must fail and leave nothing; return its sentence."""

    def run(source, *given, json_too=True):
        arguments = given or ("--point", "5,5")
        before = sorted(out.parent.iterdir())
        said = zeroseg("segment", source, *arguments, "-o", out).error()
        assert sorted(out.parent.iterdir()) == before
        if json_too:
            assert zeroseg("segment", source, *arguments, "-o", out, "--json").error() == said
        return said

    return run


def array(folder, values) -> Path:
    np.save(folder / "picture.npy", values)
    return folder / "picture.npy"


class TestFiles:
    def test_missing(self, refused, tmp_path):
        assert "There is no file or folder" in refused(tmp_path / "nowhere.tif")

    def test_empty(self, refused, tmp_path):
        (tmp_path / "empty.tif").touch()
        assert "is empty (0 bytes): copy or export it again" in refused(tmp_path / "empty.tif")

    def test_text_named_tif(self, refused, tmp_path):
        (tmp_path / "text.tif").write_text("three years of work")
        assert "is not a TIFF picture, though its ending says so" in refused(tmp_path / "text.tif")

    @pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
    def test_truncated(self, child, stack, out, tmp_path, part):
        data = stack.path.read_bytes()
        (tmp_path / "cut.tif").write_bytes(data[: int(part * len(data))])
        done = child("segment", "cut.tif", "--point", "5,5", "-o", out)
        if done.code == 1:  # as a process: other packages must not add lines of their own
            assert "cut.tif" in done.error()
            assert not list(out.parent.iterdir())
        else:
            assert "was left empty: " in done.err

    def test_other_kinds(self, refused, tmp_path):
        (tmp_path / "notes.txt").write_text("notes")
        assert "is of no kind that is read" in refused(tmp_path / "notes.txt")
        (tmp_path / "folder").mkdir()
        assert "holds no picture" in refused(tmp_path / "folder")


class TestPictures:
    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            (np.zeros((0, 5), np.uint8), "no pixels"),
            (np.zeros((1, 1), np.uint8), "at least 2 of each are needed"),
            (np.arange(200, dtype=np.uint8)[None], "at least 2 of each are needed"),
            (np.arange(200, dtype=np.uint8)[:, None], "at least 2 of each are needed"),
            (np.full((32, 32), np.nan), "every pixel is NaN or infinite"),
            (np.full((32, 32), 7, np.uint16), "All pixels of the plane have the same value (7)"),
            (np.ones((32, 32), complex), "complex numbers"),
            (np.eye(32, dtype=bool), "only True and False"),
            (np.zeros((2, 2, 2, 32, 32), np.uint8), "5 axes without names"),
            (np.arange(9), "1 axes"),
            (np.array([["a", "b"], ["c", "d"]]), "a picture of integers or floats was expected"),
        ],
        ids=["empty", "pixel", "row", "column", "nan", "constant", "complex", "bool", "5-D", "1-D", "text"],
    )
    def test_what_is_no_picture(self, refused, tmp_path, values, sentence):
        prompt = ("--point", "0,0")
        assert sentence in refused(array(tmp_path, values), *prompt)

    def test_a_constant_plane_is_told_and_the_rest_is_done(self, zeroseg, stack, out, tmp_path):
        raw = stack.raw.copy()
        raw[1] = 9
        done = zeroseg("segment", array(tmp_path, raw), "--point", "128,128", "-o", out)
        assert done.code == 0
        assert done.err.startswith("zeroseg: Plane 1 was left empty: All pixels of the plane have the same value (9)")
        assert done.err.count("\n") == 1
        assert "1 object on 2 planes" in done.out
        labels = np.asarray(open_image(out).data)
        assert [bool(plane.any()) for plane in labels] == [True, False, True]
        report = json.loads(out.with_name("labels.tif.json").read_text())
        assert [bool(plane["fault"]) for plane in report["planes"]] == [False, True, False]

    def test_all_planes_constant(self, refused, tmp_path):
        said = refused(array(tmp_path, np.full((3, 32, 32), 9)))
        assert said.startswith("None of 3 planes could be segmented. Plane 0: All pixels of the plane have")

    def test_rgba(self, zeroseg, stack, out, tmp_path):
        four = np.dstack([stack.raw[1]] * 3 + [np.full_like(stack.raw[1], 255)])
        tifffile.imwrite(tmp_path / "rgba.tif", four, photometric="rgb", extrasamples=["unassalpha"])
        done = zeroseg("segment", tmp_path / "rgba.tif", "--point", "128,128", "-o", out)
        assert done.code == 0
        assert "alpha channel, which is left out" in done.err
        assert np.asarray(open_image(out).data).shape == (256, 256)

    def test_100_000_pixels_wide(self, zeroseg, stack, out, tmp_path):
        wide = np.tile(stack.raw[1][100:164], (1, 391))[:, :100_000]
        done = zeroseg("segment", array(tmp_path, wide), "--box", "5,60100,50,60160", "-o", out)
        assert done.code == 0, done
        labels = np.asarray(open_image(out).data)
        assert labels.shape == (64, 100_000)
        assert labels[:, 60_000:60_260].any()
        assert not labels[:, :59_000].any()


class TestPrompts:
    @pytest.mark.parametrize(
        ("prompts", "sentence"),
        [
            (["--negative", "5,5"], "There are only points on background"),
            (["--box", "300,300,400,400"], "lies outside the picture of 256 rows and 256 columns"),
            (["--box", "10,10,10,40"], "has no area"),
            (["--point", "5,256"], "The point at row 5, column 256 lies outside the picture"),
            (["--point", "-1,5"], "lies outside the picture"),
            (["--point", "nan,5"], "must be finite"),
            (["--point", "5,5", "--planes", "3"], "There is no plane 3: planes are counted from 0 to 2"),
            (["--point", "5,5", "--planes", "2:1"], "names none of the planes 0 to 2"),
            (["--point", "5,5", "--planes", "1:2:0"], "a step is at least 1"),
            (["--point", "5,5", "--planes", "1,,2"], "was not understood: write 3, 0:20"),
            (["--box", "1,1,9,9", "--box", "20,20,40,40", "--one-object"], "Two boxes describe one object"),
            (["--point", "5,5", "--contrast", "9,3"], "black below white; got 9 and 3"),
            (["--points", "nowhere.csv"], "There is no file nowhere.csv"),
        ],
    )
    def test_flags(self, refused, stack, prompts, sentence):
        assert sentence in refused(stack.path, *prompts, json_too=False)

    @pytest.mark.parametrize(
        ("rows", "sentence"),
        [
            ("axis-0,axis-1,axis-2\n3,5,5", "names plane (3,), which the picture does not have"),
            ("axis-0,axis-1,axis-2\n-1,5,5", "names plane (-1,), which the picture does not have"),
            ("axis-0,axis-1,axis-2,axis-3\n0,1,5,5", "has 4 axes but the picture has 3"),
            ("axis-0,axis-1,axis-2\n1,5,5", "None of the prompts lies on the chosen planes"),
            ("axis-0,axis-1,axis-2\n0,5,999", "lies outside the picture"),
            ("axis-0,axis-1,axis-2,object\n0,5,5,0", "names object 0: objects are numbered from 1"),
            ("axis-0,axis-1,axis-2,object\n0,5,5,1.5", "a whole number was expected"),
            ("axis-0,axis-1,axis-2,sign\n0,5,5,perhaps", "'positive' or 'negative' was expected"),
            ("axis-0,axis-1,axis-2,sign\n0,5,5,negative", "There are only points on background"),
            ("axis-0,axis-1,axis-2,sign\n0,5,5,negative\n2,5,5,positive", "On plane 0 an object has only points on"),
            ("x,y\n1,2", "axis-0 and axis-1 (row and column), or more axes, were expected"),
            ("axis-0,axis-1\nfive,5", "a number was expected, not 'five'"),
            ("", "is empty"),
        ],
    )
    def test_files(self, refused, stack, tmp_path, rows, sentence):
        (tmp_path / "points.csv").write_text(rows)
        arguments = ["--points", tmp_path / "points.csv", "--planes", "0,2"]
        assert sentence in refused(stack.path, *arguments, json_too=False)

    def test_a_picture_as_table(self, refused, stack):
        assert "could not be read as CSV" in refused(stack.path, "--points", stack.path, json_too=False)

    def test_two_objects_as_one(self, refused, stack, tmp_path):
        (tmp_path / "points.csv").write_text("axis-0,axis-1,object\n5,5,1\n90,90,2\n")
        said = refused(stack.path, "--points", tmp_path / "points.csv", "--one-object")
        assert "the column 'object' numbers 2: leave one of them out" in said


class TestModels:
    @pytest.mark.parametrize(
        ("flag", "value", "sentence"),
        [
            ("--model", "sam_9", "There is no model 'sam_9'; there are:"),
            ("--device", "tpu", "auto, cpu, openvino, cuda, cuda:1 or mps was expected, not 'tpu'"),
            ("--precision", "int4", "invalid choice: 'int4'"),
            ("--field", "10", "a number of pixels from 64 was expected, not '10'"),
        ],
    )
    def test_unknown_choice_is_wrong_usage(self, zeroseg, plane, tmp_path, flag, value, sentence):
        ran = zeroseg("segment", plane, "--point", "5,5", flag, value, "-o", tmp_path / "labels.tif")
        assert ran.code == 2
        assert sentence in ran.err
        assert ran.err.count("\n") == 1

    def test_missing_device(self, refused, plane):
        assert "CUDA devices: choose auto or cpu" in refused(plane, "--point", "5,5", "--device", "cuda:99")

    def test_missing_weights(self, refused, plane):
        said = refused(plane, "--point", "5,5", "--weights", "nowhere.pt")
        assert "The weights of MobileSAM are not at nowhere.pt" in said

    @pytest.mark.parametrize("name", ["half.safetensors", "half.pt"])
    def test_corrupted_weights(self, refused, plane, tmp_path, name):
        (tmp_path / name).write_bytes(MOBILE_SAM.weights.path.read_bytes()[:1_000_000])
        assert name in refused(plane, "--point", "5,5", "--weights", tmp_path / name)


class TestOutputs:
    def test_unknown_ending(self, zeroseg, plane, tmp_path):
        ran = zeroseg("segment", plane, "--point", "5,5", "-o", tmp_path / "labels.png")
        assert ran.code == 2
        assert "files that end in .tif, .tiff, .ome.zarr, .npy, .nii.gz; got 'labels.png'." in ran.err

    def test_missing_folder(self, zeroseg, plane, tmp_path):
        said = zeroseg("segment", plane, "--point", "5,5", "-o", tmp_path / "nowhere" / "labels.tif").error()
        assert "does not exist: create it, or choose another place" in said
        assert not list(tmp_path.iterdir())

    @pytest.mark.skipif(not hasattr(os, "seteuid"), reason="folders have no owners here")
    def test_read_only_folder(self, zeroseg):
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o555)
            root = os.geteuid() == 0
            if root:
                os.seteuid(65534)  # root may write everywhere; nobody may not
            try:
                done = zeroseg("segment", "in.tif", "--point", "5,5", "-o", Path(name) / "labels.tif")
            finally:
                if root:
                    os.seteuid(0)
                Path(name).chmod(0o755)
        assert "choose another" in done.error()
        assert "in.tif" not in done.err

    def test_the_picture_itself(self, zeroseg, plane, tmp_path):
        picture = tmp_path / "picture.tif"
        picture.write_bytes(plane.read_bytes())
        said = zeroseg("segment", picture, "--point", "128,128", "--overwrite", "-o", picture).error()
        assert "itself or lies inside it: choose another name for the labels" in said
        assert picture.read_bytes() == plane.read_bytes()

    def test_inside_the_picture(self, zeroseg, stack, tmp_path):
        for z, one in enumerate(stack.raw):
            tifffile.imwrite(tmp_path / f"{z}.tif", one)
        said = zeroseg("segment", tmp_path, "--point", "128,128", "-o", tmp_path / "labels.tif").error()
        assert "itself or lies inside it: choose another name" in said
        assert len(list(tmp_path.iterdir())) == 3

    def test_environment(self, zeroseg, plane, tmp_path, monkeypatch):
        monkeypatch.setenv("ZEROSEG_DISK_CACHE", "plenty")
        said = zeroseg("segment", plane, "--point", "5,5", "-o", tmp_path / "labels.tif").error()
        assert said == "'plenty' is not a size: write for example '500MB' or '10GB'."
        assert not list(tmp_path.iterdir())
