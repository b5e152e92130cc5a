"""Prompts from the files that napari itself saves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_zeroseg.io.read import open_image
from napari_zeroseg.metrics import iou

pytest.importorskip("napari")

import pandas as pd
from napari.components import ViewerModel
from npe2 import PluginManager


@pytest.fixture(scope="module", autouse=True)
def builtins():
    """Napari's own writers."""
    PluginManager.instance().discover()


@pytest.fixture
def viewer():
    return ViewerModel()


def save(layer, path):
    (written,) = layer.save(str(path))
    return written


def corners(box, *before):
    r0, c0, r1, c1 = box
    return np.array([[*before, r, c] for r, c in ((r0, c0), (r0, c1), (r1, c1), (r1, c0))])


def prompts_of(done):
    assert done.code == 0, done
    return json.loads(done.out)["settings"]["prompts"]


def test_points_of_a_stack_with_objects_and_signs(zeroseg, stack, viewer, tmp_path):
    above = stack.box(1, 0)[0] - 6
    places = [(0, *stack.centre(1, 0)), (0, above, stack.centre(1, 0)[1]), (1, *stack.centre(2, 1))]
    layer = viewer.add_points(
        places, features=pd.DataFrame({"sign": ["positive", "negative", "positive"], "object": [7, 7, 3]})
    )
    file = save(layer, tmp_path / "points.csv")
    found = prompts_of(zeroseg("segment", stack.path, "--points", file, "--json", "-o", tmp_path / "labels.tif"))
    assert [(prompt["label"], prompt["planes"], prompt["signs"]) for prompt in found] == [
        (7, [0], [True, False]),
        (3, [1], [True]),
    ]
    labels = np.asarray(open_image(tmp_path / "labels.tif").data)
    assert set(np.unique(labels[0])) == {0, 7}
    assert iou(labels[1] == 3, stack.truth[1] == 2) > 0.8
    assert not labels[2].any()


def test_points_of_a_plane_without_features(zeroseg, stack, plane, viewer, tmp_path):
    file = save(viewer.add_points([stack.centre(1, 1), stack.centre(2, 1)]), tmp_path / "points.csv")
    found = prompts_of(zeroseg("segment", plane, "--points", file, "--json", "-o", tmp_path / "labels.tif"))
    assert [prompt["label"] for prompt in found] == [1, 2]
    one = zeroseg("segment", plane, "--points", file, "--one-object", "--json", "-o", tmp_path / "one.tif")
    assert [len(prompt["points"]) for prompt in prompts_of(one)] == [2]


def test_boxes_of_a_stack(zeroseg, stack, viewer, tmp_path):
    layer = viewer.add_shapes([corners(stack.box(1, 2), 2), corners(stack.box(2, 0), 0)], shape_type="rectangle")
    file = save(layer, tmp_path / "shapes.csv")
    found = prompts_of(zeroseg("segment", stack.path, "--boxes", file, "--json", "-o", tmp_path / "labels.tif"))
    assert [(prompt["label"], prompt["planes"]) for prompt in found] == [(1, [0]), (2, [2])]
    labels = np.asarray(open_image(tmp_path / "labels.tif").data)
    assert iou(labels[2] == 2, stack.truth[2] == 1) > 0.8
    assert iou(labels[0] == 1, stack.truth[0] == 2) > 0.8


def test_boxes_of_a_plane_are_for_every_plane_of_a_stack(zeroseg, stack, viewer, tmp_path):
    file = save(viewer.add_shapes([corners(stack.box(1, 1))], shape_type="rectangle"), tmp_path / "shapes.csv")
    found = prompts_of(zeroseg("segment", stack.path, "--boxes", file, "--json", "-o", tmp_path / "labels.tif"))
    assert found == [{"label": 1, "box": [float(n) for n in stack.box(1, 1)], "planes": [0, 1, 2]}]


def test_points_and_boxes_together(zeroseg, stack, viewer, tmp_path):
    points = save(viewer.add_points([(1, *stack.centre(1, 1)), (2, *stack.centre(1, 2))]), tmp_path / "points.csv")
    boxes = save(viewer.add_shapes([corners(stack.box(2, 1), 1)], shape_type="rectangle"), tmp_path / "shapes.csv")
    out = tmp_path / "labels.tif"
    done = zeroseg("segment", stack.path, "--points", points, "--boxes", boxes, "--planes", "1", "--json", "-o", out)
    assert done.err == "zeroseg: 1 of 3 points and boxes lie on planes outside --planes: left out.\n"
    found = prompts_of(done)
    assert len(found) == 2
    assert all(prompt["planes"] == [1] for prompt in found)


def test_a_layer_without_prompts(zeroseg, stack, viewer, tmp_path):
    file = save(viewer.add_points(ndim=3), tmp_path / "points.csv")
    done = zeroseg("segment", stack.path, "--points", file, "-o", tmp_path / "labels.tif")
    assert "There is nothing to look for" in done.error()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["points.csv"]


def test_the_kind_of_layer_is_noticed(zeroseg, stack, viewer, tmp_path):
    points = save(viewer.add_points([(1, 5, 5)]), tmp_path / "points.csv")
    shapes = save(viewer.add_shapes([corners((1, 2, 30, 40), 1)], shape_type="ellipse"), tmp_path / "shapes.csv")
    out = tmp_path / "labels.tif"
    assert "has no column" in zeroseg("segment", stack.path, "--boxes", points, "-o", out).error()
    assert "give it as boxes" in zeroseg("segment", stack.path, "--points", shapes, "-o", out).error()
    assert "'rectangle' was expected" in zeroseg("segment", stack.path, "--boxes", shapes, "-o", out).error()
