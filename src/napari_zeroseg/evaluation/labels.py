"""Labels to evaluate, plane by plane: any array, checked as it is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.planes import Planes, finest_level

Labels = NDArray[np.int64]


class LabelStack:
    """Labels as a series of (H, W) planes of which one is read at a time.

    Parameters
    ----------
    data : array_like
        (H, W) or (Z, H, W) bool, whole numbers, or floats that are whole; numpy, dask or zarr. Leading axes of length
        1 are dropped.
    name : str
        What errors call it.

    Raises
    ------
    InputError
        If it has other axes or no pixels.
    InputTypeError
        If its values are no numbers.
    """

    def __init__(self, data: object, name: str) -> None:
        array = finest_level(data)
        shape = tuple(int(length) for length in array.shape)
        spare = 0
        while len(shape) - spare > 2 and shape[spare] == 1:
            spare += 1
        self.shape = shape[spare:]
        self.name = name
        dtype = np.dtype(array.dtype)
        if dtype.kind not in "buif":
            raise InputTypeError(f"The {name} must hold whole numbers, 0 for background; got {dtype}.")
        if len(self.shape) not in (2, 3) or 0 in self.shape:
            raise InputError(
                f"The {name} must be a plane (rows, columns) or a stack (planes, rows, columns); got shape {shape}: "
                "evaluate one time or channel after the other."
            )
        self._planes = Planes(array, (-2, -1))
        self.planes = list(range(len(self._planes)))

    def choose(self, planes: Sequence[int]) -> None:
        """Take these planes only, in their order.

        Raises
        ------
        InputError
            If one does not exist.
        """
        for plane in planes:
            self._planes.index(int(plane))
        self.planes = [int(plane) for plane in planes]

    def __len__(self) -> int:
        return len(self.planes)

    def read(self, index: int, ignore: int | None = None) -> Labels:
        """Return one of the chosen planes as (H, W) int64.

        Parameters
        ----------
        index : int
        ignore : int, optional
            The one value below 0 that is let through.

        Raises
        ------
        InputError
            If a value is not whole, below 0 or above 2^63 − 1.
        ReadError
            If the data behind it fails.
        """
        index = self.planes[index]
        plane = self._planes.read(index)
        if plane.dtype.kind == "f":
            whole = np.isfinite(plane) & (plane == np.rint(plane)) & (np.abs(plane) <= 2.0**53)
            if not whole.all():
                raise InputError(
                    f"The {self.name} must hold whole numbers, 0 for background; plane {index} has "
                    f"{plane[~whole][0]:g}: choose the labels, not the picture or a probability."
                )
        elif plane.dtype == np.uint64 and int(plane.max()) > np.iinfo(np.int64).max:
            raise InputError(f"The {self.name} has labels above 2^63 - 1 on plane {index}: number them anew.")
        labels: Labels = plane.astype(np.int64)
        negative = labels < 0
        if ignore is not None and ignore < 0:
            negative &= labels != ignore
        if negative.any():
            raise InputError(
                f"Labels go from 0, the background; plane {index} of the {self.name} has {int(labels[negative][0])}: "
                "name it as the value to ignore, or number the labels anew."
            )
        return labels
