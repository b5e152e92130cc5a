"""Open labels from a file: what pictures are read from, and NIfTI, which is written for labels only."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from napari_zeroseg.errors import InputError, ReadError
from napari_zeroseg.io.picture import MICROMETRE, MILLIMETRE, Picture, check_real
from napari_zeroseg.io.read import open_image
from napari_zeroseg.planes import Planes

_NIFTI = (".nii", ".nii.gz")


def open_labels(path: str | PathLike[str]) -> Picture:
    """Open labels, one number a pixel.

    Parameters
    ----------
    path : path-like
        NIfTI (.nii, .nii.gz), or what :func:`open_image` opens. NIfTI is read as it was written, whatever orientation
        its header names: x are the columns, y the rows, z the planes.

    Raises
    ------
    ReadError
        If the file is missing or damaged.
    InputError, InputTypeError
        If it holds a colour picture, or its axes or values are no labels'.
    """
    path = Path(path).expanduser()
    if path.name.lower().endswith(_NIFTI) and not path.is_dir():
        return _read_nifti(path)
    picture = open_image(path)
    if picture.rgb:
        raise InputError(
            f"{path.name} is a colour picture, and one number a pixel was expected: save the labels as grey."
        )
    return picture


def labels_on(path: Path, series: Planes, picture: str = "the picture", hint: str = "") -> Planes:
    """Open labels of the same planes as those of a picture.

    Parameters
    ----------
    path : Path
        As for :func:`open_labels`.
    series : Planes
        Of the picture.
    picture, hint : str
        What the sentence of an error calls the picture, and what else it says.

    Raises
    ------
    ReadError
        If the file is missing or damaged.
    InputError, InputTypeError
        If these are no labels, are of other planes, or hold fractions on the first one.
    """
    labels = open_labels(path).planes()
    if len(labels):
        first = labels.read(0)
        if first.dtype.kind == "f" and (first != np.rint(first)).any():
            raise InputError(
                f"{path} holds fractions, and whole numbers are wanted: cut a map of probabilities at a threshold "
                "first, or save labels as integers."
            )
    if len(labels) != len(series) or labels.plane_shape != series.plane_shape:
        raise InputError(
            f"{path} has {len(labels)} planes of {labels.plane_shape}, but {picture} {len(series)} of "
            f"{series.plane_shape}: give labels of the same planes{hint}."
        )
    return labels


def _read_nifti(path: Path) -> Picture:
    import nibabel

    if not path.is_file():
        raise ReadError(f"There is no file {path}: check its name and place.")
    try:
        image: Any = nibabel.load(path)
        data = np.asarray(image.dataobj).T
        unit, _ = image.header.get_xyzt_units()
        zooms = [float(f"{step:.7g}") for step in image.header.get_zooms()]  # as precise as their 32 bits
    except Exception as error:  # headers, compression and data fail each in their own way
        raise ReadError(f"{path.name} could not be read as NIfTI ({error}): copy or export it again.") from error
    check_real(data.dtype, path.name)
    data = data.reshape(data.shape[-3:]) if data.ndim > 3 and data.size == np.prod(data.shape[-3:]) else data
    if not 2 <= data.ndim <= 3 or data.size == 0:
        raise InputError(f"{path.name} has shape {data.shape}: a plane or a stack of planes was expected.")
    axes = "ZYX"[3 - data.ndim :]
    known = unit in ("micron", "mm") and all(step > 0 for step in zooms[: data.ndim])
    spacing = dict(zip(axes[::-1], zooms, strict=False)) if known else {}
    name = MICROMETRE if unit == "micron" else MILLIMETRE
    return Picture(data, axes, spacing, dict.fromkeys(spacing, name), path.name.split(".nii")[0])
