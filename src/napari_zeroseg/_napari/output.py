"""The output: masks written into a Labels layer by its own undoable edit. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg._napari.history import EditRef, can_be_redone, set_box
from napari_zeroseg._napari.layers import ShownPlane, shown_plane
from napari_zeroseg.errors import InputError
from napari_zeroseg.instances import OverlapPolicy, changes, erasure
from napari_zeroseg.segmenter import Patch

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Labels

_ATOM_BYTES = 26
"""Bytes of napari's history for each pixel of an edit that is not recorded as a box, in a stack."""

_MANY = 100_000
"""Pixels from which an edit is recorded as a box: data_setitem takes 0.1 us and 26 bytes for each, and a box less."""


@dataclass(frozen=True, eq=False)
class Written:
    """One object that was written: its label, how many pixels changed, and one that holds it (None: there is none)."""

    label: int
    pixels: int
    witness: tuple[int, ...] | None


class Target(NamedTuple):
    """Where masks of a plane go in the output.

    Attributes
    ----------
    plane : ShownPlane
        The layer's own plane on the screen.
    pixel_map : (2, 3) array
        Takes (row, column, 1) of the plane that the masks were made on to its pixels.
    """

    plane: ShownPlane
    pixel_map: NDArray[np.floating[Any]]


class Output:
    """One Labels layer and the next free id in it.

    Parameters
    ----------
    layer : Labels
    largest : int, optional
        The largest label in it, where that is known; else :attr:`largest` must be set before new ids are given.
    replaced : callable
        Called when the layer got other data, so that the largest label is unknown again.
    """

    def __init__(self, layer: Labels, largest: int | None, replaced: Callable[[], None]) -> None:
        self.layer = layer
        self.largest = largest
        self.pressed: tuple[float, ...] | None = None
        """World position where the layer was last clicked on, with the picker or any other tool."""
        self._replaced = replaced
        self._is_stale = False
        self._held: _Held | None = None
        self._freed: tuple[int, EditRef | None] | None = None
        layer.mouse_drag_callbacks.append(self._on_press)
        layer.events.paint.connect(self._on_paint)
        layer.events.data.connect(self._on_data)

    def close(self) -> None:
        """Stop following the layer."""
        self.layer.events.paint.disconnect(self._on_paint)
        self.layer.events.data.disconnect(self._on_data)
        if self._on_press in self.layer.mouse_drag_callbacks:
            self.layer.mouse_drag_callbacks.remove(self._on_press)

    def next_id(self) -> int:
        """Return an id above all that are or were in the layer since it is watched, but for what was taken back."""
        largest = self._largest_there()
        if largest is None:
            raise InputError(f"The labels of '{self.layer.name}' are still being counted: try again in a moment.")
        return largest + 1

    def free(self, largest: int | None, edit: EditRef | None) -> None:
        """Take note that `edit` was taken back, before which `largest` was the largest label."""
        self._freed = None if largest is None else (largest, edit)

    def _largest_there(self) -> int | None:
        # As long as napari can redo the edit and nothing else was edited, the ids that it used are free.
        if self._freed is not None and self.largest is not None and can_be_redone(self.layer, self._freed[1]):
            return min(self._freed[0], self.largest)
        return self.largest

    def check_fits(self, label: int) -> None:
        """Raise if the layer cannot hold this label.

        Raises
        ------
        InputError
        """
        most = np.iinfo(self.layer.data.dtype).max
        if not 0 < label <= most:
            raise InputError(
                f"'{self.layer.name}' holds labels from 1 to {most} and this would be {label}: "
                "choose an output layer with a wider data type."
            )

    def plane(self, dims: Dims) -> ShownPlane:
        """Return the layer's plane on the screen.

        Raises
        ------
        InputError
            If there is none, or the layer cannot be edited.
        """
        if self.layer.multiscale:
            raise InputError(f"'{self.layer.name}' has several scales and cannot be edited: choose another output.")
        return shown_plane(self.layer, dims)

    def target(self, seen_from: ShownPlane, dims: Dims) -> Target:
        """Return where masks of the plane `seen_from` go; errors are those of :meth:`plane`."""
        own = self.plane(dims)
        return Target(own, seen_from.pixel_map(own))

    def reader_of(self, own: ShownPlane) -> Callable[[], NDArray[Any]]:
        """Return what reads all labels of the layer's plane `own`, (H, W), in whichever thread it is called."""
        data, box = self.layer.data, _box(own, slice(None), slice(None))

        def read() -> NDArray[Any]:
            plane = np.array(data[box])
            return plane if own.axes[0] < own.axes[1] else plane.T

        return read

    def mask_of(self, label: int, own: ShownPlane) -> NDArray[np.bool_]:
        """Where a label is on the layer's plane `own`, (H, W) bool."""
        return np.asarray(self._read(own, slice(None), slice(None)) == label)

    def write(
        self,
        patch: Patch,
        label: int,
        policy: OverlapPolicy,
        target: Target,
        *,
        earlier: Patch | None = None,
        is_one_of_many: bool = False,
    ) -> Written:
        """Write one object as an edit of the layer; several inside ``block_history`` are one undo step.

        Afterwards :meth:`show` is due, once for all of them.

        Parameters
        ----------
        patch : Patch
            In pixels of the plane that it was made on; brought to the layer's own pixels where those differ.
        label : int
        policy : OverlapPolicy
        target : Target
        earlier : Patch, optional
            What the object was before, in the layer's own pixels; goes away first, unless only empty pixels may change.
        is_one_of_many : bool
            Leave all drawing to :meth:`show`: one large refresh is quicker than many small ones.

        Raises
        ------
        InputError
            If the layer cannot be edited or cannot hold the label.
        """
        self.check_fits(label)
        own = target.plane
        patch = moved(patch, target.pixel_map, own.shape)
        count, largest = 0, self._largest_there()
        if earlier is not None and policy is not OverlapPolicy.EMPTY:
            count += self._erase(own, earlier, patch, label)
        window = self._read(own, patch[0], patch[1])
        local: Patch = (slice(0, window.shape[0]), slice(0, window.shape[1]), patch[2])
        changed = changes(window, local, label, policy)
        count += self._set(own, patch[0].start, patch[1].start, changed, label, draw=not is_one_of_many)
        if count and largest is not None:
            self.largest = max(largest, label)
        return Written(label, count, self._witness(own, patch, label))

    @contextmanager
    def together(self, patches: Iterable[Patch], earlier: Iterable[Patch], target: Target) -> Iterator[None]:
        """Write several objects inside, of labels on disk by one reading and one writing of the data in all.

        Without it each object takes a few milliseconds to find and rewrite the files that it lies in.

        Parameters
        ----------
        patches, earlier : iterable of Patch
            All that :meth:`write` will get.
        target : Target

        Raises
        ------
        InputError
            If the layer cannot be edited; then nothing has been written.
        """
        own = target.plane
        if isinstance(self.layer.data, np.ndarray):
            yield
            return
        places = [*(moved(patch, target.pixel_map, own.shape) for patch in patches), *earlier]
        rows, columns = _span(place[0] for place in places), _span(place[1] for place in places)
        before = np.array(self._read(own, rows, columns))
        held = _Held(rows.start, columns.start, before.copy())
        self._held = held
        try:
            yield
        finally:
            self._held = None
        self._set_all(own, held, before)

    def _set_all(self, own: ShownPlane, held: _Held, before: NDArray[Any]) -> None:
        """Write what has changed since `before`, recorded as pixels or as a box, whichever takes less memory."""
        mask, r0, c0 = held.labels != before, held.row, held.column
        count = int(np.count_nonzero(mask))
        if not count:
            return
        self._is_stale = True
        with self._explained():
            if _ATOM_BYTES * count < 2 * before.nbytes:
                rows, columns = np.nonzero(mask)
                self.layer.data_setitem(
                    _pixels(own, rows + r0, columns + c0), held.labels[rows, columns], refresh=False
                )
            else:
                box = _box(own, slice(r0, r0 + mask.shape[0]), slice(c0, c0 + mask.shape[1]))
                upright = own.axes[0] < own.axes[1]
                set_box(self.layer, box, mask if upright else mask.T, held.labels if upright else held.labels.T)

    def show(self) -> None:
        """Draw the layer anew where writing has not."""
        if self._is_stale:
            self._is_stale = False
            self.layer.refresh(extent=False)

    def _erase(self, own: ShownPlane, earlier: Patch, patch: Patch, label: int) -> int:
        """Empty what `earlier` has of the label outside `patch`."""
        window = np.where(earlier[2], self._read(own, earlier[0], earlier[1]), 0)
        r0, c0 = earlier[0].start, earlier[1].start
        kept = _cut(patch[2], patch[0].start - r0, patch[1].start - c0, (window.shape[0], window.shape[1]))
        return self._set(own, r0, c0, erasure(window, kept, label), 0)

    def _witness(self, own: ShownPlane, patch: Patch, label: int) -> tuple[int, ...] | None:
        there = patch[2] & (self._read(own, patch[0], patch[1]) == label)
        rows = np.flatnonzero(there.any(1))
        if not len(rows):
            return None
        row = rows[len(rows) // 2]
        columns = np.flatnonzero(there[row])
        place = own.corner(row + patch[0].start, columns[len(columns) // 2] + patch[1].start)
        return tuple(int(i) for i in place)

    def _read(self, own: ShownPlane, rows: slice, columns: slice) -> NDArray[Any]:
        if self._held is not None:
            return self._held.window(rows, columns)
        plane = np.asarray(self.layer.data[_box(own, rows, columns)])
        return plane if own.axes[0] < own.axes[1] else plane.T

    def _set(
        self, own: ShownPlane, row: int, column: int, mask: NDArray[np.bool_], label: int, draw: bool = True
    ) -> int:
        """Give the pixels of `mask`, whose first one is at (row, column), a label; how many they are."""
        count = int(np.count_nonzero(mask))
        if not count:
            return 0
        if self._held is not None:
            window = self._held.window(slice(row, row + mask.shape[0]), slice(column, column + mask.shape[1]))
            window[mask] = label
            return count
        with self._explained():
            if count > _MANY or not isinstance(self.layer.data, np.ndarray):
                box = _box(own, slice(row, row + mask.shape[0]), slice(column, column + mask.shape[1]))
                self._is_stale = True
                set_box(self.layer, box, mask if own.axes[0] < own.axes[1] else mask.T, label)
            else:
                rows, columns = np.nonzero(mask)
                self._is_stale |= not draw
                self.layer.data_setitem(_pixels(own, rows + row, columns + column), label, refresh=draw)
        return count

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what is wrong with a layer that does not let itself be written."""
        try:
            yield
        except (TypeError, NotImplementedError, ValueError, IndexError, OSError) as error:
            raise InputError(
                f"'{self.layer.name}' cannot be edited, it may be read-only or computed: choose or add another "
                f"Labels layer as output ({error})."
            ) from error

    def _on_paint(self, event: Any) -> None:
        """Follow what the user paints, so that an id is never given twice."""
        if self.largest is not None:
            self.largest = max([self.largest, *(largest_painted(atom) for atom in event.value)])

    def _on_press(self, _: Labels, event: Any) -> None:
        self.pressed = tuple(float(x) for x in event.position)

    def _on_data(self) -> None:
        self.largest = None
        self._replaced()


@dataclass(frozen=True, eq=False)
class _Held:
    """Labels (h, w) of a part of the plane from (row, column) on, in memory until all objects are written there."""

    row: int
    column: int
    labels: NDArray[Any]

    def window(self, rows: slice, columns: slice) -> NDArray[Any]:
        """The labels themselves at a place of the plane, to be read or changed."""
        return self.labels[
            rows.start - self.row : rows.stop - self.row, columns.start - self.column : columns.stop - self.column
        ]


def _span(places: Iterable[slice]) -> slice:
    """From the first to the last pixel of all that are not empty."""
    filled = [place for place in places if place.stop > place.start]
    return slice(min((p.start for p in filled), default=0), max((p.stop for p in filled), default=0))


def _pixels(own: ShownPlane, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[NDArray[np.intp], ...]:
    indices = [np.full(len(rows), i, np.intp) for i in own.index]
    indices[own.axes[0]], indices[own.axes[1]] = rows, columns
    return tuple(indices)


def _box(own: ShownPlane, rows: slice, columns: slice) -> tuple[int | slice, ...]:
    selection: list[int | slice] = list(own.index)
    selection[own.axes[0]], selection[own.axes[1]] = rows, columns
    return tuple(selection)


def largest_painted(atom: Any) -> int:
    """Return the largest label that one step of napari's edit history wrote."""
    # Newer versions of napari record brush strokes in a form of their own; data_setitem's is (indices, old, new).
    new = atom.new_value if hasattr(atom, "new_value") else atom[2]
    return int(np.max(new, initial=0))


def moved(patch: Patch, pixel_map: NDArray[np.floating[Any]], shape: tuple[int, int]) -> Patch:
    """Bring a patch to the pixels of another plane of `shape` (H, W), nearest neighbour; cut at its borders.

    Parameters
    ----------
    pixel_map : (2, 3) array
        Takes (row, column, 1) of the patch's plane to the other's.
    """
    rows, columns, mask = patch
    offset = np.rint(pixel_map[:, 2])
    if np.allclose(pixel_map[:, :2], np.eye(2), atol=1e-6) and np.allclose(pixel_map[:, 2], offset, atol=1e-3):
        return _cut(mask, rows.start + int(offset[0]), columns.start + int(offset[1]), shape)
    corners = np.array(
        [[r, c, 1] for r in (rows.start - 0.5, rows.stop - 0.5) for c in (columns.start - 0.5, columns.stop - 0.5)]
    )
    reach = corners @ pixel_map.T
    first = np.maximum(np.floor(reach.min(0)), 0).astype(int)
    last = np.minimum(np.ceil(reach.max(0)), np.array(shape) - 1).astype(int)
    if (last < first).any():
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
    back = np.linalg.inv(pixel_map[:, :2])
    r, c = np.mgrid[first[0] : last[0] + 1, first[1] : last[1] + 1]
    grid = np.stack([r, c], axis=-1)
    source = np.floor((grid - pixel_map[:, 2]) @ back.T + 0.5).astype(int) - (rows.start, columns.start)
    inside = ((source >= 0) & (source < mask.shape)).all(-1)
    found = np.zeros(inside.shape, bool)
    found[inside] = mask[source[inside][:, 0], source[inside][:, 1]]
    return slice(int(first[0]), int(last[0]) + 1), slice(int(first[1]), int(last[1]) + 1), found


def _cut(mask: NDArray[np.bool_], row: int, column: int, shape: tuple[int, int]) -> Patch:
    r0, c0 = max(row, 0), max(column, 0)
    r1, c1 = max(r0, min(row + mask.shape[0], shape[0])), max(c0, min(column + mask.shape[1], shape[1]))
    return slice(r0, r1), slice(c0, c1), mask[r0 - row : r1 - row, c0 - column : c1 - column]
