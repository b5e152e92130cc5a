"""The edit history of a Labels layer: which edit is the newest, and whether it is one of ours. No Qt.

napari tells nobody which edit an undo takes back, and offers no name for one, so its own lists are looked at.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Labels
    from numpy.typing import NDArray

EditRef = weakref.ref[Any]
"""Stands for one edit while napari remembers it; keeps nothing of it in memory."""


def newest_edit(layer: Labels) -> EditRef | None:
    """Refer to the edit that the next undo takes back; None if napari remembers none."""
    edits = getattr(layer, "_undo_history", ())
    return weakref.ref(_handle(edits[-1][0])) if edits else None


def can_be_redone(layer: Labels, edit: EditRef | None) -> bool:
    """Whether that edit was taken back and nothing was edited since."""
    return edit is not None and any(_holds(atoms, edit) for atoms in getattr(layer, "_redo_history", ()))


def is_same(one: EditRef | None, other: EditRef | None) -> bool:
    """Whether both refer to one edit that napari still remembers."""
    return one is not None and other is not None and one() is not None and one() is other()


def set_box(layer: Labels, box: tuple[int | slice, ...], mask: NDArray[np.bool_], label: int | NDArray[Any]) -> None:
    """Give the pixels of a box of the data a label, as one edit that napari can undo; the layer is not drawn anew.

    ``data_setitem`` takes and remembers a coordinate for each pixel and axis; a box costs its pixels only.

    Parameters
    ----------
    layer : Labels
        Whose data is an array that can be read and written by boxes: numpy's, or one on disk.
    box : tuple of int or slice
        A place along each axis, a slice along two.
    mask : (h, w) bool array
        Where in the box.
    label : int or (h, w) array
    """
    before = np.array(layer.data[box])
    after = before.copy()
    np.copyto(after, label, where=mask)
    layer.data[box] = after
    layer._save_history((box, before, after))


def _holds(atoms: Iterable[Any], edit: EditRef) -> bool:
    return edit() is not None and any(_handle(atom) is edit() for atom in atoms)


def _handle(atom: Any) -> Any:
    """What of an atom keeps its identity when it moves between the two lists, and can be referred to weakly."""
    # data_setitem records (indices, old, new), and tuples take no weak references, but arrays do.
    return atom if hasattr(atom, "new_value") else atom[1]
