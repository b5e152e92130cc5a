"""Open a picture or stack of any kind, by what is in the file rather than by its name."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, ReadError, UnknownAxesError
from napari_zeroseg.io.axes import remember_axes, remembered_axes, with_axes
from napari_zeroseg.io.dicom import is_bare_dicom, read_dicom
from napari_zeroseg.io.ome_zarr import is_zarr, read_zarr
from napari_zeroseg.io.picture import Picture, lazy_planes, natural_order, said_axes
from napari_zeroseg.io.raster import read_npy, read_raster
from napari_zeroseg.io.tiff import read_tiff, read_tiff_stack

_log = logging.getLogger(__name__)

_READERS = {"TIFF": read_tiff, "PNG": read_raster, "JPEG": read_raster, "numpy": read_npy, "DICOM": read_dicom}
_STARTS = {
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\x93NUMPY": "numpy",
}
_ENDINGS = {
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".npy": "numpy",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
}
_STACKED = ("TIFF", "PNG", "JPEG")  # kinds whose files in a folder are planes of one stack
_EXPECTED = (
    "a TIFF (.tif, .tiff), a folder of TIFFs, OME-Zarr (.zarr), DICOM (.dcm), PNG (.png), JPEG (.jpg) or numpy array "
    "(.npy)"
)


def open_image(path: str | PathLike[str]) -> Picture:
    """Open a picture or stack.

    Parameters
    ----------
    path : path-like
        A TIFF, PNG, JPEG, numpy or DICOM file, a zarr folder, or a folder whose pictures are the planes of a stack,
        in natural order (plane2 before plane10).

    Returns
    -------
    Picture
        Its data are read lazily wherever the format allows it.

    Raises
    ------
    ReadError
        If it is missing, empty, truncated, damaged or of no kind that is read.
    InputError, InputTypeError
        If it was read but is no picture: unknown axes (which :func:`~napari_zeroseg.io.axes.remember_axes` can say),
        complex numbers, files of different shape.
    """
    path = Path(path).expanduser()
    axes = remembered_axes(path)
    try:
        with said_axes(axes):
            picture = _open(path)
    except UnknownAxesError as error:
        error.file = path
        raise
    return picture if axes is None else with_axes(picture, axes)


def open_as(path: str | PathLike[str], axes: str | None) -> Picture:
    """Open a picture with axes that the user has just named, and remember them if it can be; None forgets them.

    Raises
    ------
    ReadError, InputError, InputTypeError, WriteError
        As :func:`open_image`; what was remembered before stays.
    """
    path = Path(path)
    before = remembered_axes(path)
    remember_axes(path, axes)
    try:
        return open_image(path)
    except BaseException as error:
        if axes is not None:
            remember_axes(path, before)
        if isinstance(error, UnknownAxesError) and axes is not None:
            raise InputError(f"{axes} names {len(axes)} axes. {error}") from None
        raise


def _open(path: Path) -> Picture:
    try:
        if path.is_dir():
            return read_zarr(path) if is_zarr(path) else _open_folder(path)
        kind = _kind_or_reason(path)
        _log.debug("%s is read as %s", path, kind)
        return _READERS[kind](path)
    except PermissionError as error:
        raise ReadError(f"{path} may not be read: ask its owner for permission, or copy it.") from error


def open_images(paths: Sequence[str | PathLike[str]], name: str | None = None) -> Picture:
    """Open files as the planes of one stack, in the order given.

    A damaged file, such as an empty one or text with a picture's ending, is a plane that cannot be read: the others
    keep their numbers.

    Parameters
    ----------
    paths : sequence of path-like
        Files of one kind, shape and type.
    name : str, optional
        Name of the stack; left out, that of the first file.

    Raises
    ------
    ReadError
        If a file is missing or is none of a picture, or none of them can be read.
    InputError
        If there is none, or one has another kind, shape or type than the first.
    """
    files = [Path(path).expanduser() for path in paths]
    if not files:
        raise InputError("No files were given: name at least one picture.")
    if len(files) == 1:
        return open_image(files[0])
    faults: dict[int, str] = {}
    kinds = [_kind_or_fault(number, file, faults) for number, file in enumerate(files)]
    first = next((number for number in range(len(files)) if number not in faults), None)
    if first is None:
        raise ReadError(faults[0])
    for file, kind in zip(files, kinds, strict=True):
        if kind != kinds[first]:
            raise InputError(
                f"{file.name} is {kind} but {files[first].name} is {kinds[first]}: all files of a stack must be of one "
                "kind."
            )
    if kinds[first] == "TIFF":
        return read_tiff_stack(files, name or files[0].stem, faults)
    return _stack_of_singles(files, kinds[first], name or files[0].stem, faults)


def kind_of(path: str | PathLike[str]) -> str | None:
    """Name what a file or folder would be read as, or None if it would not be."""
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            if is_zarr(path):
                return "zarr"
            files = _files(path)
            if any(_kind(file) in _STACKED for file in files):
                return "folder"
            return "folder" if sum(_kind(file) is not None for file in files) == 1 else None
        return _kind(path) if path.is_file() else None
    except OSError:
        return None


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(132)
    if head[128:132] == b"DICM":  # first, as its preamble may be that of a TIFF at the same time
        return "DICOM"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    return "DICOM" if is_bare_dicom(path, head) else None


def _kind_or_reason(path: Path) -> str:
    """Name the kind of a file, or say why there is none."""
    if not path.exists():
        raise ReadError(f"There is no file or folder {path}: check its name and place.")
    if not path.is_file():
        raise ReadError(f"{path} is neither a file nor a folder: {_EXPECTED} was expected.")
    if path.stat().st_size == 0:
        raise ReadError(f"{path.name} is empty (0 bytes): copy or export it again.")
    kind = _kind(path)
    if kind is not None:
        return kind
    promised = _ENDINGS.get(path.suffix.lower())
    if promised:
        raise ReadError(
            f"{path.name} is not a {promised} picture, though its ending says so: export it again, or give it the "
            "ending of what it is."
        )
    raise ReadError(f"{path.name} is of no kind that is read: {_EXPECTED} was expected.")


def _kind_or_fault(number: int, path: Path, faults: dict[int, str]) -> str:
    """Name the kind of a file; of a damaged one that which its ending promises, with the reason in `faults`."""
    try:
        return _kind_or_reason(path)
    except ReadError as error:
        promised = _ENDINGS.get(path.suffix.lower())
        if promised is None or not path.is_file():
            raise
        _log.debug("Plane %d cannot be read: %s", number, error)
        faults[number] = str(error)
        return promised


def _files(folder: Path) -> list[Path]:
    return natural_order(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _open_folder(folder: Path) -> Picture:
    by_kind: dict[str, list[Path]] = {}
    whole: set[str] = set()
    for file in _files(folder):
        found = _kind(file)
        whole |= {found} if found else set()
        kind = found or _ENDINGS.get(file.suffix.lower())
        if kind:
            by_kind.setdefault(kind, []).append(file)
    for kind in sorted(_STACKED, key=lambda kind: kind not in whole):  # one of which nothing is whole comes last
        if kind in by_kind:
            ignored = sum(map(len, by_kind.values())) - len(by_kind[kind])
            if ignored:
                _log.info("%s: %d pictures that are not %s are left out.", folder.name, ignored, kind)
            _tell_gaps(by_kind[kind], folder)
            return open_images(by_kind[kind], folder.resolve().name)
    others = [file for files in by_kind.values() for file in files]
    if len(others) == 1:
        return open_image(others[0])
    if others:
        raise InputError(
            f"{folder.name} holds {len(others)} {' and '.join(by_kind)} files, and only TIFF, PNG and JPEG are joined "
            f"to a stack: open one of them, such as {others[0].name}."
        )
    raise ReadError(f"The folder {folder.name} holds no picture: {_EXPECTED} was expected.")


def _tell_gaps(files: Sequence[Path], folder: Path) -> None:
    """Say so if the files are numbered and numbers are missing: planes behind a gap are nearer than they should be."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", file.name) for file in files]
    if len(files) < 3 or None in parts or len({(part[1], part[3]) for part in parts if part}) > 1:
        return
    numbers = [int(part[2]) for part in parts if part]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    usual = Counter(steps).most_common(1)[0][0]
    gaps = [(before, before + step) for before, step in zip(numbers, steps, strict=False) if step > usual > 0]
    if gaps and len(gaps) < len(steps) / 2:
        where = ", ".join(f"{before} and {after}" for before, after in gaps[:3]) + (", ..." if len(gaps) > 3 else "")
        _log.warning(
            "%s: files seem to be missing between the numbers %s. The others are opened as neighbours; if planes are "
            "missing, put them back.",
            folder.name,
            where,
        )


def _stack_of_singles(files: list[Path], kind: str, name: str, faults: dict[int, str]) -> Picture:
    """Join files that hold one plane each; each is decoded when its plane is read."""
    read = _READERS[kind]
    model, first = _first_of(files, read, faults)
    shape, dtype = tuple(first.data.shape), np.dtype(first.data.dtype)

    def read_one(index: tuple[int, ...]) -> NDArray[Any]:
        file = files[index[0]]
        if not file.is_file():
            raise ReadError(f"{file.name} is no longer there: bring it back and try again.")
        if index[0] in faults:
            raise ReadError(faults[index[0]])
        plane: NDArray[Any] = np.asarray(read(file).data)
        if (plane.shape, plane.dtype) != (shape, dtype):
            raise InputError(
                f"{file.name} is {plane.shape} {plane.dtype} but {model.name} is {shape} {dtype}: all files of a "
                "stack must have one shape and type, so move the odd one out of the folder."
            )
        return plane

    free = next(axis for axis in "ZTCQ" if axis not in first.axes)
    data = lazy_planes(read_one, (len(files),), shape, dtype)
    return Picture(data, free + first.axes, first.spacing, first.units, name, first.rgb, first.metadata)


def _first_of(files: Sequence[Path], read: Callable[[Path], Picture], faults: dict[int, str]) -> tuple[Path, Picture]:
    """The first file that can be read, after whose shape and type the others go; why those before it cannot."""
    for number, file in enumerate(files):
        if number not in faults:
            try:
                return file, read(file)
            except ReadError as error:
                faults[number] = str(error)
    raise ReadError(faults[0])
