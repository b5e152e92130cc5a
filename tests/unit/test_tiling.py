"""Fields of view on planes of all shapes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.tiling import CONTEXT, SMALLEST_SIDE, Field, sides, tiles, whole, window, window_for

SHAPES = [(512, 512), (513, 700), (1024, 1024), (1280, 900), (4096, 4096), (5000, 3001), (64, 100_000), (100_000, 64)]


def _places(shape, count=400):
    """Places all over a plane, its corners among them."""
    rng = np.random.default_rng(0)
    rows, columns = shape[0] - 1, shape[1] - 1
    corners = [(0, 0), (0, columns), (rows, 0), (rows, columns)]
    return [*corners, *zip(rng.uniform(0, rows, count), rng.uniform(0, columns, count), strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
def test_sides_rise_to_the_longest(shape):
    found = sides(shape)
    assert found == sorted(set(found))
    assert found[-1] == max(shape)
    assert found[0] == min(SMALLEST_SIDE, max(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_lie_inside_the_plane_and_have_their_side(shape):
    for side in sides(shape):
        for place in _places(shape, 50):
            r0, c0, r1, c1 = window(shape, place, side)
            assert 0 <= r0 < r1 <= shape[0]
            assert 0 <= c0 < c1 <= shape[1]
            assert (r1 - r0, c1 - c0) == (min(side, shape[0]), min(side, shape[1]))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_small_thing_lies_inside_its_window_with_a_margin(shape):
    """A quarter of the window is left on every side of a point, except where the plane ends."""
    for place in _places(shape):
        field = window_for(shape, (*place, *place))
        for position, first, last, length in zip(place, field[:2], field[2:], shape, strict=True):
            margin = (last - first) / 4 - 1
            assert position - first >= margin or first == 0
            assert last - 1 - position >= margin or last == length


@pytest.mark.parametrize("shape", SHAPES)
def test_the_window_holds_what_it_is_for_and_its_surroundings(shape):
    rng = np.random.default_rng(1)
    for r, c in _places(shape):
        size = rng.uniform(0, max(shape))
        extent = (r, c, min(r + size, shape[0] - 1), min(c + size, shape[1] - 1))
        field = window_for(shape, extent)
        assert field.holds(extent)
        longest = max(extent[2] - extent[0], extent[3] - extent[1]) + 1
        assert max(field.shape) >= CONTEXT * longest or field == whole(shape)


@pytest.mark.parametrize("shape", [(4096, 4096), (64, 100_000)])
def test_neighbours_share_windows(shape):
    """Prompts anywhere need no more windows than the grid has, and next neighbours mostly the same one."""
    places = _places(shape, 2000)
    grid = set(tiles(shape, SMALLEST_SIDE))
    assert {window_for(shape, (*place, *place)) for place in places} <= grid
    rng = np.random.default_rng(2)
    moved = [(min(r + rng.uniform(0, 10), shape[0] - 1), min(c + rng.uniform(0, 10), shape[1] - 1)) for r, c in places]
    same = [window_for(shape, (*a, *a)) == window_for(shape, (*b, *b)) for a, b in zip(places, moved, strict=True)]
    assert np.mean(same) > 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_cover_every_pixel(shape):
    side = 1024
    covered = [np.zeros(length, bool) for length in shape]
    for field in tiles(shape, side):
        covered[0][field.r0 : field.r1] = True
        covered[1][field.c0 : field.c1] = True
    assert all(axis.all() for axis in covered)


def test_a_wider_window_can_be_asked_for():
    shape = (4096, 4096)
    point = (2000.0, 2000.0, 2000.0, 2000.0)
    assert window_for(shape, point).shape == (512, 512)
    assert window_for(shape, point, at_least=513).shape == (1024, 1024)
    assert window_for(shape, point, at_least=3000) == whole(shape)
    assert window_for(shape, point, at_least=10**9) == whole(shape)
    assert window_for(shape, (0, 0, 4095, 4095)) == whole(shape)


def test_a_small_plane_is_one_window():
    assert window_for((100, 80), (3, 3, 3, 3)) == whole((100, 80)) == Field(0, 0, 100, 80)
