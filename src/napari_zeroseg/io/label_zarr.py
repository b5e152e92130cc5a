"""Labels as OME-Zarr with coarser levels: written a plane at a time, by several processes at once if need be.

Each plane is a file of its own (a shard, where it has several tiles), so that planes never share what is written, and
a volume of ten thousand planes is ten thousand files and not millions. Coarser levels take every second pixel of rows
and columns: labels are names, of which there is no mean. Planes are not thinned out, as they lie farther apart than
pixels in most stacks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import ReadError, WriteError

_TILE = 1024
"""Longest side of a tile: 4 MiB of labels, which compress to a tenth of that or less."""

_PAINTED_TILE = 512
"""Longest side of a tile of labels that are painted on: each stroke writes whole tiles."""

_AXES = {2: "yx", 3: "zyx", 4: "tzyx", 5: "tczyx"}
"""Names of the axes of labels by their number; OME-Zarr has none for more."""

_COARSEST = 1024
"""Longest side of the coarsest level; it fits on a screen."""

_UNFINISHED = "zeroseg_unfinished"


class ZarrLabels:
    """An OME-Zarr of labels that grows.

    Parameters
    ----------
    path : Path
        Of a group that :meth:`create` has made, or will make.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, shape: tuple[int, ...], dtype: np.dtype[Any], spacing: Mapping[str, float], unit: str) -> None:
        """Make the group and its empty levels, marked as unfinished; what is there goes.

        Parameters
        ----------
        shape : tuple of int
            (H, W) or (Z, H, W).
        dtype : dtype
        spacing : mapping of str to float
            Distance of neighbours along "Z", "Y", "X" where known.
        unit : str
            "micrometer" or "millimeter".
        """
        import zarr

        group = zarr.open_group(self.path, mode="w", zarr_format=3)
        axes = "ZYX"[3 - len(shape) :]
        datasets = []
        for level, size in enumerate(_levels(shape)):
            tile = [min(length, _TILE) for length in size[-2:]]
            leading = (1,) * (len(shape) - 2)
            whole = tuple(-(-length // side) * side for length, side in zip(size[-2:], tile, strict=True))
            group.create_array(
                str(level),
                shape=size,
                dtype=dtype,
                chunks=(*leading, *tile),
                shards=(*leading, *whole) if max(size[-2:]) > _TILE else None,
                fill_value=0,
                dimension_names=list(axes.lower()),
            )
            steps = [spacing.get(axis, 1.0) * (1 if axis == "Z" else 2**level) for axis in axes]
            scale = {"type": "scale", "scale": steps}
            datasets.append({"path": str(level), "coordinateTransformations": [scale]})
        known = {"unit": unit} if spacing else {}
        multiscale: dict[str, Any] = {
            "name": "labels",
            "axes": [{"name": axis.lower(), "type": "space"} | known for axis in axes],
            "datasets": datasets,
        }
        if len(datasets) > 1:
            multiscale["type"] = "nearest"
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale], "image-label": {}}
        group.attrs[_UNFINISHED] = True

    def write(self, index: int, plane: NDArray[Any]) -> None:
        """Write one plane (H, W) into all levels, in place of what a killed run may have left half-written there."""
        import zarr

        group = zarr.open_group(self.path, mode="r+", zarr_format=3)
        level = 0
        while str(level) in group:
            array: Any = group[str(level)]
            stack = array.ndim == 3
            shutil.rmtree(self.path / str(level) / "c" / (str(index) if stack else ""), ignore_errors=True)
            array[index if stack else ...] = plane.astype(array.dtype, copy=False)
            plane = plane[::2, ::2]
            level += 1

    def read(self, index: int) -> NDArray[Any]:
        """Read one plane (H, W) of the finest level.

        Raises
        ------
        ReadError
            If it is damaged.
        """
        import zarr

        try:
            array: Any = zarr.open_group(self.path, mode="r", zarr_format=3)["0"]
            return np.asarray(array[index if array.ndim == 3 else ...])
        except Exception as error:  # stores and codecs fail each in their own way
            raise ReadError(f"Plane {index} of {self.path} is damaged ({error}): it has to be done again.") from error

    def finish(self) -> None:
        """Tell others who open it that no planes are to come."""
        import zarr

        attributes = zarr.open_group(self.path, mode="r+", zarr_format=3).attrs
        if _UNFINISHED in attributes:
            del attributes[_UNFINISHED]
        os.utime(self.path)  # its provenance is known by being older


def editable_labels(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], steps: Sequence[float], unit: str = ""
) -> Any:
    """Make labels on disk that can be painted on: an OME-Zarr of one level, empty, which takes no room until written.

    Parameters
    ----------
    path : Path
        Where nothing is yet.
    shape : tuple of int
        (..., H, W).
    dtype : dtype
    steps : sequence of float
        Distance of neighbours along each axis.
    unit : str
        Of the distances along rows, columns and planes, such as "micrometer"; "" where it is not known.

    Returns
    -------
    zarr.Array
        Of level 0, which reads and writes its files.

    Raises
    ------
    WriteError
        If the disk is full or the folder cannot be written.
    """
    import zarr

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(path, mode="w-", zarr_format=3)
        tile = [min(length, _PAINTED_TILE) for length in shape[-2:]]
        axes = _AXES.get(len(shape), "")
        array = group.create_array(
            "0",
            shape=shape,
            dtype=dtype,
            chunks=(*(1,) * (len(shape) - 2), *tile),
            fill_value=0,
            dimension_names=list(axes) or None,
        )
        if not axes:
            return array
        kinds = {"t": "time", "c": "channel"}
        scale = {"type": "scale", "scale": [float(step) for step in steps]}
        known = {"unit": unit} if unit else {}
        named = [{"name": axis, "type": kinds.get(axis, "space")} | ({} if axis in kinds else known) for axis in axes]
        multiscale: dict[str, Any] = {
            "name": "labels",
            "axes": named,
            "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
        }
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale], "image-label": {}}
    except OSError as error:
        raise WriteError(
            f"Labels could not be made in {path.parent} ({error}): make room there, or let ZEROSEG_DATA_DIR name "
            "another folder."
        ) from error
    return array


def _levels(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of all levels, the finest first."""
    levels = [shape]
    while max(shape[-2:]) > _COARSEST:
        shape = (*shape[:-2], -(-shape[-2] // 2), -(-shape[-1] // 2))
        levels.append(shape)
    return levels
