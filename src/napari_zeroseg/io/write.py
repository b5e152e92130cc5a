"""Labels to files: in one go, or plane by plane so that a kill loses at most the plane in work."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from napari_zeroseg.errors import InputError, ReadError, WriteError
from napari_zeroseg.io.label_formats import LabelPlanes
from napari_zeroseg.io.targets import (
    Spacing,
    Units,
    check_plane,
    checked_shape,
    checked_target,
    explained,
    named_spacing,
    one_unit,
    remove,
    write_planes,
)


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
    """Collects planes of labels in a hidden folder beside `path`, and writes `path` at the end.

    As a context manager it writes `path` where the block ends well, and keeps the planes for the next time where it
    does not.

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
        self.folder = self.path.with_name(f".{self.path.name}.partial")
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        if self._dtype.kind not in "iu":
            raise InputError(f"Labels are stored as integers; got {self._dtype}.")
        self._spacing = named_spacing(spacing, len(self.shape))
        self._unit = one_unit(units)
        self._begin({"shape": list(self.shape), "run": run})

    @property
    def count(self) -> int:
        """Number of planes of the whole."""
        return 1 if len(self.shape) == 2 else self.shape[0]

    @property
    def done(self) -> set[int]:
        """Indices of the planes that are safely written."""
        if not self.folder.is_dir():
            return set()
        return {int(file.stem) for file in self.folder.glob("*.tif") if file.stem.isdecimal()}

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
        import tifffile

        file = self._file(index)
        array = np.asarray(plane)
        check_plane(array, self.shape)
        if int(array.max()) > np.iinfo(self._dtype).max:
            raise InputError(f"{self._dtype} holds labels up to {np.iinfo(self._dtype).max}; got {int(array.max())}.")
        temporary = file.with_name(f"{file.stem}.{uuid.uuid4().hex[:8]}.tmp")
        with explained(self.path):
            try:
                tifffile.imwrite(temporary, array.astype(np.int32), compression="zlib", metadata=None)
                temporary.replace(file)
            finally:
                remove(temporary)

    def read(self, index: int) -> NDArray[np.int32]:
        """Return one plane as it was kept, (H, W) int32; zeros where none was.

        Raises
        ------
        ReadError
            If the kept plane is damaged.
        """
        import tifffile

        file = self._file(index)
        if not file.exists():
            return np.zeros(self.shape[-2:], np.int32)
        try:
            plane = np.asarray(tifffile.imread(file), np.int32)
        except Exception as error:  # damaged files fail in as many ways as there are tags
            raise ReadError(f"{file} is damaged ({error}): delete it, so that its plane is done again.") from error
        return plane.reshape(self.shape[-2:])

    def close(self) -> Path:
        """Write the final file and forget the kept planes; planes that never came are background.

        Raises
        ------
        WriteError
            If it cannot be written; the planes stay.
        """
        largest = max((int(self.read(index).max()) for index in self.done), default=0)
        planes = LabelPlanes(self.shape, self.read, self._dtype, largest, self._spacing, self._unit)
        written = write_planes(self.path, planes)
        remove(self.folder)
        return written

    def discard(self) -> None:
        """Forget the kept planes; `path` stays as it is."""
        remove(self.folder)

    def __enter__(self) -> LabelsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _file(self, index: int) -> Path:
        if not 0 <= index < self.count:
            raise InputError(f"There is no plane {index}: planes are counted from 0 to {self.count - 1}.")
        return self.folder / f"{index:06d}.tif"

    def _begin(self, about: dict[str, Any]) -> None:
        """Take up the folder of an earlier run with the same description, or make one."""
        description = self.folder / "about.json"
        with explained(self.path):
            self.folder.mkdir(exist_ok=True)
            if not description.exists():
                temporary = self.folder / "about.tmp"
                temporary.write_text(json.dumps(about), encoding="utf-8")
                temporary.replace(description)
                return
            try:
                found = json.loads(description.read_text(encoding="utf-8"))
            except ValueError:
                found = None
        if found != about:
            raise WriteError(
                f"{self.folder} holds {len(self.done)} planes of an unfinished run with another picture or settings: "
                f"repeat that run to finish it, or delete the folder, or choose another name than {self.path.name}."
            )
