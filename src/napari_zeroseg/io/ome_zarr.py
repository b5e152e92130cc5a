"""OME-Zarr and plain zarr, of zarr formats 2 and 3: the finest level, read chunk by chunk."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_zeroseg.errors import InputError, ReadError, UnknownAxesError
from napari_zeroseg.io.picture import (
    MICROMETRE,
    SECOND,
    Picture,
    check_real,
    micrometres,
    named_axes,
    said_for,
    seconds,
)

if TYPE_CHECKING:
    import zarr

_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr group or array."""
    return any((folder / mark).is_file() for mark in _MARKS)


def read_zarr(path: Path) -> Picture:
    """Open the finest level of a zarr folder.

    Parameters
    ----------
    path : Path
        An existing folder.

    Returns
    -------
    Picture
        With a zarr array as its data, and the axes and spacing of its OME metadata where there are any.

    Raises
    ------
    ReadError
        If the folder is no zarr, or its metadata or arrays are damaged or missing.
    InputError, InputTypeError
        If its axes or values are no picture's.
    """
    import zarr

    try:
        with warnings.catch_warnings():
            # Consolidated metadata of zarr 3 is not in the specification yet, which is the writer's concern.
            warnings.simplefilter("ignore")
            node = zarr.open(path, mode="r")
    except Exception as error:  # stores, codecs and metadata fail each in their own way
        raise ReadError(f"{path.name} could not be read as zarr ({error}): copy or export it again.") from error
    if isinstance(node, zarr.Array):
        return _picture(node, named_axes(node.ndim, path.name), {}, {}, path)
    multiscale, group = _multiscale(node, path)
    if multiscale is None:
        array = _only_array(node, path)
        return _picture(array, named_axes(array.ndim, path.name), {}, {}, path)
    try:
        dataset = multiscale["datasets"][0]
        array = group[dataset["path"]]
        axes = _axes(multiscale.get("axes"), array.ndim)
        steps = [_scale(part, array.ndim) for part in (multiscale, dataset)]
    except (KeyError, IndexError, TypeError, ValueError, FileNotFoundError) as error:
        raise ReadError(f"The OME metadata of {path.name} is damaged ({error!r}): export it again.") from error
    step = np.prod(steps, axis=0)
    spacing, units = _spacing(axes, step)
    return _picture(array, "".join(letter for letter, _ in axes), spacing, units, path)


def _multiscale(node: Any, path: Path) -> tuple[dict[str, Any] | None, Any]:
    """Metadata of the first picture of a group, and the group whose paths it names."""
    attributes = dict(node.attrs)
    ome = attributes.get("ome", attributes)
    if "plate" in ome:
        raise InputError(f"{path.name} is a plate of many pictures: open one field of it, such as {path.name}/A/1/0.")
    if "bioformats2raw.layout" in ome and "multiscales" not in ome:
        if "0" not in node:
            raise ReadError(f"{path.name} says that its pictures are numbered but has none named 0: export it again.")
        node = node["0"]
        attributes = dict(node.attrs)
        ome = attributes.get("ome", attributes)
    scales = ome.get("multiscales")
    return (scales[0] if scales else None), node


def _only_array(node: Any, path: Path) -> zarr.Array[Any]:
    arrays = dict(node.arrays())
    if len(arrays) != 1:
        names = ", ".join(sorted(arrays)) or "none"
        raise InputError(
            f"{path.name} has no OME metadata, and one array was expected but there are: {names}. Open one of them, "
            "such as the folder of the array itself."
        )
    array: zarr.Array[Any] = next(iter(arrays.values()))
    return array


def _axes(axes: Any, ndim: int) -> list[tuple[str, str | None]]:
    """(letter, unit) of each axis; versions before 0.3 have always the same five."""
    if axes is None:
        return [(letter, None) for letter in "TCZYX"[-ndim:]]
    named = [(axis, None) if isinstance(axis, str) else (axis["name"], axis.get("unit")) for axis in axes]
    if len(named) != ndim:
        raise ValueError(f"{len(named)} axes for an array of {ndim}")
    return [(str(name)[:1].upper(), unit) for name, unit in named]


def _scale(part: dict[str, Any], ndim: int) -> list[float]:
    for transformation in part.get("coordinateTransformations") or []:
        if transformation.get("type") == "scale":
            scale = [float(step) for step in transformation["scale"]]
            if len(scale) != ndim:
                raise ValueError(f"{len(scale)} scales for an array of {ndim} axes")
            return scale
    return [1.0] * ndim


def _spacing(axes: list[tuple[str, str | None]], steps: Any) -> tuple[dict[str, float], dict[str, str]]:
    spacing, units = {}, {}
    for (letter, unit), step in zip(axes, steps, strict=True):
        value = seconds(step, unit) if letter == "T" else micrometres(step, unit)
        if value is not None:
            spacing[letter], units[letter] = value, SECOND if letter == "T" else MICROMETRE
    return spacing, units


def _picture(
    array: zarr.Array[Any], axes: str, spacing: dict[str, float], units: dict[str, str], path: Path
) -> Picture:
    check_real(np.dtype(array.dtype), path.name)
    if 0 in array.shape:
        raise ReadError(f"{path.name} holds no pixels (shape {array.shape}): a picture of at least 2 x 2 was expected.")
    if not axes.endswith("YX") and said_for(array.ndim) is None:
        raise UnknownAxesError(
            f"{path.name} has axes {axes}: rows and columns (Y, X) were expected last. Say what "
            "they are in the file's order (`zeroseg axes FILE AXES`), or export it again."
        )
    name = path.name.removesuffix(".zarr").removesuffix(".ome")
    return Picture(array, axes, spacing, units, name, metadata={"format": "OME-Zarr" if spacing else "zarr"})
