"""Words in a session: classes, boxes that restrict, the threshold, heat maps, accepting; without a window."""

from __future__ import annotations

import time

import numpy as np
import pytest
from napari.layers import Points, Shapes

from napari_zeroseg._napari.engine import ModelChoice
from napari_zeroseg._napari.marks import Drawn
from napari_zeroseg._napari.phrase_map import phrase_marks
from napari_zeroseg._napari.preview import colour_of
from napari_zeroseg._napari.taught import shared_taught
from napari_zeroseg.errors import InputError

WORDS, FLOOD, BOXES = (ModelChoice(f"toy_{name}") for name in ("words", "flood", "boxes"))


@pytest.fixture
def bench(toy_desk):
    """A session with the toys, on the image with two squares, with the model of words."""
    desk = toy_desk
    desk.session.set_model(WORDS)
    desk.settle()
    return desk


def write(desk, line):
    desk.session.wording.enter(line)
    desk.settle()


def draw_box(desk, r0, c0, r1, c1):
    corners = [(0, r, c) for r, c in ((r0, c0), (r0, c1), (r1, c1), (r1, c0))]
    desk.workspace.make_shapes().add_rectangles(np.array(corners))
    desk.settle()


def said(desk):
    return desk.session.status.text


def preview(desk):
    layer = desk.session.preview.layer
    return np.asarray(layer.data).squeeze() if layer is not None and layer.visible else None


class TestPhraseMarks:
    def box(self, text=""):
        return Drawn("rectangle", 0, 1, np.array([[1.0, 2], [1, 8], [5, 8], [5, 2]]), True, text)

    def test_each_phrase_is_a_class(self):
        marks = phrase_marks("lung, heart", [])
        assert [(m.object_id, m.phrase, m.within) for m in marks] == [(1, "lung", None), (2, "heart", None)]

    def test_a_box_without_text_restricts_the_line(self):
        assert [m.within for m in phrase_marks("lung, heart", [self.box()])] == [(1, 2, 5, 8)] * 2

    def test_a_box_with_text_restricts_only_that(self):
        marks = phrase_marks("lung, heart", [self.box("Lung")])
        assert [(m.phrase, m.within) for m in marks] == [("lung", (1, 2, 5, 8)), ("heart", None)]

    def test_a_box_brings_a_phrase_of_its_own(self):
        marks = phrase_marks("lung", [self.box("heart"), self.box("heart")])
        assert [(m.object_id, m.phrase) for m in marks] == [(1, "lung"), (2, "heart"), (2, "heart")]

    def test_no_words_no_marks(self):
        assert phrase_marks(" , ", [self.box()]) == []

    def test_a_minus_says_what_is_not_wanted(self):
        marks = phrase_marks("lung, -rib, − Heart, -lung", [self.box("vessel")])
        assert [(m.object_id, m.phrase, m.is_unwanted) for m in marks] == [
            (1, "lung", False),
            (2, "vessel", False),
            (3, "rib", True),
            (4, "Heart", True),
        ]
        with pytest.raises(InputError, match="'-rib' says what is not wanted"):
            phrase_marks("-rib", [])

    def test_too_many(self):
        with pytest.raises(InputError, match="at most 254"):
            phrase_marks(",".join(map(str, range(255))), [])


def test_it_asks_for_words_first(bench):
    assert "Type what to find" in bench.session.status.text
    assert preview(bench) is None


def test_phrases_become_classes(bench, squares):
    write(bench, "bright, dark")
    assert np.array_equal(preview(bench), np.where(squares[0] / 255 > 0.5, 1, 2))
    legend = bench.session.wording.legend()
    assert [(row.number, row.phrase, row.pixels) for row in legend] == [(1, "bright", 257), (2, "dark", 64 * 64 - 257)]
    assert legend[0].score == pytest.approx(200 / 255, abs=0.02)


def test_colours_of_the_legend_are_those_of_the_preview(bench):
    write(bench, "bright, dark")
    layer = bench.session.preview.layer
    for number in range(1, 12):
        hexadecimal = "#" + "".join(f"{round(255 * part):02x}" for part in layer.get_color(number)[:3])
        assert hexadecimal == colour_of(number)


def test_the_likelier_phrase_has_the_pixel(bench, squares):
    write(bench, "dark, bright")
    bench.session.wording.cut_at(5)
    bench.settle()
    assert np.array_equal(preview(bench), np.where(squares[0] > 127, 2, 1))


def test_the_threshold_acts_without_the_model(bench, squares):
    write(bench, "bright")
    model = bench.engine.toys["toy_words"]
    before = (model.asked, model.encoded)
    bench.session.wording.cut_at(30)
    assert np.array_equal(preview(bench) == 1, squares[0] / 255 > 0.3)
    bench.session.wording.cut_at(90)
    assert np.array_equal(preview(bench) == 1, squares[0] / 255 > 0.9)
    bench.session.wording.cut_at(99)
    bench.settle()
    assert (model.asked, model.encoded) == before


def test_the_threshold_agrees_with_the_model_itself(bench):
    from napari_zeroseg.models.probability_frame import at_threshold

    write(bench, "bright")
    found = bench.session.asking.answer.phrases
    for per_cent in (3, 30, 39, 40, 50, 78, 79):
        expected = at_threshold(found.predictions[0][0], per_cent / 100)
        assert np.array_equal(found.classes(per_cent / 100) == 1, expected.mask)
        (patch,) = found.patches(per_cent / 100)
        assert found.pixels(per_cent / 100) == [expected.mask.sum()] == [patch[2].sum()]
        assert found.scores(per_cent / 100)[0] == pytest.approx(expected.scores[0], abs=0.011)


def test_nothing_so_probable(bench):
    write(bench, "zebra")
    assert "lower the threshold" in bench.session.status.text
    assert bench.session.wording.legend()[0].pixels == 0
    bench.session.accept()
    assert "nothing in the preview" in str(bench.bridge.errors[-1])


def test_a_box_restricts(bench):
    write(bench, "bright")
    draw_box(bench, 4, 36, 30, 60)
    assert preview(bench)[8:24, 40:56].all()
    assert preview(bench).sum() == 256


def test_a_text_of_its_own_for_a_box(bench):
    write(bench, "dark")
    draw_box(bench, 4, 4, 11, 11)
    bench.session.wording.write_on_boxes()
    write(bench, "bright")
    rows = bench.session.wording.legend()
    assert [(row.phrase, row.pixels) for row in rows] == [("bright", 257), ("dark", 64)]
    assert (preview(bench)[4:12, 4:12] == 2).all()
    assert list(bench.workspace.shapes.features["text"]) == ["dark"]


def test_writing_on_no_box_says_so(bench):
    write(bench, "bright")
    bench.session.wording.write_on_boxes()
    assert "draw one" in str(bench.bridge.errors[-1])


def test_accept_writes_classes_and_undo_brings_the_preview_back(bench, squares):
    write(bench, "bright, dark")
    bench.session.accept()
    bench.settle()
    expected = np.where(squares[0] / 255 > 0.5, 1, 2)
    assert np.array_equal(bench.workspace.labels.data[0], expected)
    assert not bench.workspace.labels.data[1:].any()
    assert "2 classes accepted" in bench.session.status.text
    assert preview(bench) is None
    assert not bench.session.can_accept
    bench.session.undo()
    bench.settle()
    assert not bench.workspace.labels.data.any()
    assert preview(bench) is not None


def test_the_words_are_asked_on_the_next_plane(bench):
    write(bench, "bright")
    bench.session.accept()
    bench.viewer.dims.set_current_step(0, 2)
    bench.settle()
    assert preview(bench).sum() == 257
    bench.session.accept()
    assert (bench.workspace.labels.data[[0, 2]] == bench.workspace.labels.data[0]).all()


def test_discard_keeps_words_and_boxes(bench):
    write(bench, "bright")
    draw_box(bench, 4, 36, 30, 60)
    bench.session.discard()
    bench.settle()
    assert preview(bench) is None
    assert len(bench.workspace.shapes.data) == 1
    assert bench.session.options.text == "bright"


def test_heat_map_on_demand(bench, squares):
    write(bench, "bright, dark")
    bench.session.wording.toggle_heat("bright")
    bench.settle()
    layer = bench.session.wording.heat.layers["bright"]
    assert layer.name == "ZeroSeg heat map – bright"
    assert np.allclose(layer.data.squeeze(), squares[0] / 255, atol=1e-5)
    assert tuple(layer.extent.world[0]) == (0, 0, 0)
    bench.viewer.dims.set_current_step(0, 1)
    bench.settle()
    assert layer.translate[0] == 1  # it follows to the plane that was asked about
    bench.session.wording.toggle_heat("bright")
    assert layer not in bench.viewer.layers
    bench.session.wording.toggle_heat("dark")
    bench.settle()
    bench.viewer.layers.remove(bench.session.wording.heat.layers["dark"])
    assert not bench.session.wording.legend()[1].has_heat


def test_other_models_leave_the_words_alone(bench):
    write(bench, "bright")
    bench.session.set_model(FLOOD)
    bench.settle()
    assert bench.session.wording.legend() == []
    assert preview(bench) is None
    assert bench.session.options.text == "bright"
    bench.session.set_model(WORDS)
    bench.settle()
    assert preview(bench) is not None


def test_switching_keeps_prompts_and_asks_again(bench):
    bench.session.set_model(FLOOD)
    bench.settle()
    bench.session.begin("points")
    bench.settle()
    bench.click(0, 10, 10)
    assert preview(bench).sum() == 256
    draw_box(bench, 8, 8, 15, 15)
    bench.session.set_model(BOXES)
    bench.settle()
    assert len(bench.workspace.points.data) == 1
    assert bench.session.preview.layer.data.sum() == 64  # the box alone: this one takes no points
    bench.workspace.shapes.data = []
    bench.settle()
    assert bench.session.status.text == "Box filler takes no points, which stay for other models: draw a box"
    bench.session.set_model(FLOOD)
    bench.settle()
    assert bench.session.preview.layer.data.sum() == 256


def test_what_is_not_wanted_takes_pixels_and_is_no_class(bench, squares):
    write(bench, "bright, -dark")
    bench.session.wording.cut_at(5)
    bench.settle()
    assert np.array_equal(preview(bench), np.where(squares[0] > 127, 1, 0))
    assert [row.phrase for row in bench.session.wording.legend()] == ["bright"]
    bench.session.accept()
    assert set(np.unique(bench.workspace.labels.data)) == {0, 1}


def test_templates(bench, squares):
    """The words of the toy mean something by themselves only, so that a template averages with 0.01."""
    write(bench, "bright")
    bench.session.wording.put_into("{}; a photo of {}")
    bench.session.wording.cut_at(30)
    bench.settle()
    assert np.array_equal(preview(bench) == 1, (squares[0] / 255 + 0.01) / 2 > 0.3)
    bench.session.outlining.outline()
    bench.settle()
    bench.session.set_model(WORDS)
    bench.settle()
    bench.session.wording.put_into("no place for it")
    bench.settle()
    assert "has no {}" in said(bench)
    bench.session.wording.put_into("")
    bench.session.wording.cut_at(50)
    bench.settle()
    assert np.array_equal(preview(bench) == 1, squares[0] > 127)


def test_a_large_plane_is_looked_at_in_windows(bench):
    picture = np.full((1500, 2100), 40, np.uint8)
    picture[700:900, 1000:1300] = 230
    bench.workspace.choose_image(bench.viewer.add_image(picture))
    bench.settle()
    before = bench.engine.toys["toy_words"].encoded
    write(bench, "bright, dark")
    assert bench.engine.toys["toy_words"].encoded - before > 3
    found = bench.session.asking.answer.phrases
    assert np.array_equal(found.classes(0.5), np.where(picture > 127, 1, 2))
    np.testing.assert_allclose(found.heat("bright"), picture / 255, atol=0.01)
    bench.session.wording.cut_at(95)
    bench.settle()
    assert not found.classes(0.95).any()
    draw_box(bench, 690, 990, 910, 1310)
    assert bench.session.asking.answer.phrases.classes(0.5)[:690].max() == 0


class TestOutlining:
    """From what words find to boxes and clicks that a model that draws answers."""

    @pytest.fixture
    def drawn(self, toy_desk):
        """The model of words, with one that draws used before."""
        toy_desk.session.set_model(FLOOD)
        toy_desk.settle()
        toy_desk.session.set_model(WORDS)
        toy_desk.settle()
        return toy_desk

    def test_each_region_becomes_an_object(self, drawn, squares):
        write(drawn, "bright")
        drawn.session.outlining.outline()
        drawn.settle()
        assert drawn.session.model == FLOOD
        (box,) = drawn.workspace.shapes.data
        assert (box.min(0).tolist(), box.max(0).tolist()) == ([0, 7.5, 39.5], [0, 23.5, 55.5])
        assert drawn.workspace.shapes.features["class"].tolist() == ["bright"]
        assert "positive" in list(drawn.workspace.points.features["sign"])
        assert preview(drawn).shape == (16, 16)
        drawn.session.accept()
        drawn.settle()
        written = drawn.workspace.labels.data[0] > 0
        assert written.sum() == 256
        assert (squares[0][written] == 200).all()
        assert not len(drawn.workspace.shapes.data)

    def test_several_words_are_classes(self, drawn):
        picture = np.full((64, 64), 128, np.uint8)
        picture[8:24, 8:24], picture[30:50, 40:56] = 10, 240
        drawn.workspace.choose_image(drawn.viewer.add_image(picture))
        drawn.settle()
        write(drawn, "dark, bright")
        drawn.session.wording.cut_at(70)
        drawn.session.outlining.outline()
        drawn.settle()
        assert drawn.session.options.semantic
        assert sorted(drawn.workspace.shapes.features["class"]) == ["bright", "dark"]
        drawn.session.accept()
        drawn.settle()
        written = drawn.workspace.labels.data
        assert (written[9:23, 9:23] == 1).all()
        assert (written[31:49, 41:55] == 2).all()
        assert not written[:, 30:36].any()

    def test_its_boxes_do_not_restrict_words(self, drawn):
        write(drawn, "bright")
        before = preview(drawn)
        drawn.session.outlining.outline()
        drawn.settle()
        drawn.session.set_model(WORDS)
        drawn.settle()
        assert np.array_equal(preview(drawn), before)

    def test_layers_of_another_place_get_the_marks_where_they_are_seen(self, drawn):
        shapes = Shapes(ndim=2, scale=(0.5, 0.5), translate=(3, 4))
        drawn.session.viewer.add_layer(shapes)
        drawn.workspace.choose_shapes(shapes)
        write(drawn, "bright")
        drawn.session.outlining.outline()
        drawn.settle()
        (box,) = shapes.data
        np.testing.assert_allclose(box.min(0), [(7.5 - 3) / 0.5, (39.5 - 4) / 0.5])

    def test_nothing_so_probable(self, drawn):
        write(drawn, "zebra")
        drawn.session.outlining.outline()
        drawn.settle()
        assert "lower the threshold" in drawn.session.status.text
        assert drawn.session.model == WORDS
        assert not drawn.session.outlining.is_busy

    def test_before_there_is_an_answer(self, drawn):
        drawn.session.outlining.outline()
        assert "Nothing to outline yet" in drawn.session.status.text

    def test_on_another_plane_meanwhile(self, drawn):
        write(drawn, "bright")
        drawn.session.outlining.outline()
        drawn.session.viewer.dims.set_current_step(0, 1)
        drawn.settle()
        assert drawn.workspace.shapes is None or not len(drawn.workspace.shapes.data)
        assert not drawn.session.outlining.is_busy

    def test_nothing_is_outlined_twice(self, drawn):
        for _ in range(2):
            write(drawn, "bright")
            drawn.session.outlining.outline()
            drawn.settle()
            drawn.session.set_model(WORDS)
            drawn.settle()
        assert len(drawn.workspace.shapes.data) == 1
        assert "bright: everything has a box already" in said(drawn)
        drawn.session.set_model(FLOOD)
        drawn.settle()
        drawn.session.accept()
        drawn.settle()
        drawn.session.set_model(WORDS)
        drawn.settle()
        drawn.session.outlining.outline()
        drawn.settle()
        assert not len(drawn.workspace.shapes.data)
        assert "nothing new was found" in said(drawn)

    @pytest.fixture
    def many(self, drawn):
        """Twenty squares: more than one turn of the window's loop puts into the layers."""
        picture = np.full((120, 150), 20, np.uint8)
        for i in range(20):
            row, column = 8 + 28 * (i // 5), 8 + 28 * (i % 5)
            picture[row : row + 14, column : column + 14] = 220
        drawn.workspace.choose_image(drawn.viewer.add_image(picture))
        drawn.settle()
        write(drawn, "bright")
        return drawn

    def until_some(self, desk):
        while desk.workspace.shapes is None or not len(desk.workspace.shapes.data):
            desk.bridge.turn()
            time.sleep(0.001)

    def test_many_in_several_turns(self, many):
        many.session.outlining.outline()
        self.until_some(many)
        assert len(many.workspace.shapes.data) < 20
        assert many.session.outlining.is_busy
        many.settle()
        assert sorted(many.workspace.shapes.features["object"]) == list(range(1, 21))
        assert not many.session.outlining.is_busy
        many.session.accept()
        many.settle()
        assert many.workspace.labels.data.max() == 20

    def test_another_image_in_the_middle(self, many, squares):
        many.session.outlining.outline()
        self.until_some(many)
        there = many.workspace.shapes
        other = many.viewer.add_image(squares[0], name="other")
        many.workspace.choose_image(other)
        many.settle()
        assert many.workspace.shapes is None
        assert 0 < len(there.data) < 20
        assert not many.session.outlining.is_busy
        assert many.session.model == WORDS

    def test_another_model_in_the_middle_stays(self, many):
        many.session.outlining.outline()
        many.session.set_model(BOXES)
        many.settle()
        assert many.session.model == BOXES
        assert len(many.workspace.shapes.data) == 20

    def test_another_contrast_in_the_middle_is_the_same_picture(self, drawn):
        write(drawn, "bright")
        drawn.session.outlining.outline()
        drawn.workspace.image.contrast_limits = (0, 250)
        drawn.settle()
        assert len(drawn.workspace.shapes.data) == 1

    @pytest.mark.parametrize("signs", [[1, 0], [True, False], ["+", "-"]])
    def test_points_with_signs_of_their_own(self, drawn, signs):
        points = Points(np.zeros((2, 3)) + 60, features={"sign": signs, "object": [5, 6]}, ndim=3)
        drawn.session.viewer.add_layer(points)
        drawn.workspace.choose_points(points)
        write(drawn, "bright")
        drawn.session.outlining.outline()
        drawn.settle()
        assert list(points.features["sign"])[:2] == signs
        assert "positive" in list(points.features["sign"])[2:]
        assert drawn.session.model == FLOOD

    def test_a_word_that_is_taught_meanwhile(self, toy_desk, monkeypatch):
        toy_desk.session.set_model(FLOOD)
        toy_desk.settle()
        assert toy_desk.session.outlining.words == []
        monkeypatch.setattr("napari_zeroseg._napari.outlining.taught_words", lambda: ["cell"])
        shared_taught().changed.emit()
        toy_desk.settle()
        assert toy_desk.session.outlining.words == ["cell"]

    def test_words_that_nobody_taught(self, toy_desk):
        toy_desk.session.set_model(FLOOD)
        toy_desk.settle()
        toy_desk.session.outlining.find("mitochondria")
        toy_desk.settle()
        assert "'mitochondria' was not taught to it: none was taught yet" in toy_desk.session.status.text
        toy_desk.session.outlining.find(" , ")
        assert "no phrase" in toy_desk.session.status.text
