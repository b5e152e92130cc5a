"""`zeroseg demo --gui`: the window is furnished with picture, dock and prompts, and the prompts are answered."""

import pytest

from napari_zeroseg import demo
from napari_zeroseg._napari.show import furnish


@pytest.mark.gui
def test_em_like_stack(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    sample = demo.em_like()
    furnish(viewer, sample)
    (dock,) = viewer.window.dock_widgets.values()
    session = dock.session
    points = session.workspace.points
    assert len(points.data) == sum(len(prompts) for prompts in sample.prompts.values())
    on_first_plane = len(sample.prompts[0])
    qtbot.waitUntil(lambda: session.asking.answer is not None, timeout=60_000)
    assert len(session.asking.answer.objects) == on_first_plane
    session.accept()
    labels = session.workspace.labels.data[viewer.dims.current_step[0]]
    assert len(set(labels[labels > 0])) == on_first_plane
