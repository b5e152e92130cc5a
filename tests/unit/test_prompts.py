"""Prompts: what is accepted, and the sentence for what is not."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.prompts import Prompt, PromptKind


def test_points_are_row_column_float32_and_positive_unless_said_otherwise():
    prompt = Prompt(points=[(3, 4), (5.5, 6)])
    assert prompt.points.dtype == np.float32
    np.testing.assert_array_equal(prompt.points, [[3, 4], [5.5, 6]])
    np.testing.assert_array_equal(prompt.labels, [True, True])
    assert prompt.kinds == {PromptKind.POINTS}


def test_corners_of_a_box_are_sorted():
    np.testing.assert_array_equal(Prompt(box=(9, 2, 1, 8)).box, [1, 2, 9, 8])


def test_all_kinds_at_once():
    prompt = Prompt([(1, 1)], [0], (0, 0, 2, 2), np.eye(3), "  lung ")
    assert prompt.kinds == set(PromptKind)
    assert prompt.text == "lung"
    assert prompt.mask is not None
    assert prompt.mask.dtype == bool


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({}, InputError, "The prompt is empty: give at least a point, a box, a mask or a text"),
        ({"points": []}, InputError, "The prompt is empty"),
        ({"points": np.zeros((0, 2))}, InputError, "The prompt is empty"),
        ({"points": (3, 4)}, InputError, r"pairs \(row, column\), an array of shape \(N, 2\); got shape \(2,\)"),
        ({"points": [(1, 2, 3)]}, InputError, r"got shape \(1, 3\)"),
        ({"points": [(np.nan, 1)]}, InputError, "finite"),
        ({"points": [(np.inf, 1)]}, InputError, "finite"),
        ({"points": [("a", "b")]}, InputTypeError, "Points must be numbers"),
        ({"points": [(1, 2), (3,)]}, InputTypeError, "Points must be numbers"),
        ({"points": [(1, 2)], "labels": [1, 0]}, InputError, r"There are 1 points but labels of shape \(2,\)"),
        ({"points": [(1, 2)], "labels": [2]}, InputError, "must be True .* or False"),
        ({"labels": [1]}, InputError, "There are 0 points"),
        ({"box": (1, 2, 3)}, InputError, r"\(row0, column0, row1, column1\), four numbers"),
        ({"box": (1, 2, 1, 5)}, InputError, "has no area: draw it around the object"),
        ({"box": (1, 2, 5, 2)}, InputError, "has no area"),
        ({"box": (1, 2, np.nan, 5)}, InputError, "finite"),
        ({"box": "box"}, InputTypeError, "A box must be numbers"),
        ({"mask": np.zeros((4, 4))}, InputError, "The mask prompt is empty"),
        ({"mask": np.ones((4, 4, 4))}, InputError, r"one plane \(H, W\); got 3 dimensions"),
        ({"text": 3}, InputTypeError, "must be a string, not int"),
        ({"text": "  "}, InputError, "The text prompt is empty"),
    ],
)
def test_what_is_not_a_prompt_gets_its_sentence(given, error, sentence):
    with pytest.raises(error, match=sentence):
        Prompt(**given)


@pytest.mark.parametrize("point", [(-0.5, -0.5), (9.5, 19.5), (0, 0), (9, 19)])
def test_pixels_reach_half_a_pixel_around_their_centres(point):
    Prompt([point]).check_on((10, 20))


@pytest.mark.parametrize("point", [(-0.6, 3), (9.6, 3), (3, -1), (3, 20), (19, 9)])
def test_a_point_outside_is_named(point):
    with pytest.raises(InputError, match=rf"row {point[0]:g}, column {point[1]:g} lies outside .* 10 rows and 20 col"):
        Prompt([(1, 1), point]).check_on((10, 20))


@pytest.mark.parametrize("box", [(-9, 3, -1, 8), (3, 20, 8, 30), (10, 3, 12, 8), (3, -9, 8, -2)])
def test_a_box_outside_is_named(box):
    with pytest.raises(InputError, match="lies outside the picture of 10 rows and 20 columns"):
        Prompt(box=box).check_on((10, 20))


def test_a_box_may_stick_out():
    Prompt(box=(-5, -5, 3, 3)).check_on((10, 20))
    Prompt(box=(-1e6, -1e6, 1e6, 1e6)).check_on((10, 20))


def test_a_mask_has_the_planes_shape():
    with pytest.raises(InputError, match=r"shape \(20, 10\) but the plane has \(10, 20\)"):
        Prompt(mask=np.ones((20, 10))).check_on((10, 20))


def test_only_a_single_click_is_ambiguous():
    assert Prompt([(1, 1)]).is_ambiguous
    assert not Prompt([(1, 1), (2, 2)]).is_ambiguous
    assert not Prompt([(1, 1)], box=(0, 0, 3, 3)).is_ambiguous
    assert not Prompt([(1, 1)], mask=np.ones((3, 3))).is_ambiguous
    assert not Prompt(box=(0, 0, 3, 3)).is_ambiguous


def test_the_extent_holds_what_lies_on_the_object():
    mask = np.zeros((30, 30), bool)
    mask[20, 25] = True
    assert Prompt([(3, 4), (9, 1), (29, 29)], [1, 1, 0]).extent() == (3, 1, 9, 4)
    assert Prompt([(3, 4)], box=(5, 6, 7, 8)).extent() == (3, 4, 7, 8)
    assert Prompt(mask=mask).extent() == (20, 25, 20, 25)
    assert Prompt([(3, 4)], mask=mask).extent() == (3, 4, 20, 25)
    assert Prompt(text="lung").extent() is None


def test_clicks_on_background_do_not_stretch_the_extent_of_a_box():
    assert Prompt([(90, 90)], [False], box=(5, 6, 7, 8)).extent() == (5, 6, 7, 8)
    assert Prompt([(90, 90)], [False]).extent() == (90, 90, 90, 90)
