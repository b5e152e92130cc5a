"""Variants of windows: other views in which every label lies where its object is seen."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.tiling import Field, whole
from napari_zeroseg.training.augment import varied
from napari_zeroseg.training.data import IGNORE

INSIDE = Field(130, 120, 130 + 256, 120 + 256)


@pytest.fixture(scope="module")
def plane() -> tuple[np.ndarray, np.ndarray]:
    raw, truth = em_like_stack(1, 512, seed=1)
    return raw[0], truth[0].astype(np.int32)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("field", [INSIDE, whole((512, 512)), Field(0, 300, 200, 512)])
def test_labels_go_where_their_objects_go(plane, seed, field) -> None:
    """A picture that shows the labels themselves still does, but for one pixel along their borders."""
    _, objects = plane
    shown = np.where(objects > 0, 200, 60).astype(np.uint8)
    picture, moved = varied(shown, objects, field, np.random.default_rng(seed))
    assert picture.shape == moved.shape == field.shape
    assert set(np.unique(moved)) <= {IGNORE, *np.unique(objects)}
    counts = moved != IGNORE
    middle = (np.median(picture[moved > 0]) + np.median(picture[moved == 0])) / 2
    assert ((picture > middle) == (moved > 0))[counts].mean() > 0.97


def test_what_comes_in_from_beyond_the_window_is_the_plane(plane) -> None:
    """Inside of a plane nothing has to be made up; at its corner what lies beyond does not count."""
    for seed in range(5):
        _, moved = varied(*plane, INSIDE, np.random.default_rng(seed))
        assert (moved != IGNORE).all()
    shares = [(varied(*plane, whole((512, 512)), np.random.default_rng(s))[1] == IGNORE).mean() for s in range(8)]
    assert 0.01 < np.mean(shares) < 0.4


def test_the_same_state_gives_the_same(plane) -> None:
    first, second = (varied(*plane, INSIDE, np.random.default_rng(5)) for _ in range(2))
    other = varied(*plane, INSIDE, np.random.default_rng(6))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != other[0]).mean() > 0.5


def test_sizes_go_both_ways(plane) -> None:
    _, objects = plane
    areas = []
    for seed in range(12):
        moved = varied(*plane, INSIDE, np.random.default_rng(seed))[1]
        here = [n for n in np.unique(moved) if n > 0 and not _at_a_side(moved == n)]
        areas += [(moved == n).sum() / (objects == n).sum() for n in here]
    assert 0.85 < np.mean(areas) < 1.2
    assert np.std(areas) > 0.1


def _at_a_side(mask: np.ndarray) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def test_what_is_ignored_stays_ignored_and_colours_are_kept_apart(plane) -> None:
    raw, objects = plane
    objects = objects.copy()
    objects[:, :256] = IGNORE
    coloured = np.stack([raw, np.full_like(raw, 128), np.full_like(raw, 128)], -1)
    picture, moved = varied(coloured, objects, INSIDE, np.random.default_rng(1))
    assert picture.shape == (*moved.shape, 3)
    assert 0.2 < (moved == IGNORE).mean() < 0.8
    red, green, blue = np.moveaxis(picture.astype(float), -1, 0)
    assert np.abs(green - blue).mean() < 1
    assert np.std(red - green) > 10


def test_left_stays_left_where_it_matters() -> None:
    """Flips and turns would show a left lung as a right one."""
    picture, objects = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.int32)
    objects[60:100, 60:100] = 1  # upper left
    field = whole((256, 256))
    places = [
        [
            np.argwhere(varied(picture, objects, field, np.random.default_rng(seed), free)[1] == 1).mean(0)
            for seed in range(24)
        ]
        for free in (True, False)
    ]
    anywhere, kept = np.array(places) - 128
    assert (kept < 0).all()
    assert (anywhere > 0).any()
