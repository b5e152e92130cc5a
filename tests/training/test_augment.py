"""Variants of windows: other views in which every label lies where its object is seen."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.training.augment import varied
from napari_zeroseg.training.data import IGNORE


@pytest.fixture(scope="module")
def window() -> tuple[np.ndarray, np.ndarray]:
    raw, truth = em_like_stack(1, 256, seed=1)
    return raw[0], truth[0].astype(np.int32)


@pytest.mark.parametrize("seed", range(8))
def test_labels_go_where_their_objects_go(window, seed) -> None:
    """A picture that shows the labels themselves still does, but for one pixel along their borders."""
    _, objects = window
    shown = np.where(objects > 0, 200, 60).astype(np.uint8)
    picture, moved = varied(shown, objects, np.random.default_rng(seed))
    assert set(np.unique(moved)) <= set(np.unique(objects))
    inside, outside = picture[moved > 0], picture[moved == 0]
    middle = (np.median(inside) + np.median(outside)) / 2
    assert ((picture > middle) == (moved > 0)).mean() > 0.97


def test_the_same_state_gives_the_same(window) -> None:
    first, second = (varied(*window, np.random.default_rng(5)) for _ in range(2))
    other = varied(*window, np.random.default_rng(6))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != other[0]).mean() > 0.5


def test_size_and_shape_change(window) -> None:
    _, objects = window
    areas = []
    for seed in range(10):
        moved = varied(window[0], objects, np.random.default_rng(seed))[1]
        here = [n for n in np.unique(moved) if n > 0 and not _at_a_side(moved == n)]
        areas += [(moved == n).sum() / (objects == n).sum() for n in here]
    assert 1.1 < np.mean(areas) < 1.5
    assert np.std(areas) > 0.05


def _at_a_side(mask: np.ndarray) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def test_what_is_ignored_stays_ignored_and_colours_are_kept_apart(window) -> None:
    raw, objects = window
    objects = objects.copy()
    objects[:, :100] = IGNORE
    coloured = np.stack([raw, np.full_like(raw, 128), np.full_like(raw, 128)], -1)[:200]
    picture, moved = varied(coloured, objects[:200], np.random.default_rng(1))
    assert picture.shape == (*moved.shape, 3)
    assert 0.2 < (moved == IGNORE).mean() < 0.7
    red, green, blue = np.moveaxis(picture.astype(float), -1, 0)
    assert np.abs(green - blue).mean() < 1
    assert np.std(red - green) > 10
