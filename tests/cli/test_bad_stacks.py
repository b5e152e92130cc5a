"""Stacks with something wrong in the middle: what can be done is done, and what could not be is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_zeroseg.errors import ReadError
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.locks import only_run_on

pytestmark = pytest.mark.usefixtures("toys")

HOW = ("--model", "toy_flood", "--box", "10,10,30,40")


@pytest.fixture
def raw() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (5, 64, 80), np.uint8)


def write_folder(folder, planes, ending=".tif"):
    folder.mkdir()
    for number, plane in planes.items():
        path = folder / f"slice_{number:03}{ending}"
        if ending == ".tif":
            tifffile.imwrite(path, plane)
        else:
            Image.fromarray(plane).save(path)
    return folder


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (lambda plane: plane[:-1], "63 x 80 uint8 but slice_000.tif is 64 x 80 uint8"),
        (lambda plane: plane.astype(np.uint16), "64 x 80 uint16 but"),
    ],
    ids=["size", "type"],
)
def test_a_plane_of_another_size_or_type(zeroseg, raw, tmp_path, odd, words):
    planes = {z: odd(plane) if z == 2 else plane for z, plane in enumerate(raw)}
    folder = write_folder(tmp_path / "planes", planes)
    said = zeroseg("segment", folder, *HOW, "-o", tmp_path / "out.tif").error()
    assert f"slice_002.tif is {words}" in said
    assert "move the odd one out of the folder" in said


def garbage_header(path):
    """The start of a TIFF of which nothing else makes sense."""
    path.write_bytes(path.read_bytes()[:4] + np.random.default_rng(1).bytes(500))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:20])


DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "text": (lambda path: path.write_text("Not a picture."), "picture, though its ending says so"),
    "garbage": (garbage_header, "slice_"),
    "cut off": (cut_off, "slice_"),
}


@pytest.mark.parametrize("ending", [".tif", ".png"])
@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("where", [0, 2])
def test_a_damaged_file_is_a_plane_that_cannot_be_read(zeroseg, raw, tmp_path, ending, damage, where):
    folder = write_folder(tmp_path / "planes", dict(enumerate(raw)), ending)
    spoil, words = DAMAGES[damage]
    spoil(folder / f"slice_{where:03}{ending}")
    out = tmp_path / "out.ome.zarr"
    done = zeroseg("segment", folder, *HOW, "-o", out)
    assert done.code == 0
    assert f"Plane {where} was left empty: " in done.err
    assert words in done.err
    assert done.err.count("\n") == 1
    assert open_image(out).data[:].any((1, 2)).tolist() == [plane != where for plane in range(5)]
    report = json.loads(out.with_name(out.name + ".json").read_text())
    assert [bool(plane["fault"]) for plane in report["planes"]] == [plane == where for plane in range(5)]


@pytest.mark.parametrize("ending", [".tif", ".png"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_no_file_of_a_folder_can_be_read(zeroseg, raw, tmp_path, ending, damage):
    folder = write_folder(tmp_path / "planes", dict(enumerate(raw)), ending)
    for path in folder.iterdir():
        DAMAGES[damage][0](path)
    said = zeroseg("segment", folder, *HOW, "-o", tmp_path / "out.tif").error()
    assert "slice_000" in said
    assert DAMAGES[damage][1] in said


def test_a_damaged_file_of_another_kind_does_not_choose_it(raw, tmp_path):
    folder = write_folder(tmp_path / "planes", dict(enumerate(raw)), ".png")
    (folder / "thumbnail.tif").write_bytes(b"")
    np.testing.assert_array_equal(np.asarray(open_image(folder).data), raw)


def test_planes_keep_their_numbers_beside_damaged_files(raw, tmp_path):
    folder = write_folder(tmp_path / "planes", dict(enumerate(raw)))
    (folder / "slice_000.tif").write_bytes(b"")
    planes = open_image(folder).planes()
    assert len(planes) == 5
    for number in range(1, 5):
        np.testing.assert_array_equal(planes.read(number), raw[number])
    with pytest.raises(ReadError, match=r"Plane 0: slice_000\.tif is empty"):
        planes.read(0)


def test_an_odd_plane_that_shows_when_it_is_read(zeroseg, raw, tmp_path):
    planes = {z: plane[:-1] if z == 2 else plane for z, plane in enumerate(raw)}
    folder = write_folder(tmp_path / "planes", planes, ".png")
    out = tmp_path / "out.ome.zarr"
    done = zeroseg("segment", folder, *HOW, "-o", out)
    assert done.code == 0
    assert "Plane 2 was left empty: slice_002.png is (63, 80)" in done.err
    assert open_image(out).data[:].any((1, 2)).tolist() == [True, True, False, True, True]


def test_a_missing_file_is_told(zeroseg, raw, tmp_path):
    folder = write_folder(tmp_path / "planes", dict.fromkeys((8, 9, 10, 12, 13), raw[0]))
    done = zeroseg("segment", folder, *HOW, "-o", tmp_path / "out.tif")
    assert done.code == 0
    assert "planes: files seem to be missing between the numbers 10 and 12." in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("numbers", [(0, 10, 20, 30), (1, 5, 3, 40, 17), (7, 8), (1, 2, 3, 4)])
def test_numbers_without_a_rule_or_a_gap_are_no_matter(zeroseg, raw, tmp_path, numbers):
    folder = write_folder(tmp_path / "planes", dict.fromkeys(numbers, raw[0]))
    assert zeroseg("segment", folder, *HOW, "-o", tmp_path / "out.tif").err == ""


@pytest.mark.parametrize("ending", [".tif", ".ome.zarr"])
def test_a_broken_page_in_the_middle(zeroseg, raw, tmp_path, ending):
    source, out = tmp_path / "stack.tif", tmp_path / f"out{ending}"
    tifffile.imwrite(source, raw, compression="zlib")
    with tifffile.TiffFile(source) as tif:
        offset, count = tif.pages[2].dataoffsets[0], tif.pages[2].databytecounts[0]
    with source.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)
    done = zeroseg("segment", source, *HOW, "-o", out)
    assert done.code == 0
    assert "Plane 2 was left empty: Plane 2 of stack.tif could not be decoded" in done.err
    assert done.err.count("\n") == 1
    labels = np.asarray(open_image(out).data)
    assert labels.any((1, 2)).tolist() == [True, True, False, True, True]
    report = json.loads(out.with_name(out.name + ".json").read_text())
    assert [bool(plane["fault"]) for plane in report["planes"]] == [False, False, True, False, False]


def test_a_page_that_was_never_acquired(zeroseg, raw, tmp_path):
    source = tmp_path / "stack.npy"
    raw[3] = 0
    np.save(source, raw)
    done = zeroseg("segment", source, *HOW, "-o", tmp_path / "out.tif")
    assert done.code == 0
    assert "Plane 3 was left empty: All pixels of the plane have the same value (0)" in done.err


def test_two_runs_on_one_output(zeroseg, raw, tmp_path):
    source, out = tmp_path / "stack.npy", tmp_path / "out.ome.zarr"
    np.save(source, raw)
    with only_run_on(out):
        said = zeroseg("segment", source, *HOW, "-o", out).error()
    assert said == f"Another run is writing {out}: wait until it is done, or choose another name for this one."
    assert zeroseg("segment", source, *HOW, "-o", out).code == 0


def test_an_unfinished_zarr_is_not_mistaken_for_a_result(zeroseg, raw, tmp_path):
    source, out = tmp_path / "stack.npy", tmp_path / "out.ome.zarr"
    np.save(source, raw)
    assert zeroseg("segment", source, *HOW, "-o", out).code == 0
    whole = open_image(out).data[:]
    other = tmp_path / "other.ome.zarr"
    LabelsWriter(other, raw.shape, run="another").write(0, whole[0])
    said = zeroseg("segment", source, *HOW, "-o", other).error()
    assert "holds 1 planes of an unfinished run with another picture or settings" in said
    assert zeroseg("segment", source, *HOW, "--overwrite", "-o", other).code == 0
    np.testing.assert_array_equal(open_image(other).data[:], whole)
