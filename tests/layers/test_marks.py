"""What the user drew becomes prompts."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg._napari.engine import compose, largest_label
from napari_zeroseg._napari.marks import Drawn, Marks, Picked, by_object, each_its_own
from napari_zeroseg._napari.output import moved
from napari_zeroseg.errors import CancelledError, InputError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.prompts import PromptKind

ALL = frozenset({PromptKind.POINTS, PromptKind.BOX, PromptKind.MASK})
SHAPE = (40, 50)


def drawn(kind, *vertices, object_id=1, positive=True, row=0):
    return Drawn(kind, row, object_id, np.array(vertices, float), positive)


def box(r0, c0, r1, c1, **options):
    return drawn("rectangle", (r0, c0), (r0, c1), (r1, c1), (r1, c0), **options)


def test_points_and_a_box():
    marks = Marks(1, (drawn("point", (3, 4)), drawn("point", (5, 6), positive=False), box(2, 1, 8, 7)))
    prompt = marks.prompt(SHAPE, ALL)
    np.testing.assert_array_equal(prompt.points, [[3, 4], [5, 6]])
    assert prompt.labels.tolist() == [True, False]
    np.testing.assert_array_equal(prompt.box, (2, 1, 8, 7))
    assert prompt.mask is None


def test_two_boxes_of_one_object_are_said():
    with pytest.raises(InputError, match="Two boxes describe object 4 of this plane: give each its own number"):
        Marks(4, (box(0, 0, 9, 9), box(2, 1, 8, 7))).prompt(SHAPE, ALL)


def test_an_outline_is_a_mask_and_its_box():
    prompt = Marks(1, (drawn("polygon", (5, 5), (5, 15), (15, 15), (15, 5)),)).prompt(SHAPE, ALL)
    assert prompt.mask[5:15, 5:15].all()
    np.testing.assert_allclose(prompt.box, (4.5, 4.5, 15.5, 15.5), atol=1)


def test_an_outline_for_a_model_without_masks_is_its_box():
    outline = Marks(1, (drawn("polygon", (5, 5), (5, 15), (15, 15), (15, 5)),))
    prompt = outline.prompt(SHAPE, frozenset({PromptKind.BOX}))
    assert prompt.mask is None
    assert prompt.box is not None


def test_an_ellipse_is_filled():
    prompt = Marks(1, (drawn("ellipse", (5, 5), (5, 25), (15, 25), (15, 5)),)).prompt(SHAPE, ALL)
    assert prompt.mask[10, 15]
    assert not prompt.mask[5, 5]
    assert abs(int(prompt.mask.sum()) - np.pi * 5 * 10) < 20


def test_an_outline_beside_the_picture_is_said():
    with pytest.raises(InputError, match="no pixel of the picture"):
        Marks(1, (drawn("polygon", (-9, -9), (-9, -5), (-5, -5)),)).prompt(SHAPE, ALL)


def test_a_scribble_is_points_along_it():
    prompt = Marks(1, (drawn("path", (10, 0), (10, 40)),)).prompt(SHAPE, ALL)
    assert len(prompt.points) == 8
    np.testing.assert_allclose(prompt.points[:, 0], 10)
    assert prompt.points[0, 1] > 0
    assert len(Marks(1, (drawn("line", (1, 1), (1, 2)),)).prompt(SHAPE, ALL).points) == 1


def test_a_picked_label_is_the_mask_unless_a_click_asks_for_more():
    picked = Picked(3, (slice(5, 9), slice(6, 10), np.ones((4, 4), bool)))
    prompt = Marks(1, (), picked).prompt(SHAPE, ALL)
    assert prompt.mask.sum() == 16
    np.testing.assert_allclose(prompt.box, (4.5, 5.5, 8.5, 9.5))
    assert Marks(1, (drawn("point", (20, 20)),), picked).prompt(SHAPE, ALL).box is None
    assert Marks(1, (drawn("point", (6, 7)),), picked).prompt(SHAPE, ALL).box is not None


def test_groups():
    several = [drawn("point", (1, 1), object_id=2), drawn("point", (2, 2)), box(0, 0, 5, 5, object_id=2)]
    groups = by_object(several)
    assert [(m.object_id, len(m.drawn)) for m in groups] == [(1, 1), (2, 2)]


def test_each_its_own_with_its_nearest_background():
    several = [box(0, 0, 20, 20), box(5, 5, 10, 10), drawn("point", (30, 30))]
    background = [drawn("point", (6, 6), positive=False), drawn("point", (31, 30), positive=False)]
    sizes = [len(m.drawn) for m in each_its_own([*several, *background])]
    assert sizes == [1, 2, 2]
    (alone,) = each_its_own(background[:1])
    assert not alone.has_target


def test_compose_numbers_and_order():
    square = np.ones((4, 4), bool)
    patches = [(slice(0, 4), slice(0, 4), square), (slice(2, 6), slice(2, 6), square)]
    r, c, first = compose(patches, [0, 1])
    assert (r, c, first.shape) == (0, 0, (6, 6))
    assert first[3, 3] == 1
    assert compose(patches, [1, 0])[2][3, 3] == 2
    empty = (slice(0, 0), slice(0, 0), np.zeros((0, 0), bool))
    assert compose([empty], [0]) is None
    assert compose([empty, patches[1]], [0, 1])[:2] == (2, 2)


def test_patches_move_between_pixel_grids():
    patch = (slice(2, 4), slice(3, 6), np.ones((2, 3), bool))
    same = np.array([[1.0, 0, 10], [0, 1, -4]])
    rows, columns, mask = moved(patch, same, (20, 20))
    assert (rows, columns) == (slice(12, 14), slice(0, 2))
    assert mask.all()
    double = np.array([[2.0, 0, 0.5], [0, 2, 0.5]])
    rows, columns, mask = moved(patch, double, (20, 20))
    full = np.zeros((20, 20), bool)
    full[rows, columns] = mask
    assert np.argwhere(full).min(0).tolist() == [4, 6]
    assert full.sum() == 4 * 6
    far = np.array([[2.0, 0, 500], [0, 2, 0]])
    assert moved(patch, far, (20, 20))[2].size == 0
    turned = np.array([[0.0, 1, 0], [1, 0, 0]])
    rows, columns, mask = moved(patch, turned, (20, 20))
    full = np.zeros((20, 20), bool)
    full[rows, columns] = mask
    assert np.argwhere(full).tolist() == [[3, 2], [3, 3], [4, 2], [4, 3], [5, 2], [5, 3]]


def test_counting_labels_can_be_cancelled():
    assert largest_label(np.array([[1, 5], [2, 0]]), CancelToken()) == 5
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        largest_label(np.zeros((2, 2), int), token)
