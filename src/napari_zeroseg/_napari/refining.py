"""Picking a label up again: which pixels of it are meant, and the marks that made it. No Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import flood

from napari_zeroseg._napari.layers import ShownPlane
from napari_zeroseg._napari.ledger import Ledger
from napari_zeroseg._napari.marks import Picked
from napari_zeroseg._napari.output import moved
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg.errors import InputError

if TYPE_CHECKING:
    from napari_zeroseg._napari.output import Output

Pixel = tuple[int, int]


def pick_up(workspace: Workspace, ledger: Ledger, plane: ShownPlane, *, one_piece: bool) -> tuple[Picked, list[int]]:
    """Find the output's selected label on a plane and put the marks back that made it.

    Parameters
    ----------
    workspace : Workspace
    ledger : Ledger
    plane : ShownPlane
        Of the image.
    one_piece : bool
        Take one connected piece of it: a class has many objects, and the others must stay. It is the piece that was
        clicked on in the labels layer, else the one below the newest point, else the one accepted last, else the one
        nearest to the middle of the view.

    Returns
    -------
    Picked
    list of int
        Numbers of the objects whose marks came back.

    Raises
    ------
    InputError
        If there is no output, or the label is not on the plane.
    """
    output, dims = workspace.output, workspace.viewer.dims
    if output is None:
        raise InputError("There are no labels to refine: accept an object first, or choose a Labels layer.")
    own, label = output.plane(dims), int(output.layer.selected_label)
    mask = output.mask_of(label, own) if label else np.zeros(own.shape, bool)
    if not mask.any():
        raise InputError(
            f"Label {label} is not on this plane: pick one with the picker of '{output.layer.name}' first."
        )
    if one_piece:
        mask = _piece(mask, _meant(mask, workspace, ledger, output, own, plane, label))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    r, c = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    patch = (r, c, mask[r, c].copy())
    picked = Picked(label, moved(patch, own.pixel_map(plane), plane.shape), patch)

    def made_this(witness: tuple[int, ...]) -> bool:
        return not one_piece or bool(mask[witness[own.axes[0]], witness[own.axes[1]]])

    return picked, ledger.recall(label, plane, made_this)


def _meant(
    mask: NDArray[np.bool_],
    workspace: Workspace,
    ledger: Ledger,
    output: Output,
    own: ShownPlane,
    plane: ShownPlane,
    label: int,
) -> Pixel:
    """A pixel of the piece that the user means."""
    pressed = None if output.pressed is None else own.locate(output.pressed)
    to_own = plane.pixel_map(own)
    marked = [d.vertices[-1] for d in reversed(workspace.drawn(plane)) if d.kind == "point" and d.positive]
    pixels = [_pixel(to_own @ (*vertex, 1.0)) for vertex in marked]
    made = [(w[own.axes[0]], w[own.axes[1]]) for w in ledger.witnesses(label, plane)]
    candidates: list[Pixel] = [*([] if pressed is None else [pressed]), *pixels, *made]
    for row, column in candidates:
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]:
            return row, column
    centre = to_own @ (*workspace.centre(plane), 1.0)
    there = np.argwhere(mask)
    return _pixel(there[np.argmin(((there - centre) ** 2).sum(1))])


def _pixel(position: NDArray[Any]) -> Pixel:
    row, column = np.floor(position + 0.5).astype(int)
    return int(row), int(column)


def _piece(mask: NDArray[np.bool_], seed: Pixel) -> NDArray[np.bool_]:
    """Everything of a mask that hangs together with one pixel of it, also over corners."""
    return np.asarray(flood(mask.astype(np.uint8), seed))
