"""Labels that are too large for the memory: on disk, written as they are drawn, edited and undone like others."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from napari.utils.notifications import notification_manager

from napari_zeroseg import open_image
from napari_zeroseg._napari import prompt_layers


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
