"""Labels that grow as OME-Zarr: open to others meanwhile, safe from kills, full disks and other runs."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_zeroseg.errors import WriteError
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.write import LabelsWriter, discard, is_growing, journal_of, planes_in, write_labels

SHAPE = (4, 1500, 2300)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Four planes of several tiles, with many numbers."""
    rows, columns = np.indices(SHAPE[1:], np.int32)
    one = rows // 50 * 100 + columns // 50 + 1
    return np.stack([one, one[::-1], one * 2, one * 0])


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_it_is_there_from_the_first_plane_and_says_that_it_is_not_finished(tmp_path, labels):
    out = tmp_path / "out.ome.zarr"
    writer = LabelsWriter(out, SHAPE, spacing=(0.04, 0.004, 0.005))
    writer.write(2, labels[2])
    group = zarr.open_group(out, mode="r")
    assert group.attrs["zeroseg_unfinished"] is True
    picture = open_image(out)
    assert picture.spacing == {"Z": 0.04, "Y": 0.004, "X": 0.005}
    np.testing.assert_array_equal(picture.data[2], labels[2])
    assert not np.asarray(picture.data[0]).any()
    for index in (0, 1, 3):
        writer.write(index, labels[index])
    np.testing.assert_array_equal(picture.data[1], labels[1])  # who has it open sees what comes
    assert writer.close() == out
    assert "zeroseg_unfinished" not in zarr.open_group(out, mode="r").attrs
    assert names(tmp_path) == [out.name]
    np.testing.assert_array_equal(open_image(out).data[:], labels)


def test_coarser_levels_take_every_second_pixel(tmp_path, labels):
    out = write_labels(tmp_path / "out.ome.zarr", labels, spacing=(0.04, 0.004, 0.005))
    group = zarr.open_group(out, mode="r")
    (multiscale,) = group.attrs["ome"]["multiscales"]
    assert [level["path"] for level in multiscale["datasets"]] == ["0", "1", "2"]
    for number, level in enumerate(multiscale["datasets"]):
        (scale,) = level["coordinateTransformations"]
        assert scale["scale"] == pytest.approx([0.04, 0.004 * 2**number, 0.005 * 2**number])
        np.testing.assert_array_equal(group[level["path"]][:], labels[:, :: 2**number, :: 2**number])
    assert group["0"].chunks == (1, 1024, 1024)
    assert group["0"].shards == (1, 2048, 3072)
    files = [file for file in (out / "0" / "c").rglob("*") if file.is_file()]
    assert len(files) == 3  # one for each plane that is not empty
    assert group["2"].shards is None


def test_taken_up_after_a_kill(tmp_path, labels):
    out = tmp_path / "out.ome.zarr"
    writer = LabelsWriter(out, SHAPE, run="a")
    writer.write(0, labels[0])
    writer.write(1, labels[1])
    (torn,) = [file for file in (out / "0" / "c" / "1").rglob("*") if file.is_file()]
    torn.write_bytes(torn.read_bytes()[:1000])  # killed while plane 1 was written
    (writer.folder / "000001.done").unlink()
    assert is_growing(out)
    again = LabelsWriter(out, SHAPE, run="a")
    assert again.done == {0}
    assert not again.read(1).any()
    for index in (1, 2):
        again.write(index, labels[index])
    again.close()
    np.testing.assert_array_equal(open_image(out).data[:], labels)
    assert not is_growing(out)


@pytest.mark.parametrize("broken", ["before the group", "in the group", "while it was forgotten"])
def test_killed_at_its_beginning_or_end(tmp_path, labels, broken):
    out = tmp_path / "out.ome.zarr"
    writer = LabelsWriter(out, SHAPE, run="a")
    if broken == "before the group":
        shutil.rmtree(out)
    elif broken == "in the group":
        (out / "0" / "zarr.json").unlink()
    else:
        writer.write(0, labels[0])
        writer.close()
        journal_of(out).mkdir()
        (journal_of(out) / "000003.done").touch()
        out.rename(tmp_path / "earlier.ome.zarr")
    with LabelsWriter(out, SHAPE, run="a") as again:
        assert again.done == set()
        again.write(2, labels[2])
    np.testing.assert_array_equal(open_image(out).data[2], labels[2])


def test_a_damaged_plane_is_named(tmp_path, labels):
    writer = LabelsWriter(tmp_path / "out.ome.zarr", SHAPE)
    writer.write(1, labels[1])
    (file,) = [file for file in (writer.path / "0" / "c" / "1").rglob("*") if file.is_file()]
    file.write_bytes(b"damaged")
    with pytest.raises(OSError, match=r"Plane 1 of .* is damaged"):
        writer.read(1)


def test_what_was_there_stays_until_the_end(tmp_path, labels):
    out = write_labels(tmp_path / "out.ome.zarr", labels[:1, :40, :50])
    writer = LabelsWriter(out, SHAPE)
    writer.write(0, labels[0])
    assert open_image(out).data.shape == (1, 40, 50)
    assert not is_growing(out)
    discard(out)
    assert names(tmp_path) == [out.name]
    with LabelsWriter(out, SHAPE) as writer:
        for index, plane in enumerate(labels):
            writer.write(index, plane)
    np.testing.assert_array_equal(open_image(out).data[:], labels)
    assert names(tmp_path) == [out.name]


def test_discarded_it_is_gone(tmp_path, labels):
    out = tmp_path / "out.ome.zarr"
    writer = LabelsWriter(out, SHAPE)
    writer.write(0, labels[0])
    writer.discard()
    assert not names(tmp_path)


def test_another_run_is_not_mixed_in(tmp_path, labels):
    out = tmp_path / "out.ome.zarr"
    LabelsWriter(out, SHAPE, run="a").write(0, labels[0])
    with pytest.raises(WriteError, match="holds 1 planes of an unfinished run"):
        LabelsWriter(out, SHAPE, run="b")
    assert planes_in(journal_of(out)) == {0}
    np.testing.assert_array_equal(open_image(out).data[0], labels[0])


SOME = """
import pickle, sys
import numpy as np
writer, planes = pickle.load(sys.stdin.buffer)
for index, plane in planes.items():
    writer.write(index, plane)
"""


def test_several_processes_write_planes_at_once(tmp_path, labels):
    out = tmp_path / "out.ome.zarr"
    writer = LabelsWriter(out, SHAPE)
    children = []
    for mine in ((0, 2), (1, 3)):
        child = subprocess.Popen([sys.executable, "-c", SOME], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        child.stdin.write(pickle.dumps((writer, {index: labels[index] for index in mine})))
        child.stdin.close()
        children.append(child)
    for child in children:
        assert child.wait(60) == 0, child.stderr.read()
        child.stderr.close()
    assert writer.done == {0, 1, 2, 3}
    writer.close()
    np.testing.assert_array_equal(open_image(out).data[:], labels)


@pytest.fixture
def small_disk():
    """A file system of 600 kB."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("only root can make a small disk, where the system lets it")
        yield Path(folder)
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_in_the_middle(small_disk):
    noise = np.random.default_rng(0).integers(0, 2**31 - 1, (4, 256, 256), np.int32)  # 260 kB a plane
    out = small_disk / "out.ome.zarr"
    writer = LabelsWriter(out, noise.shape)
    writer.write(0, noise[0])
    writer.write(1, noise[1])
    with pytest.raises(WriteError, match=r"out\.ome\.zarr could not be written: the disk is full"):
        writer.write(2, noise[2])
    assert writer.done == {0, 1}
    np.testing.assert_array_equal(open_image(out).data[:2], noise[:2])
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    with LabelsWriter(out, noise.shape) as again:
        for index in (2, 3):
            again.write(index, noise[index])
    np.testing.assert_array_equal(open_image(out).data[:], noise)


def test_what_the_user_has_deleted_is_begun_anew(tmp_path, labels):
    out = tmp_path / "out.ome.zarr"
    LabelsWriter(out, SHAPE, run="one").write(0, labels[0])
    shutil.rmtree(out)
    writer = LabelsWriter(out, SHAPE, run="one")
    assert writer.done == set()
    for index in range(4):
        writer.write(index, labels[index])
    writer.close()
    np.testing.assert_array_equal(open_image(out).data[0], labels[0])
