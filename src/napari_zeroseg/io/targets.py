"""Write so that what was there stays until the new file is whole, and say in a sentence why it could not be."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, InputTypeError, WriteError, ZerosegError
from napari_zeroseg.io.label_formats import LabelPlanes, label_format
from napari_zeroseg.io.ome_zarr import is_zarr
from napari_zeroseg.io.picture import MICROMETRE, positive

Spacing = Sequence[float] | Mapping[str, float] | None
Units = str | Mapping[str, str] | None


def write_planes(path: Path, planes: LabelPlanes) -> Path:
    """Write `planes` to a temporary name beside `path` and move it there."""
    write = label_format(path)
    ending = "".join(path.suffixes[-2:])
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp{ending}")
    with explained(path):
        try:
            write(temporary, planes)
            move(temporary, path)
        finally:
            remove(temporary)
    return path


def checked_target(path: str | PathLike[str]) -> Path:
    """Raise before the work starts if nothing could be written to `path` at its end."""
    path = Path(path).expanduser()
    label_format(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise WriteError(f"The folder {folder} does not exist: create it, or choose another place for {path.name}.")
    if not os.access(folder, os.W_OK):
        raise WriteError(f"The folder {folder} is read-only: choose another place for {path.name}.")
    if path.is_dir() and (not path.name.endswith(".zarr") or (any(path.iterdir()) and not is_zarr(path))):
        raise WriteError(f"{path} is a folder that is not replaced: choose another name.")
    return path


def check_apart(out: Path, *inputs: Path) -> None:
    """Raise if what is written would take the place of what it is made from, or become a part of it.

    Raises
    ------
    InputError
    """
    for path in inputs:
        if path.resolve() == out.resolve() or (path.is_dir() and path.resolve() in out.resolve().parents):
            raise InputError(f"{out} is {path} itself or lies inside it: choose another name for the labels.")


def check_plane(plane: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    """Raise if one plane of labels cannot be stored in a file of `shape`.

    Raises
    ------
    InputTypeError
        If the labels are not integers or bool.
    InputError
        If the plane has another shape, or holds numbers below 0 or above 2^31 - 1.
    """
    if plane.dtype.kind not in "iub":
        raise InputTypeError(f"Labels are whole numbers, 0 for background; got {plane.dtype}.")
    if plane.shape != shape[-2:]:
        raise InputError(f"A plane of {shape[-2:]} labels was expected; got shape {plane.shape}.")
    low, high = int(plane.min()), int(plane.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise InputError(f"Labels go from 0 to {np.iinfo(np.int32).max}; got {low} to {high}.")


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Raise if a shape is neither (H, W) nor (Z, H, W)."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"Labels are a plane (rows, columns) or a stack (planes, rows, columns); got {tuple(shape)}.")
    return tuple(int(length) for length in shape)


def named_spacing(spacing: Spacing, ndim: int) -> dict[str, float]:
    """Spacing by axis; what is not known is left out.

    Raises
    ------
    InputError
        If a sequence has not one positive number an axis.
    """
    axes = "ZYX"[3 - ndim :]
    if spacing is None:
        return {}
    if isinstance(spacing, Mapping):
        return {axis: float(spacing[axis]) for axis in axes if positive(spacing.get(axis))}
    steps = [positive(step) for step in spacing]
    if len(steps) != ndim or None in steps:
        raise InputError(f"Spacing is one positive number for each of the axes {axes}; got {tuple(spacing)}.")
    return {axis: step for axis, step in zip(axes, steps, strict=True) if step is not None}


def one_unit(units: Units) -> str:
    """Return the unit of rows and columns."""
    if isinstance(units, Mapping):
        return units.get("X", MICROMETRE)
    return units or MICROMETRE


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says about a failed write into a sentence about `path`."""
    try:
        yield
    except ZerosegError:
        raise
    except OSError as error:
        raise WriteError(f"{path.name} could not be written: {_reason(error, path)}") from error
    except ValueError as error:
        raise WriteError(f"{path.name} could not be written ({error}): choose another format.") from error


def _reason(error: OSError, path: Path) -> str:
    folder = path.absolute().parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(folder).free / 2**20
        return f"the disk is full ({free:.0f} MiB free in {folder}). Make room, or choose another place."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{folder} is read-only, or the file is open elsewhere. Choose another place."
    if error.errno == errno.ENOENT:
        return f"the folder {folder} is not there any more. Create it, or choose another place."
    return f"{error.strerror or error}. Choose another place."


def move(temporary: Path, path: Path) -> None:
    """Give a file or folder its name; what was there stays until then."""
    if not temporary.is_dir():
        temporary.replace(path)
        return
    # A folder cannot be replaced in one step: the old one steps aside and comes back if the new one cannot come.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    if path.exists():
        path.rename(aside)
    try:
        temporary.rename(path)
    except OSError:
        if aside.exists():
            aside.rename(path)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
