"""Results of a run over a stack: a layer of their own, and edits of other labels that are one step of undo. No Qt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.history import EditRef, newest_edit
from napari_zeroseg._napari.stack_place import StackPlace
from napari_zeroseg._napari.stack_work import Change, PlaneDone, checksum
from napari_zeroseg.errors import InputError, WriteError

_FAULTS = (TypeError, NotImplementedError, ValueError, IndexError, OSError)
"""What arrays raise that are read-only, computed, or lie on a disk that is full or gone."""

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels


class Results:
    """A labels layer that a run fills plane by plane; a plane that the user has edited meanwhile stays as it is.

    Parameters
    ----------
    layer : Labels
    image : Image
        What it belongs to.
    place : StackPlace
        Its planes.
    kind : str
        What it holds: "propagated", "everything" or "words".
    """

    def __init__(self, layer: Labels, image: Image, place: StackPlace, kind: str) -> None:
        self.layer = layer
        self.image = image
        self.place = place
        self.kind = kind
        self.largest = 0
        self.rows: dict[int, Sequence[Mapping[str, Any]]] = {}
        self._sums: dict[int, int] = {}
        self._empty = checksum(np.zeros(place.shape, np.uint8))

    @classmethod
    def new(cls, viewer: ViewerModel, image: Image, place: StackPlace, kind: str, dtype: DTypeLike) -> Results:
        """Make the layer, above all that lies over the image; the active layer stays the active one.

        Raises
        ------
        WriteError
            If it is too large for the memory, and there is no room on disk.
        """
        layer = prompt_layers.new_labels(image, kind, dtype)
        active = viewer.layers.selection.active
        viewer.layers.insert(viewer.layers.index(image) + 1, layer)
        viewer.layers.selection.active = active
        return cls(layer, image, place, kind)

    @property
    def sums(self) -> dict[int, int]:
        """Checksums of the planes as they were written."""
        return dict(self._sums)

    def write(self, done: PlaneDone) -> bool:
        """Write a plane; False if it was edited since this layer or the work behind `done` saw it.

        Raises
        ------
        InputError, WriteError
            If the layer cannot hold these labels, or they cannot be written; the plane stays as it was.
        """
        if done.labels is None:
            return True
        before = self._read(done.plane)
        if checksum(before) not in (self._sums.get(done.plane, self._empty), done.seen):
            return False
        if done.labels.max(initial=0) > np.iinfo(self.layer.data.dtype).max:
            raise InputError(
                f"'{self.layer.name}' holds labels up to {np.iinfo(self.layer.data.dtype).max}: choose labels with a "
                "wider data type."
            )
        self._put(done.plane, done.labels, before)
        self._sums[done.plane] = checksum(done.labels)
        self.rows[done.plane] = done.rows
        self.largest = max(self.largest, int(done.labels.max(initial=0)))
        return True

    def _read(self, plane: int) -> NDArray[Any]:
        try:
            return np.array(self.place.read(self.layer.data, plane))
        except _FAULTS as error:
            raise WriteError(f"Plane {plane} of '{self.layer.name}' cannot be read ({error}): start anew.") from error

    def _put(self, plane: int, labels: NDArray[Any], before: NDArray[Any]) -> None:
        box = self.place.box(plane)
        try:
            self.layer.data[box] = self.place.turned(labels)
        except _FAULTS as error:
            # labels on disk are written in parts, of which some may have come; what is there is not the user's edit
            with suppress(*_FAULTS):
                self.layer.data[box] = self.place.turned(before)
            with suppress(*_FAULTS):
                self._sums[plane] = checksum(self.place.read(self.layer.data, plane))
            raise WriteError(
                f"Plane {plane} of '{self.layer.name}' could not be written ({error}): make room on the disk where it "
                "lies, then start again; what was written before stays."
            ) from error

    @property
    def table(self) -> list[Mapping[str, Any]]:
        """What was found, plane by plane."""
        return [row for plane in sorted(self.rows) for row in self.rows[plane]]

    def show_table(self) -> None:
        """Let napari tell of each object what the table has."""
        rows = self.table
        if rows:
            columns = {name: [row[name] for row in rows] for name in rows[0] if name != "label"}
            self.layer.features = {"index": [row["label"] for row in rows], **columns}


class OneEdit:
    """Changes of many planes of a labels layer, written one by one, that are one step of undo."""

    def __init__(self, layer: Labels) -> None:
        self.layer = layer
        self._done: list[Change] = []

    def put(self, change: Change) -> None:
        """Write one part.

        Raises
        ------
        InputError
            If the layer was edited there meanwhile, or cannot be edited.
        """
        try:
            if not np.array_equal(np.asarray(self.layer.data[change.box]), change.before):
                raise InputError(
                    f"'{self.layer.name}' was edited on plane {change.plane} meanwhile and is left as it is: try again."
                )
            self.layer.data[change.box] = change.after
        except _FAULTS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"'{self.layer.name}' cannot be edited, it may be read-only or computed: choose other labels ({error})."
            ) from error
        self._done.append(change)

    def commit(self) -> EditRef | None:
        """Let napari undo all of it in one step, to which what is returned refers."""
        # napari has no public name for an edit that is written already; its brush records its own in the same way.
        with self.layer.block_history():
            for change in self._done:
                self.layer._save_history((change.box, change.before, change.after))
        self.layer.refresh(extent=False)
        return newest_edit(self.layer) if self._done else None

    def revert(self) -> None:
        """Put everything back, as far as a disk that has become full lets it."""
        for change in reversed(self._done):
            with suppress(*_FAULTS):
                self.layer.data[change.box] = change.before
        self._done.clear()
        self.layer.refresh(extent=False)
