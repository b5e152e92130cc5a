"""From clicks to previews: what is asked, what is shown, what is dropped."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from napari.layers import Labels, Points, Shapes

from napari_zeroseg._napari.engine import ModelChoice
from napari_zeroseg.errors import WeightsError


def rectangle(z, r0, c0, r1, c1):
    return np.array([[z, r0, c0], [z, r0, c1], [z, r1, c1], [z, r1, c0]])


def test_first_use_adds_layers_that_share_the_images_place(desk, squares):
    image = desk.open(squares, name="em", scale=(45, 4.6, 4.6), translate=(9, 1, 2), units="nm")
    names = [layer.name for layer in desk.viewer.layers]
    assert names == ["em", "em – labels", "ZeroSeg preview", "em – shapes", "em – points"]
    for layer in desk.viewer.layers:
        np.testing.assert_allclose(layer.scale, image.scale)
        assert layer.units == image.units
    for layer in (desk.workspace.points, desk.workspace.shapes, desk.workspace.labels):
        np.testing.assert_allclose(layer.translate, image.translate)
    assert desk.viewer.layers.selection.active is desk.workspace.points
    assert desk.workspace.points.mode == "add"
    assert desk.workspace.labels.data.shape == squares.shape


def test_looking_at_an_image_asks_the_model_nothing(desk, squares):
    desk.workspace.choose_image(desk.viewer.add_image(squares))
    desk.settle()
    assert desk.engine.loaded.encoded == 0
    assert desk.session.status.text == "Choose a kind of prompt to begin"


def test_the_plane_is_encoded_ahead(desk, squares):
    desk.open(squares)
    assert desk.engine.loaded.encoded == 1
    assert desk.session.status.text.startswith("Plane 1 encoded")
    desk.viewer.dims.set_point(0, 2)
    desk.settle()
    assert desk.session.status.text.startswith("Plane 2 encoded")


def test_a_click_shows_a_preview_on_its_plane_only(desk, squares):
    desk.open(squares, scale=(45, 4, 4), translate=(0, 10, 20))
    desk.viewer.dims.set_point(0, 90)
    desk.click(2, 15, 15)
    corner, layer = desk.shown()
    np.testing.assert_allclose(corner, [90, 10 + 8 * 4, 20 + 8 * 4])
    assert layer.data.shape == (1, 16, 16)
    assert layer.data.all()
    desk.viewer.dims.set_point(0, 45)
    desk.settle()
    assert desk.shown() is None
    desk.viewer.dims.set_point(0, 90)
    desk.settle()
    assert desk.shown() is not None


def test_layers_list_and_selection_are_left_alone_by_previews(desk, squares):
    desk.open(squares)
    before = list(desk.viewer.layers)
    ranges = desk.viewer.dims.range
    for column in (15, 45):
        desk.click(1, 15, column)
    assert list(desk.viewer.layers) == before
    assert desk.viewer.layers.selection.active is desk.workspace.points
    assert desk.viewer.dims.range == ranges


def test_candidates_are_cycled(desk, squares):
    desk.open(squares)
    desk.click(1, 15, 15)
    one, shown = desk.session.asking.current
    assert shown == 0
    np.testing.assert_allclose(one.scores, (0.9, 0.7, 0.5), atol=1e-6)
    sizes = []
    for _ in range(4):
        sizes.append(int((desk.shown()[1].data > 0).sum()))
        desk.session.next_candidate()
    assert sizes[0] == 256
    assert sizes[2] == 64 * 64
    assert sizes[3] == sizes[0]


def test_two_points_are_no_riddle(desk, squares):
    desk.open(squares)
    desk.click(1, 15, 15)
    desk.click(1, 15, 45)
    one, _ = desk.session.asking.current
    assert len(one.scores) == 1
    assert (desk.shown()[1].data > 0).sum() == 2 * 256


def test_a_negative_point_takes_away(desk, squares):
    desk.open(squares)
    desk.click(1, 15, 15)
    desk.click(1, 15, 45)
    desk.session.toggle_sign()
    assert not desk.session.is_positive
    desk.click(1, 16, 46)
    assert (desk.shown()[1].data > 0).sum() == 256
    assert list(desk.workspace.points.features["sign"]) == ["positive", "positive", "negative"]
    colours = desk.workspace.points.face_color
    assert colours[0, 1] > colours[0, 0]
    assert colours[2, 0] > colours[2, 1]


def test_only_background_is_not_asked(desk, squares):
    desk.open(squares)
    desk.session.toggle_sign()
    desk.click(1, 15, 15)
    assert desk.shown() is None
    assert "Only background" in desk.session.status.text


def test_marks_are_grouped_by_object(desk, squares):
    desk.open(squares)
    desk.click(1, 15, 15)
    desk.session.next_object()
    desk.click(1, 15, 45)
    layer = desk.shown()[1]
    assert set(np.unique(layer.data)) == {0, 1, 2}
    assert len(desk.session.asking.answer.objects) == 2


def test_batched_makes_every_mark_an_object(desk, squares):
    desk.open(squares)
    desk.session.set_options(batched=True)
    desk.workspace.points.add([[1, 15, 15], [1, 15, 45]])
    desk.workspace.shapes.add_rectangles(rectangle(1, 40, 40, 50, 50))
    desk.settle()
    assert set(np.unique(desk.shown()[1].data)) == {0, 1, 2, 3}


def test_outline_becomes_a_mask_and_a_path_a_scribble(desk, squares):
    desk.open(squares)
    desk.workspace.shapes.add_polygons(np.array([[1, 30, 30], [1, 30, 40], [1, 40, 40], [1, 40, 30]]))
    desk.settle()
    assert (desk.shown()[1].data > 0).sum() >= 11 * 11
    desk.session.discard()
    desk.settle()
    desk.workspace.shapes.add_paths(np.array([[1, 10, 10], [1, 20, 20]]))
    desk.settle()
    assert (desk.shown()[1].data > 0).sum() == 256


def test_live_off_waits_for_predict(desk, squares):
    desk.open(squares)
    desk.session.set_options(live=False)
    desk.click(1, 15, 15)
    assert desk.shown() is None
    assert desk.session.asking.is_pending
    desk.session.predict()
    desk.settle()
    assert desk.shown() is not None


def test_the_newest_click_wins(desk, squares):
    desk.open(squares)
    desk.engine.loaded.slowness = 0.1
    for column in (15, 45, 30):
        desk.workspace.points.add([[1, 15, column]])
        desk.bridge.turn()
    desk.settle()
    assert len(desk.session.asking.answer.objects[0].marks.drawn) == 3
    assert desk.engine.loaded.asked <= 2


def test_a_stale_answer_is_dropped_even_if_it_was_posted_already(desk, squares):
    desk.open(squares)
    desk.workspace.points.add([[1, 15, 15]])
    desk.bridge.turn()
    while not desk.queue.is_idle or desk.bridge.posted.empty():
        pass
    desk.viewer.dims.set_point(0, 2)
    desk.bridge.posted.get()()
    assert desk.shown() is None
    desk.settle()
    assert desk.shown() is None


def test_contrast_is_what_the_model_sees(desk, squares):
    deep = squares.astype(">u2") * 100
    image = desk.open(deep, contrast_limits=(0, 25500))
    desk.click(1, 15, 15)
    view = next(reversed(desk.engine._views.values()))
    np.testing.assert_array_equal(view.picture, squares[1])
    assert (desk.shown()[1].data > 0).sum() == 256
    image.contrast_limits = (0, 2500)
    desk.settle()
    view = next(reversed(desk.engine._views.values()))
    assert view.picture[0, 0] == 255
    assert view.picture[15, 15] == 255


def test_gamma_and_an_inverted_colormap_count_too(desk, squares):
    image = desk.open(squares, contrast_limits=(0, 255), colormap="gray_r")
    desk.click(1, 15, 15)
    np.testing.assert_array_equal(next(reversed(desk.engine._views.values())).picture, 255 - squares[1])
    image.gamma = 0.5
    desk.settle()
    assert next(reversed(desk.engine._views.values())).picture[15, 15] == 255 - round(255 * (100 / 255) ** 0.5)


@pytest.mark.parametrize("kind", ["dask", "multiscale", "rgb", "float"])
def test_any_kind_of_image(desk, squares, kind):
    options = {}
    data = squares
    if kind == "dask":
        data = da.from_array(squares, chunks=(1, 64, 64))
    elif kind == "multiscale":
        data, options = [squares, squares[:, ::2, ::2]], {"multiscale": True}
    elif kind == "rgb":
        data, options = np.stack([squares] * 3, axis=-1), {"rgb": True}
    else:
        data = np.where(squares == 20, np.nan, squares / 255).astype(np.float32)
        options = {"contrast_limits": (0, 1)}
    desk.open(data, **options)
    desk.click(1, 15, 15)
    assert desk.bridge.errors == []
    assert (desk.shown()[1].data > 0).sum() == 256
    desk.session.accept()
    desk.settle()
    assert (desk.workspace.labels.data[1] == 1).sum() == 256


def test_any_displayed_axes(desk, squares):
    desk.open(np.moveaxis(squares, 0, 2), rgb=False)
    desk.viewer.dims.order = (2, 1, 0)
    desk.viewer.dims.set_point(2, 1)
    desk.settle()
    desk.click(15, 45, 1)
    layer = desk.shown()[1]
    assert layer.data.shape == (16, 16, 1)
    np.testing.assert_allclose(layer.translate, (8, 40, 1))
    desk.session.accept()
    desk.settle()
    found = np.argwhere(desk.workspace.labels.data == 1)
    assert (found.min(0).tolist(), found.max(0).tolist()) == ([8, 40, 1], [23, 55, 1])


def test_3d_display_says_what_to_do(desk, squares):
    desk.open(squares)
    desk.click(1, 15, 15)
    desk.viewer.dims.ndisplay = 3
    desk.settle()
    assert "2-D display" in desk.session.status.text
    assert desk.shown() is None
    desk.viewer.dims.ndisplay = 2
    desk.settle()
    assert desk.shown() is not None


def test_errors_are_sentences_and_the_session_goes_on(desk, squares):
    desk.open(squares)
    desk.workspace.shapes.add_rectangles(rectangle(1, 10, 10, 10, 10))
    desk.settle()
    assert "no area" in str(desk.bridge.errors[0])
    desk.session.discard()
    desk.settle()
    desk.click(1, 500, 500)
    assert "outside the picture" in str(desk.bridge.errors[1])
    desk.session.discard()
    desk.settle()
    desk.click(1, 15, 15)
    assert desk.shown() is not None


def test_a_constant_plane_is_told_in_the_status_line_until_it_is_asked_about(desk):
    desk.open(np.zeros((3, 32, 32), np.uint8))
    assert desk.bridge.errors == []
    assert "same value" in desk.session.status.text
    desk.click(1, 5, 5)
    assert "same value" in str(desk.bridge.errors[0])


def test_a_model_that_cannot_be_loaded_leaves_the_present_one(desk, squares):
    desk.open(squares)
    before = desk.session.model
    desk.session.set_model(ModelChoice(device="cuda"))
    assert desk.session.loading is not None
    desk.settle()
    assert isinstance(desk.bridge.errors[0], WeightsError)
    assert desk.session.model == before
    assert desk.session.loading is None
    desk.click(1, 15, 15)
    assert desk.shown() is not None


def test_another_model_answers_again(desk, squares):
    desk.open(squares)
    desk.click(1, 15, 15)
    asked = desk.engine.loaded.asked
    desk.session.set_model(ModelChoice(precision="float32"))
    desk.settle()
    assert desk.session.model.precision == "float32"
    assert desk.engine.loaded.asked == asked + 1


@pytest.mark.parametrize("which", ["image", "points", "shapes", "labels", "preview"])
@pytest.mark.parametrize("when", ["asking", "shown"])
def test_removing_a_layer_in_the_middle(desk, squares, which, when):
    desk.open(squares)
    desk.engine.loaded.slowness = 0.02
    desk.workspace.points.add([[1, 15, 15]])
    desk.bridge.turn()
    if when == "shown":
        desk.settle()
    layer = desk.session.preview.layer if which == "preview" else getattr(desk.workspace, which)
    desk.viewer.layers.remove(layer)
    desk.settle()
    assert desk.bridge.errors == []
    if which in ("image", "points"):
        assert desk.shown() is None
    if which != "image":
        desk.session.begin("points")
        desk.settle()
        desk.click(1, 15, 45)
        assert desk.shown() is not None
        desk.session.accept()
        desk.settle()
        assert desk.workspace.labels.data.any()


def test_switching_the_image_in_the_middle(desk, squares):
    first = desk.open(squares, name="first")
    desk.engine.loaded.slowness = 0.05
    desk.workspace.points.add([[1, 15, 15]])
    desk.bridge.turn()
    second = desk.viewer.add_image(squares[:, ::-1], name="second")
    desk.workspace.choose_image(second)
    desk.settle()
    assert desk.shown() is None
    assert desk.workspace.points is None
    desk.workspace.choose_image(first)
    desk.settle()
    assert len(desk.workspace.points.data) == 1
    assert desk.shown() is not None


def test_closing_in_the_middle_leaves_the_marks_and_no_preview(desk, squares):
    desk.open(squares)
    desk.engine.loaded.slowness = 0.05
    desk.workspace.points.add([[1, 15, 15]])
    desk.bridge.turn()
    points = desk.workspace.points
    desk.session.close()
    desk.settle()
    assert [layer.name for layer in desk.viewer.layers if "preview" in layer.name] == []
    assert len(points.data) == 1
    points.add([[1, 15, 45]])
    assert desk.bridge.waiting == {}


def test_two_viewers_share_a_thread_and_nothing_else(make_desk, squares):
    one = make_desk()
    other = make_desk(queue=one.queue, engine=one.engine)
    one.open(squares)
    other.open(squares)
    one.workspace.points.add([[1, 15, 15]])
    other.workspace.points.add([[1, 15, 45]])
    one.settle()
    other.settle()
    np.testing.assert_allclose(one.shown()[0], (1, 8, 8))
    np.testing.assert_allclose(other.shown()[0], (1, 8, 40))
    one.session.close()
    other.click(1, 16, 46)
    assert other.shown() is not None


def test_existing_layers_can_be_chosen(desk, squares):
    image = desk.viewer.add_image(squares, scale=(1, 2, 2))
    points = desk.viewer.add_layer(Points([[1, 30, 30], [2, 30, 30]]))
    shapes = desk.viewer.add_layer(Shapes(ndim=3))
    desk.workspace.choose_image(image)
    desk.workspace.choose_points(points)
    desk.workspace.choose_shapes(shapes)
    desk.settle()
    np.testing.assert_allclose(desk.shown()[0], (1, 16, 16))
    assert list(points.features["sign"]) == ["positive", "positive"]
    desk.session.toggle_sign()
    points.add([[1, 31, 31]])
    assert list(points.features["sign"])[-1] == "negative"
    assert isinstance(desk.session.preview.layer, Labels)
