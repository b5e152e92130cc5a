"""The npe2 reader: pictures as layers, with voxel size and window, read lazily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_zeroseg.errors import InputError, UnknownAxesError, ZerosegError
from napari_zeroseg.intensity import percentile_limits
from napari_zeroseg.io.picture import Picture
from napari_zeroseg.io.read import kind_of, open_as, open_image, open_images

PathOrPaths = str | Sequence[str]
LayerData = tuple[Any, dict[str, Any], str]

_CONTAINERS = ("zarr", "folder")
_CLAIMED = {
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
    ".npy": "numpy",
    ".zarr": "zarr",
}
"""Endings that are read here whatever the file holds: where that is wrong, we can say what, and napari cannot."""


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """Return the reader of these files, or None if they are nothing that it reads.

    Parameters
    ----------
    path : str or sequence of str
        One file or folder, or the files of one stack.
    """
    if isinstance(path, str):
        return read_layers if _kind(path) else None
    kinds = {_kind(one) for one in path}
    if len(kinds) != 1 or None in kinds or (len(path) > 1 and kinds & set(_CONTAINERS)):
        return None
    return read_layers


def read_layers(path: PathOrPaths) -> list[LayerData]:
    """Open one picture, or several files as one stack, as an image layer.

    Raises
    ------
    ReadError, InputError, InputTypeError
        With a sentence for napari's notification.
    """
    try:
        picture = open_image(path) if isinstance(path, str) else open_images(path)
    except UnknownAxesError as error:
        if error.file is None:
            raise
        picture = _asked(error, error.file)
    return [layer_data(picture)]


def _asked(error: UnknownAxesError, file: Path) -> Picture:
    """Ask the user what the axes are until the answer fits, and remember it; without an answer it is the error."""
    from napari_zeroseg._napari.axes_question import ask_axes

    question = str(error)
    while (axes := ask_axes(file, question)) is not None:
        try:
            return open_as(file, axes)
        except InputError as wrong:
            question = str(wrong)
    raise error


def _kind(path: str) -> str | None:
    claimed = Path(path).expanduser()
    return kind_of(path) or (_CLAIMED.get(claimed.suffix.lower()) if claimed.exists() else None)


def layer_data(picture: Picture) -> LayerData:
    """Describe a picture as napari's image layer."""
    options: dict[str, Any] = {
        "name": picture.name,
        "rgb": picture.rgb,
        "multiscale": False,
        "metadata": {"zeroseg": dict(picture.metadata)},
    }
    axes = picture.axes.replace("S", "")
    spacing = dict(picture.spacing)
    if not ("Y" in spacing and "X" in spacing):
        # A pixel of known height and unknown width would be drawn stretched.
        spacing = {axis: step for axis, step in spacing.items() if axis not in "YX"}
    if spacing:
        options["scale"] = [spacing.get(axis, 1.0) for axis in axes]
        options["units"] = [picture.units[axis] if axis in spacing else "pixel" for axis in axes]
    if not picture.rgb:
        options["colormap"] = "gray"
        limits = _contrast_limits(picture)
        if limits:
            options["contrast_limits"] = limits
    return picture.data, options, "image"


def _contrast_limits(picture: Picture) -> tuple[float, float] | None:
    """Black and white: the file's own window, the full range of bytes, or the percentiles of the middle plane."""
    own = picture.metadata.get("contrast_limits")
    if own:
        low, high = own
        return float(low), float(high)
    dtype = np.dtype(picture.data.dtype)
    if dtype == np.uint8:
        return 0.0, 255.0
    if dtype.kind not in "iuf":
        return None
    planes = picture.planes()
    try:
        low, high = percentile_limits(planes.read(len(planes) // 2))
    except ZerosegError:
        return None  # that plane is damaged; the others are still worth a look
    return (low, high) if low < high else None
