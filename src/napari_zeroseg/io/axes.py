"""What the axes of a file mean where it does not say so, or says it wrong: told once by the user, and remembered."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.settings import Settings

_log = logging.getLogger(__name__)


def check_axes(axes: str) -> str:
    """Return axes as they are kept: capital letters, each once, with Y and X among them.

    Raises
    ------
    InputError
    """
    letters = axes.upper()
    if not re.fullmatch("[A-Z]{2,6}", letters) or len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
        raise InputError(
            f"Axes are a letter for each, in the order of the file, with Y (rows) and X (columns) among them, such as "
            f"ZYX or TZCYX; got {axes!r}."
        )
    return letters


def remember_axes(path: str | Path, axes: str | None) -> None:
    """Keep what the axes of a file are, for every later opening; None forgets it.

    Raises
    ------
    InputError
        If these are no axes.
    WriteError
    """
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            known = _known()
            known.pop(_key(path), None)
            if axes is not None:
                known[_key(path)] = check_axes(axes)
            temporary = file.with_name(f".{file.name}.tmp")
            temporary.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
            temporary.replace(file)
    except OSError as error:
        raise WriteError(f"{file} cannot be written ({error.strerror}): make room, or permit it.") from error


def remembered_axes(path: str | Path) -> str | None:
    """Return what the user said the axes of a file are, or None."""
    return _known().get(_key(path))


def with_axes(picture: Picture, axes: str) -> Picture:
    """Return the picture with its axes named, rows and columns last.

    Parameters
    ----------
    picture : Picture
        Its colours, if it has any, stay its last axis and are not named.
    axes : str
        In the order of its data.

    Raises
    ------
    InputError
        If it has another number of axes.
    """
    count = picture.data.ndim - picture.rgb
    if len(axes) != count:
        raise InputError(
            f"{picture.name} has {count} axes, but {axes} names {len(axes)}: say again what they are (`zeroseg axes`)."
        )
    order = [*(axis for axis in axes if axis not in "YX"), "Y", "X"]
    places = [axes.index(axis) for axis in order] + [count] * picture.rgb
    data: Any = picture.data
    if places != list(range(len(places))):
        if not isinstance(data, np.ndarray):
            import dask.array as da

            data = data if isinstance(data, da.Array) else da.from_array(data)  # type: ignore[no-untyped-call]
        data = data.transpose(places)
    named = "".join(order) + "S" * picture.rgb
    # a distance belongs to its axis by name: where the file named them otherwise, it is the place that counts
    before = picture.axes.replace("S", "")
    moved = {new: before[axes.index(new)] for new in axes} if len(before) == count else {}
    spacing = {axis: picture.spacing[old] for axis, old in moved.items() if old in picture.spacing}
    units = {axis: picture.units[old] for axis, old in moved.items() if old in picture.units}
    return replace(picture, data=data, axes=named, spacing=spacing, units=units)


def _file() -> Path:
    return Settings.from_environment().data_dir / "axes.json"


def _key(path: str | Path) -> str:
    return str(Path(path).expanduser().resolve())


def _known() -> dict[str, str]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
        return {str(path): check_axes(str(axes)) for path, axes in known.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        _log.warning("%s cannot be read and is left out of account: %s", _file(), error)
        return {}
