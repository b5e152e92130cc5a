"""Which plane is on the screen, and where the marks of other layers lie on it."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Points, Shapes

from napari_zeroseg._napari.layers import drawn_points, drawn_shapes, is_positive, shown_plane
from napari_zeroseg.errors import InputError


@pytest.fixture
def viewer():
    return ViewerModel()


def add(viewer, data, **options):
    return viewer.add_image(data, **options)


def test_the_last_two_axes_at_the_sliders_position(viewer):
    image = add(viewer, np.zeros((5, 6, 7), np.uint8), scale=(2, 1, 1))
    viewer.dims.set_current_step(0, 3)
    plane = shown_plane(image, viewer.dims)
    assert (plane.axes, plane.index, plane.shape) == ((1, 2), (3, 0, 0), (6, 7))
    assert plane.name == "plane 3"


def test_any_pair_of_axes_and_transposed(viewer):
    image = add(viewer, np.zeros((5, 6, 7), np.uint8))
    viewer.dims.order = (1, 2, 0)
    viewer.dims.set_current_step(1, 4)
    plane = shown_plane(image, viewer.dims)
    assert (plane.axes, plane.index, plane.shape) == ((2, 0), (0, 4, 0), (7, 5))


def test_a_picture_has_no_number(viewer):
    assert shown_plane(add(viewer, np.zeros((6, 7), np.uint8)), viewer.dims).name == "picture"


def test_two_sliders(viewer):
    image = add(viewer, np.zeros((3, 4, 5, 6), np.uint8))
    viewer.dims.set_current_step((0, 1), (2, 3))
    assert shown_plane(image, viewer.dims).name == "plane 2, 3"


def test_colour_is_no_axis(viewer):
    image = add(viewer, np.zeros((4, 5, 6, 3), np.uint8), rgb=True)
    assert shown_plane(image, viewer.dims).shape == (5, 6)


def test_multiscale_is_seen_at_its_finest(viewer):
    image = add(viewer, [np.zeros((4, 40, 60), np.uint8), np.zeros((4, 20, 30), np.uint8)], multiscale=True)
    assert shown_plane(image, viewer.dims).shape == (40, 60)


def test_what_cannot_be_prompted_is_said(viewer):
    image = add(viewer, np.zeros((5, 6, 7), np.uint8), name="em")
    viewer.dims.ndisplay = 3
    with pytest.raises(InputError, match="2-D display"):
        shown_plane(image, viewer.dims)
    viewer.dims.ndisplay = 2
    other = add(viewer, np.zeros((5, 6, 7), np.uint8), translate=(100, 0, 0), name="far")
    viewer.dims.set_point(0, 2)
    with pytest.raises(InputError, match="'far' has no plane here"):
        shown_plane(other, viewer.dims)
    assert shown_plane(image, viewer.dims).index == (2, 0, 0)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_plane_that_the_screen_cuts_across(viewer):
    image = add(viewer, np.zeros((5, 6, 7), np.uint8), rotate=(10, 0, 0), name="tilted")
    image.rotate = np.array([[np.cos(0.3), 0, np.sin(0.3)], [0, 1, 0], [-np.sin(0.3), 0, np.cos(0.3)]])
    with pytest.raises(InputError, match="rotated out of the plane"):
        shown_plane(image, viewer.dims)


def test_an_axis_that_is_displayed_but_not_there(viewer):
    image = add(viewer, np.zeros((6, 7), np.uint8))
    add(viewer, np.zeros((5, 6, 7), np.uint8))
    viewer.dims.order = (1, 0, 2)
    with pytest.raises(InputError, match="displayed axes"):
        shown_plane(image, viewer.dims)


def test_layers_of_different_scale_agree(viewer):
    image = add(viewer, np.zeros((5, 60, 70), np.uint8), scale=(45, 4.6, 4.6), translate=(0, 100, 200))
    points = viewer.add_layer(Points([[90, 146, 292]]))
    viewer.dims.set_point(0, 90)
    (point,) = drawn_points(points, shown_plane(image, viewer.dims), viewer.dims)
    np.testing.assert_allclose(point.vertices, [[10, 20]], atol=1e-9)


def test_rotation_and_affine_are_followed(viewer):
    affine = np.array([[0, 2, 5], [-2, 0, 7], [0, 0, 1.0]])
    image = add(viewer, np.zeros((60, 70), np.uint8), scale=(3, 4), rotate=30, affine=affine)
    points = viewer.add_layer(Points([image.data_to_world((11, 23))]))
    (point,) = drawn_points(points, shown_plane(image, viewer.dims), viewer.dims)
    np.testing.assert_allclose(point.vertices, [[11, 23]], atol=1e-9)


def test_units_agree_where_napari_draws_them_so(viewer):
    image = add(viewer, np.zeros((60, 70), np.uint8), scale=(100, 100), units="nm")
    points = viewer.add_layer(Points([[1.0, 2.0]], units="um"))
    (point,) = drawn_points(points, shown_plane(image, viewer.dims), viewer.dims)
    converts = getattr(viewer.dims, "units", None) is not None
    np.testing.assert_allclose(point.vertices, [[10, 20] if converts else [0.01, 0.02]], rtol=1e-6)


def test_marks_of_other_planes_are_left_out(viewer):
    image = add(viewer, np.zeros((5, 60, 70), np.uint8))
    points = viewer.add_layer(Points([[1, 5, 5], [2, 6, 6], [2.4, 7, 7], [3, 8, 8]]))
    shapes = viewer.add_layer(Shapes(ndim=3))
    shapes.add_rectangles(np.array([[2, 1, 1], [2, 1, 9], [2, 9, 9], [2, 9, 1]]))
    shapes.add_rectangles(np.array([[3, 1, 1], [3, 1, 9], [3, 9, 9], [3, 9, 1]]))
    viewer.dims.set_point(0, 2)
    plane = shown_plane(image, viewer.dims)
    assert [d.row for d in drawn_points(points, plane, viewer.dims)] == [1, 2]
    assert [(d.kind, d.row) for d in drawn_shapes(shapes, plane, viewer.dims)] == [("rectangle", 0)]


def test_flat_marks_count_on_every_plane(viewer):
    image = add(viewer, np.zeros((5, 60, 70), np.uint8))
    points = viewer.add_layer(Points([[5, 6]]))
    for z in (0, 4):
        viewer.dims.set_point(0, z)
        (point,) = drawn_points(points, shown_plane(image, viewer.dims), viewer.dims)
        np.testing.assert_allclose(point.vertices, [[5, 6]])


def test_marks_with_more_axes_than_the_image(viewer):
    image = add(viewer, np.zeros((60, 70), np.uint8))
    points = viewer.add_layer(Points([[0, 5, 6], [4, 7, 8]]))
    viewer.dims.set_point(0, 4)
    (point,) = drawn_points(points, shown_plane(image, viewer.dims), viewer.dims)
    np.testing.assert_allclose(point.vertices, [[7, 8]])


def test_features_say_sign_and_object(viewer):
    image = add(viewer, np.zeros((60, 70), np.uint8))
    features = {"sign": ["positive", "negative", None], "object": [1, 2, np.nan]}
    points = viewer.add_layer(Points([[1, 1], [2, 2], [3, 3]], features=features))
    found = list(drawn_points(points, shown_plane(image, viewer.dims), viewer.dims))
    assert [(d.positive, d.object_id) for d in found] == [(True, 1), (False, 2), (True, 1)]


def test_hidden_points_do_not_count(viewer):
    image = add(viewer, np.zeros((60, 70), np.uint8))
    points = viewer.add_layer(Points([[1, 1], [2, 2]], shown=[False, True]))
    assert [d.row for d in drawn_points(points, shown_plane(image, viewer.dims), viewer.dims)] == [1]


@pytest.mark.parametrize(
    ("sign", "positive"), [("positive", True), ("Negative", False), (0, False), (1, True), (-1, False)]
)
def test_signs_as_people_write_them(sign, positive):
    assert is_positive(sign) is positive


def test_pixel_map_between_layers(viewer):
    image = add(viewer, np.zeros((5, 60, 70), np.uint8), scale=(1, 2, 2))
    labels = viewer.add_layer(Labels(np.zeros((5, 30, 35), np.uint8), scale=(1, 4, 4), translate=(0, 1, 1)))
    viewer.dims.set_point(0, 2)
    matrix = shown_plane(image, viewer.dims).pixel_map(shown_plane(labels, viewer.dims))
    np.testing.assert_allclose(matrix, [[0.5, 0, -0.25], [0, 0.5, -0.25]])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("place", [{}, {"scale": (3, 0.5, 2), "translate": (4, -1, 7), "units": "nm"}])
def test_marks_are_put_where_they_are_read(order, ndim, place):
    """The way from pixels to a layer's own coordinates and back, whatever is displayed."""
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((6, 7, 8)), **place)
    there = {"scale": (0.25, 4), "translate": (1, 2)} if ndim == 2 else {"scale": (2, 0.25, 4)}
    points = viewer.add_points(ndim=ndim, **there, **({"units": "nm"} if place else {}))
    viewer.dims.order = order
    for axis, step in enumerate((4, 3, 2)):
        viewer.dims.set_current_step(axis, step)
    plane = shown_plane(image, viewer.dims)
    if ndim == 2 and order != (0, 1, 2):
        return  # a plane layer has no other displayed axes
    pixels = np.array([[0.0, 0.0], [2.5, 3.0], [4.0, 1.5]])
    found, on_plane = plane.pixels(points, plane.coordinates(points, pixels, viewer.dims), viewer.dims)
    np.testing.assert_allclose(found, pixels, atol=1e-9)
    assert on_plane.all()
