"""What the status line says, and what it must not say."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Points, Shapes
from napari.layers._source import Source
from pydicom.data import get_testdata_file

from napari_zeroseg._napari.hints import reader_note
from napari_zeroseg._napari.layers import camera_of
from napari_zeroseg.phantom import em_like_stack


def box(z, r0, c0, r1, c1):
    return np.array([[z, r0, c0], [z, r0, c1], [z, r1, c1], [z, r1, c0]])


@pytest.fixture
def begun(desk, squares):
    desk.open(squares, name="em")
    return desk


def said(desk):
    texts = []
    desk.session.changed.connect(lambda: texts.append(desk.session.status.text))
    return texts


def test_3d_display_while_encoding_ahead_is_pending(begun):
    begun.viewer.dims.set_point(0, 2)
    begun.session.asking.look()
    assert "ahead" in begun.bridge.waiting
    begun.viewer.dims.ndisplay = 3
    begun.settle()
    assert "2-D display" in begun.session.status.text
    assert begun.bridge.errors == []


def test_the_camera_moves_in_3d(desk):
    desk.open(np.tile(em_like_stack(planes=1, size=256, seed=1)[0], (2, 6, 6)))
    desk.viewer.dims.ndisplay = 3
    camera_of(desk.viewer).center = (0, 5, 5)
    desk.settle()
    assert "2-D display" in desk.session.status.text
    desk.viewer.dims.ndisplay = 2
    desk.settle()
    assert "encoded" in desk.session.status.text


def test_the_end_of_encoding_ahead_is_said_at_the_end(desk):
    plane = np.random.default_rng(0).integers(0, 255, (1, 1024, 1024)).astype(np.uint8)
    desk.viewer.add_image(plane)
    desk.workspace.choose_image(desk.viewer.layers[0])
    texts = said(desk)
    desk.session.begin("points")
    desk.settle()
    told = list(dict.fromkeys(text for text in texts if "ncod" in text))
    assert told[0] == "Encoding plane 0 …"
    assert told[1:-1] == [f"Encoding plane 0, window {k} of 10 …" for k in range(2, 11)]
    assert told[-1].startswith("Plane 0 encoded")
    assert desk.engine.loaded.encoded == 10


def test_it_does_not_hide_that_an_object_was_accepted(begun):
    begun.viewer.dims.set_point(0, 2)
    begun.session.asking.look()
    begun.workspace.points.add([[2, 15, 15]])
    begun.session.accept()
    begun.settle()
    assert begun.session.status.text == "Object 1 accepted, 256 pixels"


def test_deleting_the_last_prompt_invites_again(begun):
    begun.click(1, 15, 15)
    changes = said(begun)
    begun.workspace.points.selected_data = {0}
    begun.workspace.points.remove_selected()
    begun.settle()
    assert changes
    assert begun.session.status.text == "Click on an object, or draw a box around it"
    assert not begun.session.can_accept


def test_the_next_candidate_is_counted(begun):
    begun.click(1, 15, 15)
    assert begun.session.status.text.startswith("256 pixels")
    for _ in range(2):
        begun.session.next_candidate()
    assert begun.session.status.text.startswith("4,096 pixels")


def test_the_first_click_tells_how_to_go_on(begun):
    begun.click(1, 15, 15)
    assert begun.session.status.text.endswith("; N: next object")
    begun.click(1, 15, 45)
    assert "next object" not in begun.session.status.text


def test_prompts_on_another_plane_are_found(begun):
    begun.click(2, 15, 15)
    assert begun.session.status.text == "The prompts are on plane 2: go there, or click here"
    begun.click(0, 15, 15)
    assert begun.session.status.text == "The prompts are on planes 0, 2: go there, or click here"
    begun.viewer.dims.set_point(0, 2)
    begun.settle()
    assert "pixels" in begun.session.status.text
    begun.viewer.dims.set_point(0, 1)
    begun.settle()
    assert begun.session.status.text == "The prompts are on planes 0, 2: go there, or click here"


def test_going_to_another_plane_and_back_keeps_the_candidate(begun):
    begun.click(1, 15, 15)
    begun.session.next_candidate()
    begun.session.next_candidate()
    for z in (2, 1):
        begun.viewer.dims.set_point(0, z)
        begun.settle()
    assert begun.session.asking.current[1] == 2
    assert (begun.shown()[1].data > 0).sum() == 64 * 64


def test_several_objects_are_named(begun):
    begun.click(1, 15, 15)
    assert begun.session.asking.current_name == ""
    begun.session.next_object()
    begun.click(1, 15, 45)
    assert begun.session.asking.current_name == f"object {begun.session.asking.object_id}"
    begun.session.set_options(batched=True)
    begun.settle()
    assert begun.session.asking.current_name == "object 2"


def test_two_boxes_are_two_objects(begun):
    shapes = begun.workspace.shapes
    shapes.add_rectangles(box(1, 8, 8, 23, 23))
    begun.settle()
    shapes.add_rectangles(box(1, 8, 40, 23, 55))
    begun.settle()
    assert list(shapes.features["object"]) == [1, 2]
    assert set(np.unique(begun.shown()[1].data)) == {0, 1, 2}
    begun.session.accept()
    begun.settle()
    labels = begun.workspace.labels.data[1]
    assert (labels[15, 15], labels[15, 45]) == (1, 2)
    assert len(shapes.data) == 0
    begun.session.undo()
    begun.settle()
    assert sorted(shapes.features["object"]) == [1, 2]


def test_boxes_added_together_and_a_point_after_them(begun):
    shapes = begun.workspace.shapes
    shapes.add_rectangles([box(1, 8, 8, 23, 23), box(1, 8, 40, 23, 55), box(1, 40, 40, 50, 50)])
    begun.click(1, 45, 45)
    assert list(shapes.features["object"]) == [1, 2, 3]
    assert list(begun.workspace.points.features["object"]) == [3]


def test_a_box_on_another_plane_keeps_the_number(begun):
    shapes = begun.workspace.shapes
    shapes.add_rectangles(box(1, 8, 8, 23, 23))
    begun.viewer.dims.set_point(0, 2)
    shapes.add_rectangles(box(2, 8, 8, 23, 23))
    begun.settle()
    assert list(shapes.features["object"]) == [1, 1]


def test_numbers_that_were_edited_to_be_equal_are_said(begun):
    shapes = begun.workspace.shapes
    shapes.add_rectangles([box(1, 8, 8, 23, 23), box(1, 8, 40, 23, 55)])
    shapes.features = shapes.features.assign(object=1)
    begun.settle()
    assert "Two boxes describe object 1" in str(begun.bridge.errors[-1])
    assert len(shapes.data) == 2


def drag(layer, *corners):
    """Draw as napari's rectangle tool does: press, move, release."""
    event = SimpleNamespace(type="mouse_press", position=corners[0], modifiers=[], dims_displayed=[1, 2])
    gesture = layer._drag_modes[layer._mode](layer, event)
    next(gesture)
    yield
    event.type, event.position = "mouse_move", corners[1]
    next(gesture)
    event.type = "mouse_release"
    for _ in gesture:
        pass


def test_boxes_drawn_by_hand(begun):
    shapes = begun.workspace.shapes
    begun.session.begin("box")
    begun.settle()
    for column in (8, 40):
        asked = begun.engine.loaded.asked
        for _ in drag(shapes, (1, 8, column), (1, 23, column + 15)):
            begun.settle()
            assert begun.engine.loaded.asked == asked
        begun.settle()
    assert begun.bridge.errors == []
    assert list(shapes.features["object"]) == [1, 2]
    assert set(np.unique(begun.shown()[1].data)) == {0, 1, 2}


def test_a_dicom_of_another_reader_is_told_once(desk, tmp_path):
    path = tmp_path / "a.dcm"
    shutil.copy(get_testdata_file("MR_small.dcm", download=False), path)
    image = desk.viewer.add_image(np.arange(4096, dtype=np.uint16).reshape(64, 64), name="a")
    image._source = Source(path=str(path), reader_plugin="some-reader")
    desk.workspace.choose_image(image)
    desk.settle()
    assert desk.session.status.text.startswith("'a' was read by some-reader")
    desk.session.begin("points")
    desk.click(5, 5)
    desk.session.discard()
    desk.settle()
    assert "some-reader" not in desk.session.status.text
    image._source = Source(path=str(path), reader_plugin="napari-zeroseg")
    assert reader_note(image) == ""


def test_points_of_a_layer_with_fewer_axes_are_nowhere_else(desk, squares):
    desk.workspace.choose_image(desk.viewer.add_image(squares))
    desk.workspace.choose_points(desk.viewer.add_layer(Points([[15, 15]])))
    desk.workspace.choose_shapes(desk.viewer.add_layer(Shapes(ndim=3)))
    desk.settle()
    assert desk.workspace.elsewhere(desk.workspace.plane()) == set()
    assert desk.shown() is not None
