"""Prompts from tables as napari writes them; tests/layers has napari write them."""

from __future__ import annotations

import pytest

from napari_zeroseg.errors import InputError, ReadError
from napari_zeroseg.io.csv import BoxRow, PointRow, read_boxes, read_points


def table(tmp_path, text):
    path = tmp_path / "prompts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_points_with_words_and_with_numbers(tmp_path):
    words = "index,axis-0,axis-1,axis-2,sign,object\n0,3.0,10.5,20.0,positive,1\n1,3.4,11.0,21.0,negative,1\n"
    numbers = "index,axis-0,axis-1,axis-2,sign,object\n0.0,3.0,10.5,20.0,1.0,1.0\n1.0,3.4,11.0,21.0,0.0,1.0\n"
    expected = [PointRow((3,), 10.5, 20.0, True, 1), PointRow((3,), 11.0, 21.0, False, 1)]
    assert read_points(table(tmp_path, words)) == expected
    assert read_points(table(tmp_path, numbers)) == expected


def test_points_without_features(tmp_path):
    assert read_points(table(tmp_path, "index,axis-0,axis-1\n0,10.5,20\n")) == [PointRow((), 10.5, 20.0, True, None)]


def test_no_points(tmp_path):
    assert read_points(table(tmp_path, "index,axis-0,axis-1\n")) == []


def test_ten_axes_are_in_their_order(tmp_path):
    axes = ",".join(f"axis-{n}" for n in (10, *range(10)))
    (row,) = read_points(table(tmp_path, f"{axes}\n10,{','.join(map(str, range(10)))}\n"))
    assert row == PointRow(tuple(range(9)), 9.0, 10.0)


def test_missing_features_and_other_columns(tmp_path):
    text = "index,axis-0,axis-1,sign,object,confidence\n0,1,2,,nan,0.3\n\n1,3,4,FALSE,,0.4\n"
    assert read_points(table(tmp_path, text)) == [PointRow((), 1, 2, True, None), PointRow((), 3, 4, False, None)]


@pytest.mark.parametrize(("index", "plane"), [("2.5", 3), ("3.49", 3), ("-0.4", 0), ("-0.6", -1)])
def test_points_between_planes_belong_to_the_nearer(tmp_path, index, plane):
    (row,) = read_points(table(tmp_path, f"axis-0,axis-1,axis-2\n{index},1,2\n"))
    assert row.plane == (plane,)


def test_written_by_a_spreadsheet(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}index,axis-0,axis-1\r\n0,1,2\r\n".encode())
    assert read_points(path) == [PointRow((), 1, 2)]


HEAD = "index,shape-type,vertex-index,axis-0,axis-1,axis-2"


def rectangle(index, plane, r0, c0, r1, c1, extra=""):
    corners = [(r0, c0), (r0, c1), (r1, c1), (r1, c0)]
    return "".join(f"{index},rectangle,{n},{plane},{r},{c}{extra}\n" for n, (r, c) in enumerate(corners))


def test_boxes(tmp_path):
    text = f"{HEAD}\n{rectangle(0, 3.0, 10, 20, 30, 40)}{rectangle(1, 4.0, 5, 9, 1, 2)}"
    assert read_boxes(table(tmp_path, text)) == [BoxRow((3,), (10, 20, 30, 40)), BoxRow((4,), (1, 2, 5, 9))]


def test_boxes_with_features(tmp_path):
    text = f"{HEAD},object,text\n{rectangle(0, 3, 10, 20, 30, 40, ',7.0,mitochondrion')}"
    assert read_boxes(table(tmp_path, text)) == [BoxRow((3,), (10, 20, 30, 40), 7, "mitochondrion")]


def test_turned_boxes_give_the_upright_one_around(tmp_path):
    rows = "".join(f"0,rectangle,{n},{r},{c}\n" for n, (r, c) in enumerate([(0, 5), (5, 10), (10, 5), (5, 0)]))
    (row,) = read_boxes(table(tmp_path, f"index,shape-type,vertex-index,axis-0,axis-1\n{rows}"))
    assert row.box == (0, 0, 10, 10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("index,axis-0,axis-1\n0,1,2\n1,ten,2\n", r"line 3, column axis-0: a number was expected, not 'ten'"),
        ("index,axis-0,axis-1\n0,1,inf\n", r"line 2, column axis-1: a number"),
        ("index,axis-0,axis-1\n0,1\n", r"line 2: 3 columns were expected, as in the first line, not 2"),
        ("index,axis-0,axis-1,sign\n0,1,2,perhaps\n", r"line 2, column sign: 'positive' or 'negative'"),
        ("index,axis-0,axis-1,object\n0,1,2,1.5\n", r"line 2, column object: a whole number"),
        ("index,axis-0,axis-1,object\n0,1,2,nucleus\n", r"line 2, column object: a number"),
        ("x,y\n1,2\n", r"columns x, y; axis-0 and axis-1"),
        (f"{HEAD}\n{rectangle(0, 3, 1, 2, 3, 4)}", r"Shapes layer: give it as boxes"),
    ],
)
def test_wrong_points_are_told_by_line_and_column(tmp_path, text, sentence):
    with pytest.raises(InputError, match=rf"prompts\.csv.*{sentence}"):
        read_points(table(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("index,axis-0,axis-1\n0,1,2\n", "no column shape-type"),
        (f"{HEAD}\n0,polygon,0,3,1,2\n", "line 2, column shape-type: 'rectangle' was expected, not 'polygon'"),
        (f"{HEAD}\n0,rectangle,0,3,1,2\n0,rectangle,1,4,5,6\n", "line 2: the rectangle lies on several planes"),
        (f"{HEAD}\n{rectangle(0, 3, 1, 2, 1, 8)}", "line 2: the rectangle has no area"),
        (f"{HEAD}\n{rectangle(0, 3, 1, 2, 4, 'x')}", "line 3, column axis-2: a number"),
    ],
)
def test_wrong_boxes_are_told_by_line_and_column(tmp_path, text, sentence):
    with pytest.raises(InputError, match=rf"prompts\.csv.*{sentence}"):
        read_boxes(table(tmp_path, text))


@pytest.mark.parametrize("read", [read_points, read_boxes])
def test_files_that_are_no_tables(tmp_path, read):
    with pytest.raises(ReadError, match="There is no file"):
        read(tmp_path / "missing.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ReadError, match="is empty"):
        read(tmp_path / "empty.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ReadError, match="could not be read as CSV"):
        read(tmp_path / "binary.csv")
    with pytest.raises(ReadError, match="could not be read as CSV"):
        read(tmp_path)


def test_boxes_with_classes_and_scores(tmp_path):
    head = f"{HEAD},class,score\n"
    text = head + rectangle(0, 3, 10, 20, 30, 40, ",cell,0.5") + rectangle(1, 4, 1, 2, 5, 9, ",2,")
    assert read_boxes(table(tmp_path, text)) == [
        BoxRow((3,), (10, 20, 30, 40), class_="cell", score=0.5),
        BoxRow((4,), (1, 2, 5, 9), class_="2"),
    ]


def test_a_table_with_a_line_a_box(tmp_path):
    text = "class,row0,column0,row1,column1,plane\ncell,30,20,10,40,3\n,1,2,5,9,4\n"
    expected = [BoxRow((3,), (10, 20, 30, 40), class_="cell"), BoxRow((4,), (1, 2, 5, 9))]
    assert read_boxes(table(tmp_path, text)) == expected
    assert read_boxes(table(tmp_path, "row0,column0,row1,column1\n1,2,5,9\n")) == [BoxRow((), (1, 2, 5, 9))]
    with pytest.raises(InputError, match=r"line 2: the rectangle has no area"):
        read_boxes(table(tmp_path, "row0,column0,row1,column1\n1,2,1,9\n"))
    with pytest.raises(InputError, match="a whole number was expected, not '0\\.5'"):
        read_boxes(table(tmp_path, "row0,column0,row1,column1,plane\n1,2,5,9,0.5\n"))
