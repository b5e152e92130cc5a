"""Boxes of a detector, and boxes to which the user gave a class, from the layers to the labels."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
from napari.layers import Shapes

from napari_zeroseg import View
from napari_zeroseg._napari.layers import class_numbers, name_classes
from napari_zeroseg._napari.remembered import recall
from napari_zeroseg.cascade import load_detector, segment_boxes
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.settings import Settings


@pytest.fixture
def begun(desk, squares):
    desk.open(squares)
    desk.viewer.dims.set_current_step(0, 1)
    desk.settle()
    return desk


@pytest.fixture
def ready(begun, yolos):
    begun.session.detecting.choose(str(yolos))
    begun.session.detecting.least_score = 0.01
    begun.settle()
    return begun


def find(desk, line=""):
    desk.session.wording.enter(line)
    desk.session.detecting.find()
    desk.settle(60)


def said(desk):
    return " ".join([desk.session.status.text, *map(str, desk.bridge.errors)])


def rectangle(row, column, row1, column1):
    return np.array([[1, row, column], [1, row, column1], [1, row1, column1], [1, row1, column]], float)


def labelled(desk):
    desk.session.accept()
    desk.settle()
    return np.asarray(desk.workspace.labels.data[1])


class TestDetector:
    def test_its_boxes_lie_in_the_layer(self, ready, squares, yolos):
        told = []
        ready.session.changed.connect(lambda: told.append(ready.session.status.text))
        find(ready)
        shapes, found = ready.workspace.shapes, load_detector(yolos, device="cpu").detect(squares[1], (), 0.01)
        assert len(shapes.data) == len(found.boxes) == 6
        corners = [(*box[:, 1:].min(0), *box[:, 1:].max(0)) for box in shapes.data]
        np.testing.assert_allclose(corners, found.boxes)
        assert shapes.features["class"].tolist() == found.names
        assert class_numbers(shapes) == found.classes
        np.testing.assert_allclose(shapes.features["score"], found.scores)
        assert sorted(shapes.features["object"]) == [1, 2, 3, 4, 5, 6]
        assert ready.session.options.semantic
        assert any("then accept. Since there are several classes" in text for text in told)
        assert len(ready.session.asking.answer.objects) == 6
        assert set(found.names) == {"cell", "nucleus"}

    @pytest.mark.parametrize("policy", OverlapPolicy)
    def test_where_they_meet_the_higher_score_is_seen(self, ready, squares, yolos, policy):
        found = load_detector(yolos, device="cpu").detect(squares[1], (), 0.01)
        view = View(ready.engine.loaded, squares[1])
        expected = segment_boxes(ready.engine.loaded, view, found.boxes, found.classes, found.scores)
        assert set(np.unique(expected)) == {0, 1, 2}
        ready.session.set_options(policy=policy)
        find(ready)
        shown = ready.session.preview.layer
        assert shown.visible
        assert np.array_equal(labelled(ready), expected)
        ready.session.undo()
        ready.settle()
        assert len(ready.workspace.shapes.data) == 6
        assert np.isfinite(ready.workspace.shapes.features["score"]).all()

    def test_one_class_is_numbered_by_object(self, ready, squares, yolos):
        names = load_detector(yolos, device="cpu").detect(squares[1], (), 0.01).names
        find(ready, names[0])
        assert len(ready.workspace.shapes.data) == names.count(names[0])
        assert set(ready.workspace.shapes.features["class"]) == {names[0]}
        assert not ready.session.options.semantic

    def test_one_class_found_of_several_known(self, ready, squares, yolos):
        found = load_detector(yolos, device="cpu").detect(squares[1], (), 0.01)
        best = found.names[0]
        others = [score for name, score in zip(found.names, found.scores, strict=True) if name != best]
        ready.session.detecting.least_score = (found.scores[0] + max(others)) / 2
        find(ready)
        assert set(ready.workspace.shapes.features["class"]) == {best}
        assert not ready.session.options.semantic

    def test_a_class_keeps_its_number_in_the_next_search(self, ready):
        find(ready, "cell, nucleus")
        labelled(ready)
        ready.session.undo()
        ready.session.discard()
        ready.settle()
        assert not len(ready.workspace.shapes.data)
        find(ready, "nucleus")
        assert set(class_numbers(ready.workspace.shapes)) == {2}
        assert set(np.unique(labelled(ready))) == {0, 2}
        assert "(2 nucleus)" in said(ready)

    def test_an_error_of_an_earlier_search_ends_nothing(
        self,
        ready,
    ):
        ready.session.detecting.find()
        failed = ready.session.outlining._turn
        ready.session.detecting.find()
        ready.session.outlining._on_failed(failed, InputError("too late"))
        assert ready.session.outlining.is_busy
        assert "too late" not in said(ready)
        ready.settle(60)
        assert len(ready.workspace.shapes.data) == 6

    def test_nothing_is_found_twice(self, ready):
        find(ready)
        find(ready)
        assert len(ready.workspace.shapes.data) == 6
        assert "everything has a box already" in said(ready)
        labelled(ready)
        find(ready)
        assert len(ready.workspace.shapes.data) < 6

    @pytest.mark.parametrize(
        ("line", "least", "expected"),
        [
            ("axon", 0.01, "does not know 'axon'; its classes are: cell, nucleus"),
            ("cell", 0.99, "found nothing of cell with a score of 0.99 or more on this plane: lower the least score"),
            ("cell, -nucleus", 0.01, "leave '-nucleus' out"),
        ],
    )
    def test_what_comes_to_nothing(self, ready, line, least, expected):
        ready.session.detecting.least_score = least
        find(ready, line)
        assert expected in said(ready)
        assert ready.workspace.shapes is None or not len(ready.workspace.shapes.data)
        assert not ready.session.outlining.is_busy

    def test_no_folder_and_no_detector(self, begun, tmp_path):
        find(begun)
        assert "choose the folder of one that transformers saved" in said(begun)
        begun.session.detecting.choose(str(tmp_path))
        find(begun)
        assert f"There is no detector {tmp_path} on this machine" in said(begun)

    def test_another_one_in_the_same_folder(self, ready, yolos, tmp_path):
        there = shutil.copytree(yolos, tmp_path / "mine")
        ready.session.detecting.choose(str(there))
        find(ready)
        assert len(ready.workspace.shapes.data) == 6
        (there / "model.safetensors").write_bytes(b"")
        find(ready)
        assert "cannot be loaded" in said(ready)

    def test_stopped(self, ready):
        ready.engine.loaded.slowness = 0.05
        ready.session.detecting.find()
        assert ready.session.outlining.is_busy
        ready.session.outlining.stop()
        ready.settle(60)
        assert ready.workspace.shapes is None or not len(ready.workspace.shapes.data)
        assert not ready.session.outlining.is_busy
        assert "Stopped" in said(ready)

    def test_stopped_when_it_has_just_ended(self, ready):
        ready.session.detecting.find()
        while not ready.queue.is_idle:
            time.sleep(0.001)
        ready.session.outlining.stop()
        ready.settle()
        assert ready.workspace.shapes is None or not len(ready.workspace.shapes.data)

    def test_it_is_remembered(self, ready, make_desk, yolos):
        assert make_desk().session.detecting.folder == str(yolos)


def test_another_process_remembers_meanwhile(begun, tmp_path):
    begun.session.detecting.choose("first")
    with only_run_on(Settings.from_environment().data_dir / "docks.json"):
        begun.session.detecting.choose(str(tmp_path))
    assert begun.session.detecting.folder == str(tmp_path)
    assert recall("detector") == "first"


class TestUsersClasses:
    """Boxes that a user gave a feature "class"."""

    def adopt(self, desk, boxes, **features):
        layer = Shapes(boxes, shape_type="rectangle", features=features)
        desk.viewer.add_layer(layer)
        desk.workspace.choose_shapes(layer)
        desk.settle()
        return layer

    @pytest.mark.parametrize("policy", OverlapPolicy)
    def test_later_boxes_lie_over_earlier_ones(self, begun, policy):
        begun.session.set_options(policy=policy)
        self.adopt(begun, [rectangle(10, 10, 30, 30), rectangle(20, 20, 40, 40)], **{"class": [7, 3]})
        assert begun.session.options.semantic
        written = labelled(begun)
        assert set(np.unique(written)) == {0, 3, 7}
        assert written[25, 25] == 3
        assert written[12, 12] == 7

    def test_by_score_where_they_have_one(self, begun):
        boxes = [rectangle(10, 10, 30, 30), rectangle(20, 20, 40, 40), rectangle(0, 0, 12, 12)]
        self.adopt(begun, boxes, score=[0.9, 0.2, np.nan], **{"class": [7, 3, 4]})
        written = labelled(begun)
        assert written[25, 25] == 7
        assert written[11, 11] == 4

    def test_names_are_numbered_and_keep_their_numbers(self, begun):
        boxes = [rectangle(2, 2, 8, 8), rectangle(20, 20, 30, 30), rectangle(40, 40, 50, 50)]
        layer = self.adopt(begun, boxes, **{"class": ["cell", "nucleus", ""]})
        written = labelled(begun)
        assert (written[5, 5], written[25, 25], written[45, 45]) == (1, 2, 3)  # without one, no other's number
        assert "(1 cell, 2 nucleus)" in said(begun)
        layer.add(rectangle(52, 52, 60, 60), shape_type="rectangle")
        layer.features = layer.features.assign(**{"class": ["nucleus"]})
        begun.settle()
        assert labelled(begun)[55, 55] == 2

    def test_names_keep_off_numbers_in_use(self, begun):
        begun.session.set_options(semantic=True, class_id=1)
        begun.click(1, 15, 15)
        assert 1 in labelled(begun)
        begun.session.set_options(class_id=2)
        layer = self.adopt(begun, [rectangle(30, 30, 38, 38)], **{"class": ["cell"]})
        assert class_numbers(layer) == [3]
        assert begun.session.options.class_id == 2
        written = labelled(begun)
        assert written[34, 34] == 3
        another = self.adopt(begun, [rectangle(42, 42, 50, 50)] * 2, **{"class": ["nucleus", "cell"]})
        assert class_numbers(another) == [4, 3]

    def test_a_class_that_the_user_chooses_by_its_number(self, begun):
        self.adopt(begun, [rectangle(2, 2, 8, 8), rectangle(20, 20, 30, 30)], **{"class": ["cell", ""]})
        assert begun.session.options.class_id == 2
        begun.session.set_options(class_id=1)
        begun.settle()
        assert labelled(begun)[25, 25] == 1
        assert "(1 cell)" in said(begun)

    def test_instances_if_the_user_says_so(self, begun):
        self.adopt(begun, [rectangle(10, 10, 20, 20), rectangle(40, 40, 50, 50)], **{"class": [7, 3]})
        begun.session.set_options(semantic=False)
        begun.settle()
        assert set(np.unique(labelled(begun))) == {0, 1, 2}

    def test_a_class_given_to_boxes_that_are_there(self, begun):
        begun.session.begin("box")
        begun.settle()
        shapes = begun.workspace.shapes
        shapes.add(rectangle(10, 10, 20, 20), shape_type="rectangle")
        begun.settle()
        assert not begun.session.options.semantic
        shapes.features = shapes.features.assign(**{"class": ["9"]})
        begun.settle()
        assert begun.session.options.semantic
        assert set(np.unique(labelled(begun))) == {0, 9}


def test_names_in_their_own_spelling():
    layer = Shapes([rectangle(1, 1, 2, 2)], shape_type="rectangle", features={"class": ["Cell"]})
    assert name_classes(layer, {"7": 1, "axon": 5, "cell": 9}) == {"7": "class 7", "axon": "axon", "cell": "Cell"}
    assert layer.metadata["napari-zeroseg classes"] == {"Cell": 1, "class 7": 2, "axon": 5}
