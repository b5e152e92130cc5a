"""``zeroseg segment --boxes FILE --classes``: boxes of a user or a detector to a map of classes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_zeroseg import load_model
from napari_zeroseg.cascade import segment_boxes
from napari_zeroseg.io.read import open_image

HEAD = "row0,column0,row1,column1,class,score,plane\n"


@pytest.fixture
def overlapping(stack):
    """Two boxes that share pixels, on plane 1."""
    r0, c0, r1, c1 = stack.box(1, 1)
    return [(r0, c0, r1, c1), (r0 - 4, c0 - 4, (r0 + r1) // 2, c1 + 4)]


def write(path, rows):
    path.write_text(HEAD + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def labels_of(path):
    return np.asarray(open_image(path).data)


@pytest.mark.parametrize("scores", [("", ""), (0.9, 0.2)])
def test_later_over_earlier_or_by_score(zeroseg, stack, overlapping, tmp_path, scores):
    file = write(
        tmp_path / "boxes.csv", [(*box, k, s, 1) for box, k, s in zip(overlapping, (7, 3), scores, strict=True)]
    )
    ask = ("segment", stack.path, "--boxes", file, "--classes", "--field", "plane")
    done = zeroseg(*ask, "--json", "-o", tmp_path / "a.tif")
    assert done.code == 0, done
    model = load_model(device="cpu")
    given = None if scores == ("", "") else scores
    expected = segment_boxes(model, stack.raw[1], overlapping, (7, 3), given)
    found = labels_of(tmp_path / "a.tif")
    assert set(np.unique(found)) == {0, 3, 7}
    assert not found[[0, 2]].any()
    assert (found[1] == expected).mean() > 0.99  # windows differ, not what lies above
    assert "2 objects on 1 plane" in json.loads(done.out)["summary"]


def test_names(zeroseg, stack, overlapping, tmp_path):
    elsewhere = stack.box(2, 0)
    rows = [(*overlapping[0], "cell", "", 1), (*elsewhere, "nucleus", "", 0), (*overlapping[0], "cell", "", 2)]
    file = write(tmp_path / "boxes.csv", rows)
    done = zeroseg("segment", stack.path, "--boxes", file, "--classes", "--json", "-o", tmp_path / "a.tif")
    assert json.loads(done.out)["classes"] == {"cell": 1, "nucleus": 2}
    assert [set(np.unique(plane)) - {0} for plane in labels_of(tmp_path / "a.tif")] == [{2}, {1}, {1}]


def test_objects_unless_classes_are_asked_for(zeroseg, stack, overlapping, tmp_path):
    file = write(tmp_path / "boxes.csv", [(*box, "cell", "", 1) for box in overlapping])
    assert zeroseg("segment", stack.path, "--boxes", file, "-o", tmp_path / "a.tif").code == 0
    assert set(np.unique(labels_of(tmp_path / "a.tif"))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--point", "10,10"), "each object needs the class of its box"),
        (("--overlap", "keep"), "classes lie over each other"),
    ],
)
def test_what_does_not_go_with_classes(zeroseg, stack, overlapping, tmp_path, more, expected):
    file = write(tmp_path / "boxes.csv", [(*overlapping[0], "cell", "", 1)])
    done = zeroseg("segment", stack.path, "--boxes", file, "--classes", *more, "-o", tmp_path / "a.tif")
    assert done.code
    assert expected in done.err


@pytest.mark.parametrize("class_", ["", "0", "-3"])
def test_a_box_without_a_class(zeroseg, stack, overlapping, tmp_path, class_):
    file = write(tmp_path / "boxes.csv", [(*overlapping[0], class_, "", 1)])
    done = zeroseg("segment", stack.path, "--boxes", file, "--classes", "-o", tmp_path / "a.tif")
    assert "a name or a whole number from 1" in done.error()
    assert not (tmp_path / "a.tif").exists()


def test_classes_without_boxes(zeroseg, stack, tmp_path):
    done = zeroseg("segment", stack.path, "--point", "10,10", "--classes", "-o", tmp_path / "a.tif")
    assert "--classes is for" in done.usage_error()


@pytest.mark.parametrize("class_", ["1.7", "True", "0", "-3", "inf"])
def test_what_is_no_class(zeroseg, stack, overlapping, tmp_path, class_):
    file = write(tmp_path / "boxes.csv", [(*overlapping[0], "1.0", "", 1), (*overlapping[1], class_, "", 1)])
    ask = ("segment", stack.path, "--boxes", file, "-o", tmp_path / "a.tif")
    expected = "boxes.csv, line 3, column class: a class is a name or a whole number from 1"
    assert expected in zeroseg(*ask, "--classes").error()
    assert not (tmp_path / "a.tif").exists()


def test_whole_numbers_as_tables_write_them(zeroseg, stack, overlapping, tmp_path):
    file = write(tmp_path / "boxes.csv", [(*overlapping[0], "2.0", "", 1)])
    assert zeroseg("segment", stack.path, "--boxes", file, "--classes", "-o", tmp_path / "a.tif").code == 0
    assert set(np.unique(labels_of(tmp_path / "a.tif"))) == {0, 2}


def test_another_name_or_order_is_another_run(zeroseg, stack, overlapping, tmp_path):
    first, second = overlapping
    planes = [(*first, "cell", "", 0), (*second, "other", "", 0)], [(*first, "cell", "", 1), (*second, "other", "", 1)]
    file, out = tmp_path / "boxes.csv", tmp_path / "a.tif"
    ask = ("segment", stack.path, "--boxes", file, "--classes", "-o", out)
    write(file, [*planes[0], *planes[1]])
    assert zeroseg(*ask).code == 0
    before = labels_of(out)
    assert "nothing to do" in zeroseg(*ask).out
    write(file, [*planes[0], *reversed(planes[1])])
    assert "is already there and is not from this run" in zeroseg(*ask).error()
    assert zeroseg(*ask, "--overwrite").code == 0
    after = labels_of(out)
    assert (after[0] == before[0]).all()
    assert (after[1] != before[1]).any()
    write(file, [(*row[:4], row[4].replace("cell", "axon"), *row[5:]) for row in (*planes[0], *reversed(planes[1]))])
    assert "is not from this run" in zeroseg(*ask).error()
    assert json.loads(zeroseg(*ask, "--overwrite", "--json").out)["classes"] == {"axon": 1, "other": 2}
