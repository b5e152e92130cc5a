"""Labels that are too large for the memory: on disk, written as they are drawn, edited and undone like others."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.notifications import notification_manager

from napari_zeroseg import open_image
from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.output import Output
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.io.label_zarr import editable_labels


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Nothing fits into the memory."""
    monkeypatch.setenv("ZEROSEG_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(prompt_layers, "in_memory", lambda: 0)
    return tmp_path / "labels"


def test_accept_undo_and_open_again(desk, large, squares):
    said = []
    notification_manager.notification_ready.connect(said.append)
    desk.open(squares, name="em stack", scale=(3000, 500, 500), units="nm")
    notification_manager.notification_ready.disconnect(said.append)
    desk.click(1, 15, 15)
    desk.session.accept()
    desk.settle()
    labels = desk.workspace.labels
    assert isinstance(labels.data, zarr.Array)
    (file,) = large.iterdir()
    assert file.name.startswith("em_stack-labels-")
    assert str(file) in said[-1].message
    expected = np.zeros(squares.shape, int)
    expected[1, 8:24, 8:24] = 1
    # what is drawn is there already, for other programs and after a crash
    opened = open_image(file)
    np.testing.assert_array_equal(opened.data[:], expected)
    assert opened.spacing == pytest.approx({"Z": 3, "Y": 0.5, "X": 0.5})
    desk.session.undo()
    desk.settle()
    assert not np.asarray(labels.data).any()
    desk.session.accept()
    desk.settle()
    np.testing.assert_array_equal(np.asarray(labels.data), expected)
    labels.data_setitem((np.array([0, 0]), np.array([1, 2]), np.array([3, 4])), 9)
    labels.undo()
    np.testing.assert_array_equal(np.asarray(labels.data), expected)


def test_each_gets_a_file_of_its_own(large, desk, squares):
    image = desk.viewer.add_image(squares, name="a/b: c")
    first, second = (prompt_layers.new_labels(image) for _ in range(2))
    first.data[0, :4] = 1
    assert not np.asarray(second.data).any()
    assert len(list(large.iterdir())) == 2


def test_no_room(large, desk, squares):
    large.parent.joinpath("labels").write_text("a file in its place")
    desk.open(squares)
    desk.click(1, 15, 15)
    desk.session.accept()
    desk.settle()
    assert "Labels could not be made" in desk.session.status.text
    assert desk.workspace.points is not None
    assert len(desk.workspace.points.data) == 1


@pytest.mark.parametrize("policy", list(OverlapPolicy))
@pytest.mark.parametrize(("side", "spread"), [(6, 180), (70, 20)], ids=["recorded as pixels", "recorded as a box"])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)], ids=["upright", "transposed"])
def test_many_at_once_are_those_that_are_written_singly(tmp_path, policy, side, spread, order):
    rng = np.random.default_rng(3)
    start = np.kron(rng.integers(0, 3, (3, 20, 20)), np.ones((1, 10, 10))).astype(np.uint16)
    corners = rng.integers(0, spread, (9, 2)) - 3  # the first ones stick out of the plane
    patches = [(slice(r, r + side), slice(c, c + side), rng.random((side, side)) < 0.9) for r, c in corners]
    earlier = (slice(100, 130), slice(90, 120), np.ones((30, 30), bool))
    singly, together = (
        Labels(start.copy()),
        Labels(editable_labels(tmp_path / "a", start.shape, start.dtype, (1, 1, 1))),
    )
    together.data[...] = start
    expected = None
    for layer in (singly, together):
        viewer = ViewerModel()
        viewer.add_layer(layer)
        viewer.dims.order = order
        viewer.dims.set_point(0, 1)
        output = Output(layer, 2, lambda: None)
        target = output.target(output.plane(viewer.dims), viewer.dims)
        with layer.block_history(), output.together(patches, [earlier], target):
            written = [
                output.write(patch, n, policy, target, earlier=earlier if n == 2 else None, is_one_of_many=True)
                for n, patch in enumerate(patches, 2)
            ]
        result = [(one.label, one.pixels, one.witness) for one in written], np.asarray(layer.data).copy()
        expected = expected or result
        assert result[0] == expected[0]
        np.testing.assert_array_equal(result[1], expected[1])
        assert (result[1] != start).any()
        assert output.largest == expected[1].max()
        layer.undo()
        np.testing.assert_array_equal(np.asarray(layer.data), start)
        layer.redo()
        np.testing.assert_array_equal(np.asarray(layer.data), expected[1])


def test_what_fails_among_many_leaves_nothing_written(tmp_path):
    layer = Labels(editable_labels(tmp_path / "a", (64, 64), np.dtype(np.uint8), (1, 1)))
    viewer = ViewerModel()
    viewer.add_layer(layer)
    output = Output(layer, 0, lambda: None)
    target = output.target(output.plane(viewer.dims), viewer.dims)
    patch = (slice(3, 9), slice(4, 9), np.ones((6, 5), bool))

    def write_both():
        with output.together([patch], [], target):
            output.write(patch, 255, OverlapPolicy.KEEP, target)
            output.write(patch, 256, OverlapPolicy.KEEP, target)

    with pytest.raises(InputError, match="wider data type"):
        write_both()
    assert not np.asarray(layer.data).any()
    output.write(patch, 7, OverlapPolicy.KEEP, target)
    assert np.count_nonzero(np.asarray(layer.data) == 7) == 30
