"""Labels to files and back, and what happens when that goes wrong."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from napari_zeroseg.errors import InputError, InputTypeError, ReadError, WriteError
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.targets import explained
from napari_zeroseg.io.write import LabelsWriter, write_labels

ENDINGS = (".tif", ".tiff", ".ome.zarr", ".npy", ".nii.gz")


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 300, (5, 24, 35)).astype(np.int32)


def read(path: Path) -> np.ndarray:
    if path.name.endswith(".nii.gz"):
        data = np.asarray(nibabel.load(path).dataobj)
        return data.T if data.ndim > 1 else data
    return np.asarray(open_image(path).data)


@pytest.mark.parametrize("shape", [(24, 35), (5, 24, 35), (1, 24, 35), (3, 8, 9), (4, 7, 3), (7, 4)])
@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path, ending, shape):
    labels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    path = write_labels(tmp_path / f"out{ending}", labels)
    np.testing.assert_array_equal(read(path).reshape(shape), labels)
    assert [file.name for file in tmp_path.iterdir()] == [f"out{ending}"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_large_numbers_and_other_integer_types(tmp_path, ending):
    few, many = [[0, 1], [1, 0]], [[0, 70_000], [2**31 - 1, 3]]
    for labels in (np.uint8(few), np.array(few, bool), np.int64(many), np.array(many, ">u4")):
        path = write_labels(tmp_path / f"out{ending}", labels)
        np.testing.assert_array_equal(read(path), labels)


@pytest.mark.parametrize("ending", [".tif", ".ome.zarr"])
@pytest.mark.parametrize(
    ("spacing", "units", "expected"),
    [
        ((0.05, 0.004, 0.005), None, {"Z": 0.05, "Y": 0.004, "X": 0.005}),
        ({"Z": 0.05, "Y": 0.004, "X": 0.005, "T": 3}, {"X": "micrometer"}, {"Z": 0.05, "Y": 0.004, "X": 0.005}),
        ((2, 0.5, 0.25), "millimeter", {"Z": 2000, "Y": 500, "X": 250}),
    ],
)
def test_spacing_is_kept(tmp_path, labels, ending, spacing, units, expected):
    picture = open_image(write_labels(tmp_path / f"out{ending}", labels, spacing, units))
    assert picture.spacing == pytest.approx(expected, rel=1e-6)


def test_tiff_as_imagej_reads_it(tmp_path, labels):
    path = write_labels(tmp_path / "out.tif", labels, (0.05, 0.004, 0.005))
    with tifffile.TiffFile(path) as tif:
        assert tif.is_imagej
        assert tif.series[0].axes == "ZYX"
        assert tif.pages[0].dtype == np.uint16
        assert tif.pages[0].compression.name == "ADOBE_DEFLATE"
        assert tif.imagej_metadata["spacing"] == 0.05
        assert tif.imagej_metadata["unit"] == "um"
        numerator, denominator = tif.pages[0].tags["XResolution"].value
        assert numerator / denominator == pytest.approx(200)
    write_labels(path, labels + 70_000)
    assert tifffile.imread(path).dtype == np.int32


def test_zarr_is_version_05_in_planes(tmp_path, labels):
    path = write_labels(tmp_path / "out.ome.zarr", labels, (0.05, 0.004, 0.005))
    group = zarr.open_group(path, mode="r")
    assert group["0"].chunks == (1, 24, 35)
    assert group["0"].dtype == np.int32
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert "image-label" in ome
    (scale,) = ome["multiscales"]
    assert scale["axes"] == [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    assert scale["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [0.05, 0.004, 0.005]}]


def test_nifti_has_millimetres_and_axes_x_y_z(tmp_path, labels):
    image = nibabel.load(write_labels(tmp_path / "out.nii.gz", labels, (2, 0.5, 0.25), "millimeter"))
    assert image.shape == (35, 24, 5)
    assert image.header.get_zooms() == pytest.approx((0.25, 0.5, 2))
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, np.diag([-0.25, -0.5, 2, 1]))
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels.T)
    assert nibabel.load(write_labels(tmp_path / "b.nii.gz", labels, (1, 1, 1))).header.get_xyzt_units()[0] == "micron"


@pytest.mark.parametrize("ending", ENDINGS)
def test_overwriting(tmp_path, labels, ending):
    path = tmp_path / f"out{ending}"
    write_labels(path, labels)
    write_labels(path, labels[:2] * 0 + 7)
    np.testing.assert_array_equal(read(path), np.full((2, 24, 35), 7))
    assert len(list(tmp_path.iterdir())) == 1


class TestRefusals:
    def test_unknown_endings_are_listed(self, tmp_path, labels):
        for name in ("out.png", "out", ".tif", "out.zarr"):
            with pytest.raises(WriteError, match=r"end in \.tif, \.tiff, \.ome\.zarr, \.npy, \.nii\.gz; got"):
                write_labels(tmp_path / name, labels)

    def test_missing_folder(self, tmp_path, labels):
        with pytest.raises(WriteError, match="does not exist: create it"):
            write_labels(tmp_path / "nowhere" / "out.tif", labels)

    def test_a_folder_that_is_something_else(self, tmp_path, labels):
        (tmp_path / "out.tif").mkdir()
        (tmp_path / "out.ome.zarr").mkdir()
        (tmp_path / "out.ome.zarr" / "thesis.txt").write_text("three years")
        for name in ("out.tif", "out.ome.zarr"):
            with pytest.raises(WriteError, match="a folder that is not replaced"):
                write_labels(tmp_path / name, labels)
        assert (tmp_path / "out.ome.zarr" / "thesis.txt").exists()

    @pytest.mark.parametrize(
        ("labels", "error", "sentence"),
        [
            (np.zeros((3, 3)), InputTypeError, "whole numbers"),
            (np.full((3, 3), -1), InputError, "from 0 to"),
            (np.full((3, 3), 2**31), InputError, "from 0 to"),
            (np.zeros(3, int), InputError, "plane .rows, columns. or a stack"),
            (np.zeros((2, 2, 2, 2), int), InputError, "or a stack"),
            (np.zeros((0, 3), int), InputError, "or a stack"),
        ],
    )
    def test_what_is_no_labels(self, tmp_path, labels, error, sentence):
        with pytest.raises(error, match=sentence):
            write_labels(tmp_path / "out.tif", labels)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("spacing", [(1, 2), (1, 0, 1), (1, 1, np.nan)])
    def test_wrong_spacing(self, tmp_path, labels, spacing):
        with pytest.raises(InputError, match="one positive number for each of the axes ZYX"):
            write_labels(tmp_path / "out.tif", labels, spacing)

    def test_too_long_for_nifti(self, tmp_path):
        with pytest.raises(WriteError, match="NIfTI holds at most 32767"):
            write_labels(tmp_path / "out.nii.gz", np.zeros((1, 40_000), np.int32))
        assert not list(tmp_path.iterdir())

    @pytest.mark.skipif(not hasattr(os, "seteuid"), reason="folders have no owners here")
    def test_read_only_folder(self, labels):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o555)
            root = os.geteuid() == 0
            if root:
                os.seteuid(65534)  # root may write everywhere; nobody may not
            try:
                with pytest.raises(WriteError, match="is read-only"):
                    write_labels(folder / "out.tif", labels)
            finally:
                if root:
                    os.seteuid(0)
                folder.chmod(0o755)


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from napari_zeroseg.errors import WriteError
from napari_zeroseg.io.write import LabelsWriter, write_labels

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 2**31 - 1, (4, 200, 300)).astype(np.int32)
import tifffile, zarr, nibabel, imagecodecs
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if sys.argv[2] == "whole":
        write_labels(path, noise)
    else:
        LabelsWriter(path, noise.shape).write(0, noise[0])
except WriteError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize(("ending", "way"), [*((ending, "whole") for ending in ENDINGS), (".tif", "planes")])
def test_a_full_disk_leaves_what_was_there(tmp_path, labels, ending, way):
    pytest.importorskip("resource", reason="needs a limit on the size of files to play a full disk")
    path = write_labels(tmp_path / f"out{ending}", labels)
    result = subprocess.run([sys.executable, "-c", FULL, path, way], capture_output=True, text=True, check=False)
    assert result.returncode == 3, result.stderr
    assert "the disk is full" in result.stdout
    np.testing.assert_array_equal(read(path), labels)
    if way == "whole":
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
    else:
        partial = tmp_path / f".{path.name}.partial"
        assert [file.name for file in partial.iterdir()] == ["about.json"]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, r"the disk is full \(\d+ MiB free"),
        (errno.EACCES, "is read-only, or the file is open elsewhere"),
        (errno.EROFS, "is read-only"),
        (errno.ENOENT, "is not there any more"),
        (errno.EIO, "Choose another place"),
    ],
)
def test_what_the_system_says_becomes_a_sentence(tmp_path, code, sentence):
    with (
        pytest.raises(WriteError, match=rf"out\.tif could not be written: .*{sentence}"),
        explained(tmp_path / "out.tif"),
    ):
        raise OSError(code, os.strerror(code))


class TestLabelsWriter:
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_planes_in_any_order(self, tmp_path, labels, ending):
        path = tmp_path / f"out{ending}"
        with LabelsWriter(path, labels.shape, spacing=(0.05, 0.004, 0.005)) as writer:
            for index in (4, 0, 2, 1, 3):
                writer.write(index, labels[index])
                assert path.exists() is (ending == ".ome.zarr")  # which grows at its place
            assert writer.done == set(range(5))
            np.testing.assert_array_equal(writer.read(2), labels[2])
        np.testing.assert_array_equal(read(path), labels)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    def test_a_single_plane(self, tmp_path, labels):
        with LabelsWriter(tmp_path / "out.tif", labels.shape[1:]) as writer:
            writer.write(0, labels[0])
        np.testing.assert_array_equal(read(tmp_path / "out.tif"), labels[0])

    def test_planes_that_never_came_are_background(self, tmp_path, labels):
        with LabelsWriter(tmp_path / "out.npy", labels.shape) as writer:
            writer.write(3, labels[3])
        result = read(tmp_path / "out.npy")
        np.testing.assert_array_equal(result[3], labels[3])
        assert not result[[0, 1, 2, 4]].any()

    def test_taken_up_again(self, tmp_path, labels):
        first = LabelsWriter(tmp_path / "out.tif", labels.shape, run="a")
        first.write(0, labels[0])
        first.write(1, labels[1])
        again = LabelsWriter(tmp_path / "out.tif", labels.shape, run="a")
        assert again.done == {0, 1}
        again.write(1, labels[2])
        again.close()
        np.testing.assert_array_equal(read(tmp_path / "out.tif")[:2], labels[[0, 2]])
        assert LabelsWriter(tmp_path / "out.tif", labels.shape).done == set()

    def test_an_error_keeps_the_planes_and_the_old_file(self, tmp_path, labels):
        path = write_labels(tmp_path / "out.tif", labels)

        def interrupted() -> None:
            with LabelsWriter(path, labels.shape) as writer:
                writer.write(0, labels[0] * 0)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        np.testing.assert_array_equal(read(path), labels)
        assert LabelsWriter(path, labels.shape).done == {0}

    def test_planes_of_another_run_are_not_mixed_in(self, tmp_path, labels):
        writer = LabelsWriter(tmp_path / "out.tif", labels.shape, run="a")
        writer.write(0, labels[0])
        for shape, run in ((labels.shape, "b"), (labels[:2].shape, "a")):
            with pytest.raises(WriteError, match=r"\.out\.tif\.partial holds 1 planes of an unfinished run"):
                LabelsWriter(tmp_path / "out.tif", shape, run=run)
        writer.discard()
        assert not list(tmp_path.iterdir())
        LabelsWriter(tmp_path / "out.tif", labels.shape, run="b")

    def test_half_written_planes_do_not_count(self, tmp_path, labels):
        writer = LabelsWriter(tmp_path / "out.tif", labels.shape)
        (writer.folder / "000001.abcd.tmp").write_bytes(b"half")
        assert writer.done == set()

    def test_a_damaged_plane_is_named(self, tmp_path, labels):
        writer = LabelsWriter(tmp_path / "out.tif", labels.shape)
        (writer.folder / "000001.tif").write_bytes(b"rubbish")
        with pytest.raises(ReadError, match=r"000001\.tif is damaged.*delete it"):
            writer.close()
        assert writer.folder.exists()

    def test_a_folder_without_description(self, tmp_path, labels):
        (tmp_path / ".out.tif.partial").mkdir()
        assert LabelsWriter(tmp_path / "out.tif", labels.shape).done == set()
        (tmp_path / ".out.tif.partial" / "about.json").write_text("{")
        with pytest.raises(WriteError, match="unfinished run"):
            LabelsWriter(tmp_path / "out.tif", labels.shape)

    def test_refusals(self, tmp_path, labels):
        with pytest.raises(WriteError, match="end in"):
            LabelsWriter(tmp_path / "out.png", labels.shape)
        with pytest.raises(InputError, match="stored as integers"):
            LabelsWriter(tmp_path / "out.tif", labels.shape, dtype=float)
        writer = LabelsWriter(tmp_path / "out.tif", labels.shape, dtype=np.uint8)
        with pytest.raises(InputError, match="There is no plane 5"):
            writer.write(5, labels[0])
        with pytest.raises(InputError, match=r"plane of \(24, 35\)"):
            writer.write(0, labels[0, 1:])
        with pytest.raises(InputError, match="uint8 holds labels up to 255"):
            writer.write(0, labels[0] + 300)

    def test_a_folder_that_goes_away(self, tmp_path, labels):
        writer = LabelsWriter(tmp_path / "out.tif", labels.shape)
        writer.discard()
        with pytest.raises(WriteError, match="not there any more"):
            writer.write(0, labels[0])

    def test_a_kill_loses_at_most_the_plane_in_work(self, tmp_path):
        code = (
            "import sys, numpy as np\n"
            "from napari_zeroseg.io.write import LabelsWriter\n"
            "writer = LabelsWriter(sys.argv[1], (10_000, 200, 300))\n"
            "for index in range(10_000):\n"
            "    writer.write(index, np.full((200, 300), index))\n"
            "    print(index, flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "out.tif"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            said = [int(process.stdout.readline()) for _ in range(5)]
            process.kill()
            said += [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        writer = LabelsWriter(tmp_path / "out.tif", (10_000, 200, 300))
        assert set(said) <= writer.done
        assert len(writer.done) <= len(said) + 1
        for index in writer.done:
            assert (writer.read(index) == index).all()
        assert json.loads((writer.folder / "about.json").read_text())["shape"] == [10_000, 200, 300]


@pytest.mark.parametrize("ending", [".tif", ".ome.zarr"])
def test_a_copy_in_another_folder_writes_to_the_same_place(tmp_path, monkeypatch, labels, ending):
    """As a worker of a cluster does, which may stand anywhere."""
    monkeypatch.chdir(tmp_path)
    writer = LabelsWriter(f"out{ending}", labels.shape)
    sent = pickle.dumps(writer)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    copy = pickle.loads(sent)
    for index, plane in enumerate(labels):
        copy.write(index, plane)
    assert copy.path == tmp_path / f"out{ending}"
    monkeypatch.chdir(tmp_path)
    assert writer.done == set(range(len(labels)))
    assert writer.close() == Path(f"out{ending}")  # what the user wrote is what is told
    np.testing.assert_array_equal(read(tmp_path / f"out{ending}"), labels)
    assert not list((tmp_path / "elsewhere").iterdir())
