"""Simulated prompts lie where they should."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.training.config import PROMPT_KINDS
from napari_zeroseg.training.patches import prompt_on
from napari_zeroseg.training.prompts import centre_of, corrected, extent_of, simulate, usable


@pytest.fixture
def bean() -> np.ndarray:
    """A thick C: its centre of mass is background."""
    rows, columns = np.mgrid[:60, :80]
    radius = np.hypot(rows - 30, columns - 40)
    return (radius < 25) & (radius > 12) & ~((columns > 40) & (abs(rows - 30) < 8))


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_every_kind_lies_on_the_picture(kind: str, bean: np.ndarray) -> None:
    for seed in range(20):
        prompt = simulate(kind, bean, np.random.default_rng(seed), (-0.1, 0.3))
        prompt.check_on(bean.shape)
        again = simulate(kind, bean, np.random.default_rng(seed), (-0.1, 0.3))
        np.testing.assert_array_equal(prompt.points, again.points)


@pytest.mark.parametrize("kind", ["point", "gaussian_point", "centre", "corner", "correction"])
def test_points_on_the_object_are_on_it(kind: str, bean: np.ndarray) -> None:
    for seed in range(30):
        prompt = simulate(kind, bean, np.random.default_rng(seed))
        for (row, column), sign in zip(prompt.points.astype(int), prompt.labels, strict=True):
            assert bean[row, column] == sign


def test_tight_box_is_tight(bean: np.ndarray) -> None:
    r0, c0, r1, c1 = extent_of(bean)
    box = simulate("box", bean, np.random.default_rng(0)).box
    assert box is not None
    np.testing.assert_allclose(box, (r0 - 0.5, c0 - 0.5, r1 + 0.5, c1 + 0.5))


def test_loose_boxes_keep_to_their_margin(bean: np.ndarray) -> None:
    tight = simulate("box", bean, np.random.default_rng(0)).box
    assert tight is not None
    size = np.tile([tight[2] - tight[0], tight[3] - tight[1]], 2)
    out = []
    for seed in range(200):
        box = simulate("loose_box", bean, np.random.default_rng(seed), (-0.1, 0.2)).box
        out.append((box - tight) * (-1, -1, 1, 1) / size)
    assert np.min(out) >= -0.1 - 1e-6
    assert np.max(out) <= 0.2 + 1e-6
    assert np.min(out) < -0.08
    assert np.max(out) > 0.15


def test_centre_is_farthest_from_the_border() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:12, 5:30] = True
    mask[5:30, 5:20] = True
    row, column = centre_of(mask)
    depth = min(row - 5, 29 - row, column - 5, 19 - column) + 1
    assert depth == 8


def test_gaussian_points_are_nearer_to_the_middle(bean: np.ndarray) -> None:
    middle = np.argwhere(bean).mean(0)

    def mean_distance(kind: str) -> float:
        points = [simulate(kind, bean, np.random.default_rng(seed)).points[0] for seed in range(300)]
        return float(np.mean([np.hypot(*(point - middle)) for point in points]))

    assert mean_distance("gaussian_point") < mean_distance("point") - 0.5


def test_correction_points_at_the_largest_error(bean: np.ndarray) -> None:
    first = simulate("correction", bean, np.random.default_rng(0))
    missed = bean.copy()
    missed[:, 20:40] = False
    prompt = corrected(first, bean, missed)
    assert prompt.labels.tolist() == [True, True]
    assert 20 <= prompt.points[1][1] < 40
    spilt = bean.copy()
    spilt[:, 70:] = True
    prompt = corrected(first, bean, spilt)
    assert prompt.labels.tolist() == [True, False]
    assert prompt.points[1][1] >= 70


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_a_large_window_gives_the_same_kind_of_prompt(kind: str, bean: np.ndarray) -> None:
    large = np.zeros((700, 900), bool)
    large[300:360, 500:580] = bean
    prompt = prompt_on(kind, large, np.random.default_rng(3), (0.0, 0.2))
    if prompt.mask is not None:
        assert prompt.mask.shape == large.shape
        return
    extent = prompt.extent()
    assert extent is not None
    assert extent[0] >= 290
    assert extent[1] >= 490
    assert extent[2] <= 370
    assert extent[3] <= 590


def test_kinds_that_a_model_does_not_take_fall_away() -> None:
    weights = usable({"box": 1, "centre": 3}, frozenset({PromptKind.BOX}))
    assert weights == {"box": 1.0}
    assert usable({"centre": 3}, frozenset({PromptKind.BOX})) == {"box": 1.0}
