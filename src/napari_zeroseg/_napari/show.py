"""`zeroseg demo --gui`: napari with a sample, the Segment dock and the sample's prompts in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_zeroseg.errors import InputError
from napari_zeroseg.prompts import Prompt

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_zeroseg.demo import Sample


def show(sample: Sample) -> None:
    """Open a window and return when it is closed.

    Raises
    ------
    InputError
        If there is no Qt binding or no display.
    """
    try:
        import napari
        from napari.viewer import Viewer
    except ImportError as error:
        raise InputError(
            f"napari cannot open a window ({error}): run `pip install napari-zeroseg[all]`, or leave --gui out."
        ) from error
    furnish(Viewer(title="ZeroSeg demo"), sample)
    napari.run()


def furnish(viewer: Viewer, sample: Sample) -> None:
    """Add a sample's picture, the Segment dock and the sample's prompts, each an object of its own."""
    if sample.source is not None:
        viewer.open(str(sample.source), plugin="napari-zeroseg")
    else:
        viewer.add_image(sample.planes.data, name=sample.name, colormap="gray", contrast_limits=(0, 255))
    _, dock = viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment")
    session = dock.session
    session.set_options(batched=True)
    prompts = sample.prompts if isinstance(sample.prompts, dict) else {0: sample.prompts}
    places, boxes = [], []
    for number, several in prompts.items():
        index = sample.planes.index(number) if sample.planes.index_shape else ()
        for prompt in several:
            assert isinstance(prompt, Prompt)
            places += [(*index, *point) for point in prompt.points]
            if prompt.box is not None:
                r0, c0, r1, c1 = prompt.box
                boxes.append(np.array([(*index, r, c) for r, c in ((r0, c0), (r0, c1), (r1, c1), (r1, c0))]))
    session.begin("box" if boxes else "points")
    if boxes:
        session.workspace.make_shapes().add_rectangles(boxes)
    if places:
        points = session.workspace.make_points()
        points.add(np.array(places))
        points.selected_data = set()
    if sample.planes.index_shape:
        viewer.dims.current_step = (*sample.planes.index(next(iter(prompts))), *viewer.dims.current_step[-2:])
