"""Prompts of flags and tables, gathered into numbered objects."""

from __future__ import annotations

import numpy as np
import pytest

from napari_zeroseg.errors import InputError
from napari_zeroseg.planes import Planes, planes_of
from napari_zeroseg.seeds import GivenPrompts, gather_seeds

STACK = Planes.of(np.zeros((5, 60, 80), np.uint8))
PLANE = Planes.of(np.zeros((60, 80), np.uint8))
SERIES = Planes.of(np.zeros((2, 5, 60, 80), np.uint16))


@pytest.fixture
def points(tmp_path):
    """Write a table of points and return where."""

    def write(text):
        path = tmp_path / "points.csv"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def boxes(tmp_path):
    """Write a table of rectangles, each (plane, object, r0, c0, r1, c1), and return where."""

    def write(*rectangles):
        lines = ["index,shape-type,vertex-index,axis-0,axis-1,axis-2,object"]
        for index, (plane, number, r0, c0, r1, c1) in enumerate(rectangles):
            for vertex, (r, c) in enumerate([(r0, c0), (r0, c1), (r1, c1), (r1, c0)]):
                lines.append(f"{index},rectangle,{vertex},{plane},{r},{c},{number}")
        path = tmp_path / "boxes.csv"
        path.write_text("\n".join(lines))
        return path

    return write


def told(given, series=STACK, chosen=None):
    """The seeds as {plane: [(label, points, signs, box), ...]}."""
    seeds = gather_seeds(given, series, range(len(series)) if chosen is None else chosen)
    return {
        plane: [
            (
                seed.label,
                [tuple(point) for point in seed.prompt.points.tolist()],
                seed.prompt.labels.tolist(),
                None if seed.prompt.box is None else tuple(seed.prompt.box.tolist()),
            )
            for seed in several
        ]
        for plane, several in seeds.items()
    }


def test_flags():
    given = GivenPrompts(boxes=[(1, 2, 30, 40)], points=[(5, 6)], negatives=[(50, 70)])
    expected = [
        (1, [(50, 70)], [False], (1, 2, 30, 40)),
        (2, [(5, 6), (50, 70)], [True, False], None),
    ]
    assert told(given, PLANE) == {0: expected}
    assert told(given, STACK, [1, 3]) == {1: expected, 3: expected}


def test_one_object():
    given = GivenPrompts([(1, 2, 30, 40)], [(5, 6)], [(50, 70)], one_object=True)
    assert told(given, PLANE) == {0: [(1, [(5, 6), (50, 70)], [True, False], (1, 2, 30, 40))]}


def test_objects_keep_their_numbers_and_others_get_free_ones(points, boxes):
    file = points("axis-0,axis-1,axis-2,object\n0,5,5,4\n2,6,6,4\n2,7,7,\n")
    given = GivenPrompts(points=[(9, 9)], points_file=file, boxes_file=boxes((2, 9, 1, 2, 30, 40)))
    numbers = {plane: [item[0] for item in items] for plane, items in told(given, chosen=[0, 1, 2]).items()}
    assert numbers == {0: [10, 4], 1: [10], 2: [10, 4, 11, 9]}


def test_a_box_and_points_of_one_number_are_one_object(points, boxes):
    file = points("axis-0,axis-1,axis-2,object,sign\n2,5,5,1,positive\n2,50,50,1,negative\n2,33,33,2,positive\n")
    given = GivenPrompts(points_file=file, boxes_file=boxes((2, 1, 1, 2, 30, 40)))
    assert told(given) == {
        2: [(1, [(5, 5), (50, 50)], [True, False], (1, 2, 30, 40)), (2, [(33, 33)], [True], None)],
    }


def test_a_table_without_planes_is_for_all(points):
    assert list(told(GivenPrompts(points_file=points("axis-0,axis-1\n5,6\n")))) == [0, 1, 2, 3, 4]


def test_planes_of_more_axes(points):
    file = points("axis-0,axis-1,axis-2,axis-3\n1,3,5,6\n")
    assert list(told(GivenPrompts(points_file=file), SERIES)) == [8]
    file = points("axis-0,axis-1,axis-2\n0,5,6\n")
    assert list(told(GivenPrompts(points_file=file), PLANE)) == [0]


class TestBackground:
    def test_of_flags_is_no_fault_where_there_is_no_object(self, points):
        given = GivenPrompts(negatives=[(50, 70)], points_file=points("axis-0,axis-1,axis-2\n3,5,5\n"))
        assert told(given) == {3: [(1, [(5, 5), (50, 70)], [True, False], None)]}

    def test_of_an_object_that_is_not_there(self, points):
        numbered = "axis-0,axis-1,axis-2,object,sign\n3,5,5,1,positive\n3,50,50,2,negative\n"
        with pytest.raises(InputError, match="On plane 3 an object has only points on background"):
            told(GivenPrompts(points_file=points(numbered)))

    def test_of_a_box_whose_number_napari_did_not_save(self, points, boxes):
        file = points("axis-0,axis-1,axis-2,object,sign\n3,50,50,2,negative\n3,9,9,1,positive\n")
        given = GivenPrompts(points_file=file, boxes_file=boxes((3, "", 1, 2, 30, 40), (3, "", 40, 2, 50, 40)))
        assert told(given) == {
            3: [
                (1, [(9, 9)], [True], None),
                (3, [(50, 50)], [False], (1, 2, 30, 40)),
                (4, [(50, 50)], [False], (40, 2, 50, 40)),
            ],
        }


class TestRefused:
    def refusal(self, *given, series=STACK, chosen=None, **more):
        with pytest.raises(InputError) as caught:
            told(GivenPrompts(*given, **more), series, chosen)
        return str(caught.value)

    def test_nothing(self):
        assert "give --point" in self.refusal()

    def test_outside(self):
        assert "lies outside the picture of 60 rows and 80 columns" in self.refusal(points=[(70, 70)])

    def test_planes_that_are_not_there(self, points):
        assert "names plane (5,)" in self.refusal(points_file=points("axis-0,axis-1,axis-2\n5,5,5\n"))
        assert "names plane (1,)" in self.refusal(points_file=points("axis-0,axis-1,axis-2\n1,5,5\n"), series=PLANE)
        assert "has 4 axes but the picture has 3" in self.refusal(
            points_file=points("axis-0,axis-1,axis-2,axis-3\n0,0,5,5\n")
        )

    def test_planes_that_are_not_chosen(self, points):
        given = {"points_file": points("axis-0,axis-1,axis-2\n4,5,5\n")}
        assert "None of the prompts lies on the chosen planes" in self.refusal(**given, chosen=[0, 1])

    def test_two_boxes_of_one_object(self, boxes):
        file = boxes((2, 1, 1, 2, 30, 40), (2, 1, 40, 2, 50, 40))
        assert "Two boxes describe one object" in self.refusal(boxes_file=file)

    def test_numbers_that_are_none(self, boxes):
        for number in (0, -3, 2**31):
            assert f"names object {number}" in self.refusal(boxes_file=boxes((2, number, 1, 2, 30, 40)))


def test_what_is_left_out_is_told(points, caplog):
    caplog.set_level("INFO", logger="napari_zeroseg")
    told(GivenPrompts(points_file=points("axis-0,axis-1,axis-2\n4,5,5\n0,5,5\n3,5,5\n")), chosen=[0, 1])
    assert caplog.messages == ["2 of 3 points and boxes lie on planes outside --planes: left out."]


@pytest.mark.parametrize(
    ("text", "planes"),
    [
        (None, range(10)),
        ("3", [3]),
        ("0:4", [0, 1, 2, 3]),
        ("0:9:4", [0, 4, 8]),
        ("7,1, 4", [1, 4, 7]),
        ("0:3,2:5", [0, 1, 2, 3, 4]),
        ("-2:", [8, 9]),
        (":2", [0, 1]),
        ("8:99", [8, 9]),
    ],
)
def test_planes(text, planes):
    assert planes_of(text, 10) == list(planes)


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "1..3", "10", "-1", "5:5", "1:9:0", "1,", "1:9:-1"])
def test_planes_that_are_none(text):
    with pytest.raises(InputError, match=r"[Pp]lane"):
        planes_of(text, 10)
