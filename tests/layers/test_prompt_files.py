"""Tables that napari itself wrote, read back as prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from napari.layers import Points, Shapes
from npe2 import PluginManager

from napari_zeroseg.io.csv import BoxRow, PointRow, read_boxes, read_points

PLACES = np.array([[3, 10.5, 20], [3, 11, 21], [4, 1, 2]])
ROWS = [
    PointRow((3,), 10.5, 20, True, 1),
    PointRow((3,), 11, 21, False, 1),
    PointRow((4,), 1, 2, True, 2),
]


@pytest.fixture(autouse=True)
def builtins():
    """Napari's own writers."""
    PluginManager.instance().discover()


@pytest.mark.parametrize(
    "sign",
    [
        ["positive", "negative", "positive"],
        [True, False, True],
        [1, -1, 1],
        [1, 0, 1],
        pd.Categorical(["positive", "negative", "positive"]),
        pd.Categorical([True, False, True]),
    ],
    ids=["words", "bools", "signs", "numbers", "categories of words", "categories of bools"],
)
def test_points_with_features(tmp_path, sign):
    layer = Points(PLACES, features=pd.DataFrame({"sign": sign, "object": [1, 1, 2]}))
    (path,) = layer.save(str(tmp_path / "points.csv"))
    assert read_points(path) == ROWS


def test_points_without_features(tmp_path):
    (path,) = Points(PLACES[:, 1:]).save(str(tmp_path / "points.csv"))
    assert read_points(path) == [PointRow((), row.row, row.column) for row in ROWS]


def test_points_with_an_object_left_open(tmp_path):
    layer = Points(PLACES, features=pd.DataFrame({"object": [1, np.nan, 2]}))
    (path,) = layer.save(str(tmp_path / "points.csv"))
    assert [row.object for row in read_points(path)] == [1, None, 2]


def test_no_points(tmp_path):
    (path,) = Points(ndim=3).save(str(tmp_path / "points.csv"))
    assert read_points(path) == []


def test_rectangles(tmp_path):
    corners = [
        np.array([[3, 10, 20], [3, 10, 40], [3, 30, 40], [3, 30, 20]]),
        np.array([[4, 5, 9], [4, 5, 2], [4, 1, 2], [4, 1, 9]]),
    ]
    layer = Shapes(corners, shape_type="rectangle", features=pd.DataFrame({"object": [1, 2]}))
    (path,) = layer.save(str(tmp_path / "shapes.csv"))
    # napari leaves the features of shapes out of its table.
    assert read_boxes(path) == [BoxRow((3,), (10, 20, 30, 40)), BoxRow((4,), (1, 2, 5, 9))]
