"""Labels to files: in one go, or plane by plane so that a kill loses at most the plane in work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.io.label_formats import LabelPlanes
from napari_zeroseg.io.label_zarr import ZarrLabels
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.plane_files import read_plane, write_plane
from napari_zeroseg.io.targets import (
    Spacing,
    Units,
    check_plane,
    checked_shape,
    checked_target,
    explained,
    move,
    named_spacing,
    one_unit,
    remove,
    write_planes,
)

_ABOUT = "about.json"
_IN_PLACE = "in_place"
_TIFF = ".tif"
_ZARR = ".done"


def write_labels(path: str | PathLike[str], labels: ArrayLike, spacing: Spacing = None, units: Units = None) -> Path:
    """Write a labels picture or stack, by the ending of `path`.

    Parameters
    ----------
    path : path-like
        Ends in .tif (for ImageJ and napari, zlib), .ome.zarr (version 0.5), .npy or .nii.gz.
    labels : (H, W) or (Z, H, W) array_like of int
        Object numbers, 0 is background. Stored as int32; in TIFF as uint16 where that holds them.
    spacing : sequence or mapping of float, optional
        Distance of neighbours along each axis, or by axis as in :attr:`Picture.spacing`.
    units : str or mapping of str, optional
        "micrometer" (the default) or "millimeter", or by axis as in :attr:`Picture.units`.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    WriteError
        If the ending is unknown, or the folder is missing, read-only or full. What was there before stays.
    InputError, InputTypeError
        If `labels` are not whole numbers from 0, or not a plane or stack.
    """
    array = np.asarray(labels)
    shape = checked_shape(array.shape)
    for plane in array.reshape(-1, *shape[-2:]):
        check_plane(plane, shape)
    planes = LabelPlanes(
        shape=shape,
        read=lambda index: array.reshape(-1, *shape[-2:])[index],
        dtype=np.dtype(np.int32),
        largest=int(array.max()),
        spacing=named_spacing(spacing, len(shape)),
        unit=one_unit(units),
    )
    return write_planes(checked_target(path), planes)


class LabelsWriter:
    """Keeps planes of labels as they come, so that a kill loses at most the plane in work, and makes `path` of them.

    An OME-Zarr grows at its place where there was nothing before, and can be opened meanwhile. Anything else, and
    what takes the place of an older result, grows in a hidden folder beside `path` and comes there at the end. The
    folder is the journal of both: which planes are done, and of which run they are.

    As a context manager it finishes `path` where the block ends well, and keeps the planes for the next time where it
    does not. Several processes may write planes at once, each with a copy (it can be pickled).

    Parameters
    ----------
    path : path-like
        Where the labels go in the end, with an ending of :func:`write_labels`.
    shape : sequence of int
        (H, W) or (Z, H, W).
    dtype : dtype
        Integer type of the final file; TIFF takes uint16 where that is enough.
    spacing, units
        As for :func:`write_labels`.
    run : str
        What the planes depend on, such as a hash of model and prompts: planes of another run are not mixed in.

    Raises
    ------
    WriteError
        If nothing could be written there, or planes of another run are waiting there.
    InputError
        If the shape is neither a plane nor a stack.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        shape: Sequence[int],
        dtype: DTypeLike = np.int32,
        spacing: Spacing = None,
        units: Units = None,
        run: str = "",
    ) -> None:
        self.shape = checked_shape(shape)
        self.path = checked_target(path)
        self.folder = journal_of(self.path)
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        if self._dtype.kind not in "iu":
            raise InputError(f"Labels are stored as integers; got {self._dtype}.")
        self._spacing = named_spacing(spacing, len(self.shape))
        self._unit = one_unit(units)
        self._growing: ZarrLabels | None = None
        self._begin({"shape": list(self.shape), "run": run})

    def __getstate__(self) -> dict[str, Any]:
        """Where everything lies, also for a process that stands in another folder."""
        growing = None if self._growing is None else ZarrLabels(self._growing.path.absolute())
        places = {"path": self.path.absolute(), "folder": self.folder.absolute(), "_growing": growing}
        return {**self.__dict__, **places}

    @property
    def count(self) -> int:
        """Number of planes of the whole."""
        return 1 if len(self.shape) == 2 else self.shape[0]

    @property
    def done(self) -> set[int]:
        """Indices of the planes that are safely written."""
        return planes_in(self.folder)

    def write(self, index: int, plane: ArrayLike) -> None:
        """Keep one plane, replacing what was kept for that index before.

        Parameters
        ----------
        index : int
            Plane from 0.
        plane : (H, W) array_like of int
            Labels, 0 is background.

        Raises
        ------
        InputError, InputTypeError
            If there is no such plane, or it is not (H, W) whole numbers from 0.
        WriteError
            If the disk is full or the folder is gone.
        """
        mark = self._mark(index)
        array = np.asarray(plane)
        check_plane(array, self.shape)
        if int(array.max()) > np.iinfo(self._dtype).max:
            raise InputError(f"{self._dtype} holds labels up to {np.iinfo(self._dtype).max}; got {int(array.max())}.")
        with explained(self.path):
            if self._growing is None:
                write_plane(mark, array)
            else:
                mark.unlink(missing_ok=True)  # until the plane is whole again
                self._growing.write(index, array)
                mark.touch()

    def read(self, index: int) -> NDArray[np.int32]:
        """Return one plane as it was kept, (H, W) int32; zeros where none was.

        Raises
        ------
        ReadError
            If the kept plane is damaged.
        """
        mark = self._mark(index)
        if not mark.exists():
            return np.zeros(self.shape[-2:], np.int32)
        plane = read_plane(mark) if self._growing is None else self._growing.read(index)
        return np.asarray(plane, np.int32).reshape(self.shape[-2:])

    def close(self) -> Path:
        """Finish `path` and forget the journal; planes that never came are background.

        Raises
        ------
        WriteError
            If it cannot be written; the planes stay.
        """
        if self._growing is None:
            largest = max((int(self.read(index).max()) for index in self.done), default=0)
            planes = LabelPlanes(self.shape, self.read, self._dtype, largest, self._spacing, self._unit)
            write_planes(self.path, planes)
        else:
            with explained(self.path):
                self._growing.finish()
                if self._growing.path != self.path:
                    move(self._growing.path, self.path)
        remove(self.folder)
        return self.path

    def discard(self) -> None:
        """Forget the kept planes; `path` stays as it was before."""
        discard(self.path)

    def __enter__(self) -> LabelsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _mark(self, index: int) -> Path:
        """What is there once the plane is."""
        if not 0 <= index < self.count:
            raise InputError(f"There is no plane {index}: planes are counted from 0 to {self.count - 1}.")
        return self.folder / f"{index:06d}{_TIFF if self._growing is None else _ZARR}"

    def _begin(self, about: dict[str, Any]) -> None:
        """Take up the folder of an earlier run with the same description, or make one."""
        is_zarr = self.path.name.lower().endswith(".zarr")
        with explained(self.path):
            if is_zarr and _about(self.folder).get(_IN_PLACE) and not self.path.exists():
                remove(self.folder)  # the user has deleted what was done
            if not (self.folder / _ABOUT).exists():
                remove(self.folder)  # what is left of one whose end was broken off
                self.folder.mkdir()
                in_place = is_zarr and not self.path.exists()
                temporary = self.folder / "about.tmp"
                temporary.write_text(json.dumps({**about, _IN_PLACE: in_place}), encoding="utf-8")
                temporary.replace(self.folder / _ABOUT)
        found = _about(self.folder)
        in_place = found.pop(_IN_PLACE, False)
        if found != about:
            raise WriteError(
                f"{self.folder} holds {len(self.done)} planes of an unfinished run with another picture or settings: "
                f"repeat that run to finish it, or delete the folder, or choose another name than {self.path.name}."
            )
        if is_zarr:
            self._growing = ZarrLabels(self.path if in_place else self.folder / "labels.ome.zarr")
            if not self.done:
                with explained(self.path):
                    self._growing.create(self.shape, self._dtype, self._spacing, self._unit)


def taken_up(path: Path, shape: Sequence[int], picture: Picture, run: str, overwrite: bool) -> LabelsWriter:
    """Return a writer that goes on with what the same run has left.

    Planes of another run that wait there go if `overwrite` says so, or if there are none yet.

    Parameters
    ----------
    path, shape, run
        As for :class:`LabelsWriter`.
    picture : Picture
        What the labels belong to: they have its spacing and units.
    overwrite : bool

    Raises
    ------
    WriteError
        If nothing can be written there, or planes of another run stay.
    """
    try:
        return LabelsWriter(path, shape, spacing=picture.spacing, units=picture.units, run=run)
    except WriteError:
        waiting = journal_of(path)
        if not waiting.is_dir() or (planes_in(waiting) and not overwrite):
            raise
        discard(path)
    return LabelsWriter(path, shape, spacing=picture.spacing, units=picture.units, run=run)


def journal_of(path: Path) -> Path:
    """Return the hidden folder in which an unfinished run on `path` notes what is done."""
    return path.with_name(f".{path.name}.partial")


def planes_in(journal: Path) -> set[int]:
    """Return the indices of the planes that are done in the folder of an unfinished run."""
    if not journal.is_dir():
        return set()
    return {int(mark.stem) for mark in journal.iterdir() if mark.suffix in (_TIFF, _ZARR) and mark.stem.isdecimal()}


def is_growing(path: Path) -> bool:
    """Whether what is at `path` is the unfinished result of a run that can be taken up."""
    return path.exists() and bool(_about(journal_of(path)).get(_IN_PLACE))


def discard(path: Path) -> None:
    """Forget an unfinished run on `path`; a result that was there before it stays."""
    if is_growing(path):
        remove(path)
    remove(journal_of(path))


def _about(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
