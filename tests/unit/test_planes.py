"""Planes of any array, one at a time."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.planes import Planes, check_picture, finest_level


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60000, (3, 4, 5, 6)).astype(np.uint16)


def test_last_two_axes_are_the_plane(volume):
    planes = Planes.of(volume)
    assert planes.plane_shape == (5, 6)
    assert planes.index_shape == (3, 4)
    assert len(planes) == 12
    assert not planes.is_colour
    np.testing.assert_array_equal(planes.read((2, 1)), volume[2, 1])
    np.testing.assert_array_equal(planes.read(9), volume[2, 1])


@pytest.mark.parametrize("axes", [(a, b) for a in range(4) for b in range(4) if a != b])
def test_any_displayed_pair_of_axes(volume, axes):
    planes = Planes(volume, axes)
    others = [axis for axis in range(4) if axis not in axes]
    expected = volume.transpose(*others, *axes)
    assert planes.plane_shape == expected.shape[2:]
    np.testing.assert_array_equal(planes.read((1, 2)), expected[1, 2])


def test_negative_axes(volume):
    np.testing.assert_array_equal(Planes(volume, (-1, 0)).read((1, 2)), volume[:, 1, 2, :].T)


def test_one_plane_alone():
    picture = np.arange(12.0).reshape(3, 4)
    planes = Planes.of(picture)
    assert len(planes) == 1
    assert planes.index_shape == ()
    for index in ((), 0):
        np.testing.assert_array_equal(planes.read(index), picture)


def test_only_the_plane_asked_for_is_computed():
    asked = []

    def block(block_info=None):
        asked.append(block_info[None]["chunk-location"][0])
        return np.full((1, 8, 9), asked[-1], np.uint8)

    lazy = da.map_blocks(block, chunks=((1,) * 20, (8,), (9,)), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    assert (Planes.of(lazy, rgb=False).read(7) == 7).all()
    assert set(asked) == {7}


def test_zarr_reads_one_chunk(tmp_path):
    store = zarr.create_array(store=tmp_path / "a.zarr", shape=(4, 8, 9), chunks=(1, 8, 9), dtype="uint8", fill_value=7)
    store[2] = 3
    planes = Planes.of(store, rgb=False)
    plane = planes.read(2)
    assert type(plane) is np.ndarray
    assert (plane == 3).all()
    assert (planes.read(1) == 7).all()


def test_multi_scale_uses_the_finest_level(volume):
    levels = [volume, volume[..., ::2, ::2]]
    np.testing.assert_array_equal(Planes.of(levels).read(3), volume[0, 3])
    assert finest_level(levels) is volume


def test_planes_in_a_list_are_no_levels(volume):
    with pytest.raises(InputError, match=r"fine to coarse.*numpy\.stack"):
        Planes.of([volume, volume])


def test_nested_lists_of_numbers():
    np.testing.assert_array_equal(Planes.of([[1, 2], [3, 4]]).read(), [[1, 2], [3, 4]])


def test_ragged_lists_are_refused():
    with pytest.raises(InputTypeError, match="array of numbers"):
        Planes.of([[1, 2], [3]])


def test_big_endian_becomes_native(volume):
    plane = Planes.of(volume.astype(">u2")).read(5)
    assert plane.dtype.isnative
    np.testing.assert_array_equal(plane, volume[1, 1])


def test_colour_is_guessed_for_bytes_only():
    assert Planes.of(np.zeros((5, 6, 3), np.uint8)).plane_shape == (5, 6)
    assert Planes.of(np.zeros((2, 5, 6, 4), np.uint8)).index_shape == (2,)
    assert Planes.of(np.zeros((5, 6, 3), np.uint16)).plane_shape == (6, 3)
    assert Planes.of(np.zeros((5, 6, 3), np.uint16), rgb=True).plane_shape == (5, 6)
    assert Planes.of(np.zeros((5, 6, 3), np.uint8), rgb=False).plane_shape == (6, 3)


def test_channels_first():
    picture = np.random.default_rng(0).integers(0, 255, (3, 7, 8)).astype(np.uint8)
    plane = Planes(picture, (1, 2), channel_axis=0).read()
    np.testing.assert_array_equal(plane, np.moveaxis(picture, 0, -1))


def test_alpha_is_dropped_with_a_sentence_once(caplog):
    picture = np.random.default_rng(0).integers(0, 255, (2, 7, 8, 4)).astype(np.uint8)
    planes = Planes.of(picture)
    with caplog.at_level(logging.INFO):
        plane = planes.read(1)
        planes.read(0)
    np.testing.assert_array_equal(plane, picture[1, ..., :3])
    assert [record.message for record in caplog.records if "alpha" in record.message] == [
        "The picture has an alpha channel, which is left out: red, green and blue are used."
    ]


def test_spacing_is_checked():
    assert Planes.of(np.zeros((3, 3)), spacing=(4.6, 5)).spacing == (4.6, 5.0)
    with pytest.raises(InputError, match="positive distance"):
        Planes.of(np.zeros((3, 3)), spacing=(0, 1))


@pytest.mark.parametrize("index", [-1, 12, (0,), (0, 4), (3, 0), (0, -1), (0, 0, 0)])
def test_planes_that_are_not_there(volume, index):
    with pytest.raises(InputError, match="There is no plane"):
        Planes.of(volume).read(index)


def test_wrong_axes(volume):
    with pytest.raises(InputError, match="no axis 4"):
        Planes(volume, (0, 4))
    with pytest.raises(InputError, match="different axes"):
        Planes(volume, (1, 1))
    with pytest.raises(InputError, match=r"3 .RGB. or 4 .RGBA. channels"):
        Planes(volume, (0, 1), channel_axis=3)
    with pytest.raises(InputError, match="at least two axes"):
        Planes.of(np.zeros(5))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", ">u2", "int32", "float16", "float32", "float64", ">f4"])
def test_pictures_of_every_real_type_pass(dtype):
    check_picture(np.arange(12).reshape(3, 4).astype(dtype))


def test_pictures_with_some_nan_pass():
    picture = np.arange(12.0).reshape(3, 4)
    picture[0, 0], picture[1, 1], picture[2, 2] = np.nan, np.inf, -np.inf
    check_picture(picture)
    check_picture(np.dstack([picture] * 3))


@pytest.mark.parametrize(
    ("picture", "kind", "sentence"),
    [
        (np.ones((4, 4), complex), InputTypeError, "complex"),
        (np.eye(4, dtype=bool), InputTypeError, "it is a mask"),
        (np.full((4, 4), "a"), InputTypeError, "must hold numbers"),
        (np.full((4, 4), None), InputTypeError, "must hold numbers"),
        (np.zeros((2, 4, 4, 4, 4)), InputError, "choose which two axes"),
        (np.zeros((4, 4, 5)), InputError, "choose which two axes"),
        (np.zeros(4), InputError, "choose which two axes"),
        (np.zeros((0, 4)), InputError, "no pixels"),
        (np.ones((1, 1)), InputError, "at least 2 of each"),
        (np.arange(9).reshape(1, 9), InputError, "at least 2 of each"),
        (np.full((4, 4), np.nan), InputError, "holds no number"),
        (np.full((4, 4), np.inf), InputError, "holds no number"),
        (np.full((4, 4), 7, np.uint8), InputError, r"same value \(7\)"),
        (np.full((4, 4, 3), 7, np.uint8), InputError, r"same value \(7\)"),
        (np.where(np.eye(4) > 0, np.nan, 3.5), InputError, r"same value \(3.5\)"),
    ],
)
def test_pictures_nobody_can_segment(picture, kind, sentence):
    with pytest.raises(kind, match=sentence):
        check_picture(picture)


class TestMappedFiles:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "stack.npy"
        np.save(path, np.random.default_rng(0).integers(0, 255, (16, 512, 512), np.uint8))
        return path

    def test_pages_of_planes_that_were_read_are_given_back(self, file):
        maps = Path("/proc/self/smaps")
        if not maps.is_file():
            pytest.skip("the system does not tell which pages are in memory")

        def resident() -> int:
            told = maps.read_text().partition(str(file))[2]
            return int(re.search(r"^Rss: *(\d+) kB", told, re.MULTILINE)[1])

        series = Planes.of(np.load(file, mmap_mode="r"))
        sums = [int(series.read(plane).sum()) for plane in range(16)]
        assert resident() < 512  # of 4096 kB
        assert sums == np.load(file).sum((1, 2), dtype=int).tolist()
        np.testing.assert_array_equal(Planes(series.data, (0, 2)).read(5), np.load(file)[:, 5])

    @pytest.mark.parametrize("mode", ["c", "r+"])
    def test_changes_that_were_not_written_stay(self, file, mode):
        data = np.load(file, mmap_mode=mode)
        data[3] = 7
        series = Planes.of(data)
        for _ in range(2):
            assert (series.read(3) == 7).all()
