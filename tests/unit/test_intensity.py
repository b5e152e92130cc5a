"""Pixel values to uint8."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.intensity import percentile_limits, to_uint8


@pytest.fixture
def bytes_plane() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)


@pytest.mark.parametrize("limits", [None, (0, 255), (0.0, 255.0)])
def test_bytes_at_full_range_are_the_same_array(bytes_plane, limits):
    assert to_uint8(bytes_plane, limits) is bytes_plane


def test_bytes_with_limits_follow_the_screen(bytes_plane):
    expected = np.rint(np.clip((bytes_plane.astype(float) - 50) / 100, 0, 1) * 255)
    np.testing.assert_array_equal(to_uint8(bytes_plane, (50, 150)), expected)


def test_gamma(bytes_plane):
    expected = np.rint((bytes_plane / 255) ** 0.5 * 255)
    np.testing.assert_array_equal(to_uint8(bytes_plane, gamma=0.5), expected)


@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint16", ">u2", "int16", ">i2", "int32", "uint32", "int64", "float16", "float32", ">f8", "float64"],
)
def test_every_type_gives_the_same_picture(bytes_plane, dtype):
    values = bytes_plane // 2 if np.dtype(dtype).itemsize == 1 else bytes_plane
    plane = values.astype(dtype)
    expected = np.rint(np.clip((values.astype(float) - 10) / 90, 0, 1) * 255)
    np.testing.assert_array_equal(to_uint8(plane, (10, 100)), expected)


@pytest.mark.parametrize("dtype", ["int16", ">i2", "int32", "float64"])
def test_negative_values(dtype):
    plane = np.array([[-1000, -500], [0, 3000]]).astype(dtype)
    np.testing.assert_array_equal(to_uint8(plane, (-1000, 0)), [[0, 128], [255, 255]])


@pytest.mark.parametrize("dtype", ["int8", "uint16", ">u2", "int16", ">i2", "int32", "float32"])
def test_percentiles_are_numpys(dtype):
    plane = np.random.default_rng(1).normal(60, 15, (61, 47)).clip(0, 127).astype(dtype)
    plane[:3] = 0
    np.testing.assert_allclose(percentile_limits(plane), np.percentile(plane.astype(float), (0.1, 99.9)), rtol=1e-12)


def test_percentiles_that_coincide_give_way_to_minimum_and_maximum():
    plane = np.zeros((100, 100), np.uint16)
    plane[0, 0] = 500
    assert percentile_limits(plane) == (0, 500)
    assert to_uint8(plane)[0, 0] == 255


def test_defaults_spread_sixteen_bits(bytes_plane):
    plane = bytes_plane.astype(np.uint16) * 20 + 30000
    result = to_uint8(plane)
    assert result.dtype == np.uint8
    assert (result.min(), result.max()) == (0, 255)


def test_nan_is_black_and_infinities_are_clipped():
    plane = np.array([[np.nan, np.inf], [-np.inf, 5.0]])
    np.testing.assert_array_equal(to_uint8(plane, (0, 10)), [[0, 255], [0, 128]])


def test_nan_does_not_move_the_limits():
    plane = np.arange(10000.0).reshape(100, 100)
    clean = to_uint8(plane)
    plane[50, :50] = np.nan
    holed = to_uint8(plane)
    assert np.abs(holed[:50].astype(int) - clean[:50]).max() <= 1


def test_constant_and_all_nan_planes_are_black():
    for plane in (np.full((4, 4), 9.0), np.full((4, 4), np.nan), np.full((4, 4), 9, np.uint16)):
        assert not to_uint8(plane).any()


def test_huge_floats_do_not_overflow():
    plane = np.array([[-1.7e308, 0.0], [1.0, 1.7e308]])
    np.testing.assert_array_equal(to_uint8(plane, (-1.7e308, 1.7e308)), [[0, 128], [128, 255]])


def test_colour_shares_one_pair_of_limits():
    plane = np.zeros((20, 20, 3), np.uint16)
    plane[..., 0], plane[10:, :, 1] = 1000, 4000
    result = to_uint8(plane)
    assert result.shape == plane.shape
    assert (result[..., 0] == 64).all()


def test_blocks_of_a_large_plane_join():
    plane = np.linspace(0, 1, 3_000_000, dtype=np.float32).reshape(3000, 1000)
    np.testing.assert_array_equal(to_uint8(plane, (0, 1)), np.rint(plane.astype(float) * 255))


@pytest.mark.parametrize("limits", [(5, 5), (6, 5), (np.nan, 5), (0, np.inf)])
def test_wrong_limits(bytes_plane, limits):
    with pytest.raises(InputError, match="Contrast limits"):
        to_uint8(bytes_plane, limits)


@pytest.mark.parametrize("gamma", [0, -1, np.nan])
def test_wrong_gamma(bytes_plane, gamma):
    with pytest.raises(InputError, match="Gamma"):
        to_uint8(bytes_plane, gamma=gamma)


@pytest.mark.parametrize("dtype", [bool, complex, "U1", object])
def test_wrong_types(dtype):
    with pytest.raises(InputTypeError, match="must hold numbers"):
        to_uint8(np.zeros((3, 3)).astype(dtype))
