"""Numbering: which object new marks describe; a box whose object has one already, the next. No Qt."""

from __future__ import annotations

from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.layers import OBJECT, POSITIVE, SIGN, drawn_shapes
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg.errors import ZerosegError


def number_next(workspace: Workspace, number: int) -> None:
    """Let new marks describe that object, and the next point lie on it."""
    if workspace.points is not None:
        prompt_layers.set_next(workspace.points, **{OBJECT: number, SIGN: POSITIVE})
    if workspace.shapes is not None:
        prompt_layers.set_next(workspace.shapes, **{OBJECT: number})


def separate_boxes(workspace: Workspace, fresh: range) -> int | None:
    """Give new rectangles on the plane on the screen numbers of their own where theirs has a box already.

    Parameters
    ----------
    workspace : Workspace
    fresh : range
        Rows of the shapes that are new.

    Returns
    -------
    int or None
        The last number that was given; None if all could keep theirs.
    """
    shapes = workspace.shapes
    if shapes is None or OBJECT not in shapes.features:
        return None
    try:
        plane = workspace.plane()
    except ZerosegError:
        return None
    boxes = [d for d in drawn_shapes(shapes, plane, workspace.viewer.dims) if d.kind == "rectangle"]
    taken = {d.object_id for d in boxes if d.row not in fresh}
    highest, given = workspace.highest_object(), {}
    for box in (d for d in boxes if d.row in fresh):
        if box.object_id in taken:
            highest += 1
            given[box.row] = highest
        taken.add(given.get(box.row, box.object_id))
    if not given:
        return None
    features = shapes.features.copy()
    features.iloc[list(given), features.columns.get_loc(OBJECT)] = list(given.values())
    shapes.features = features
    return highest
