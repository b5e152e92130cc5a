"""Link the labels of a stack's planes into objects, plane by plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.link.holes import VolumeHoles, hollows_of
from napari_zeroseg.link.options import LinkOptions
from napari_zeroseg.link.sections import Linker
from napari_zeroseg.link.solve import LinkedObject, Relabelling, solve
from napari_zeroseg.planes import Planes

Progress = Callable[[int, int], object]


class Linked:
    """Labels of a stack with their objects, of which a plane is made when it is asked for.

    Attributes
    ----------
    shape : tuple of int
        (Z, H, W).
    objects : list of LinkedObject
        Sorted by label.
    """

    def __init__(self, planes: Planes, relabelling: Relabelling, holes: VolumeHoles | None) -> None:
        self._planes = planes
        self._relabelling = relabelling
        self._holes = holes
        self.shape = (len(planes), *planes.plane_shape)

    @property
    def objects(self) -> Sequence[LinkedObject]:
        """The objects, sorted by label."""
        return self._relabelling.objects

    def plane(self, index: int) -> NDArray[np.int32]:
        """Return the objects on a plane, (H, W) int32."""
        labels = self._relabelling.apply(index, self._planes.read(index))
        return labels if self._holes is None else self._holes.fill(index, labels)

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self.plane(index) for index in range(len(self._planes)))

    def array(self) -> NDArray[np.int32]:
        """Return all planes at once, (Z, H, W) int32."""
        result = np.empty(self.shape, np.int32)
        for index, plane in enumerate(self):
            result[index] = plane
        return result


def link_planes(
    labels: object,
    options: LinkOptions | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Linked:
    """Link sections of consecutive planes into objects.

    The same labels give the same objects, whatever numbers they had: see :class:`LinkOptions` for what is linked and
    :func:`solve` for the numbers. Planes are read twice, three times if holes of the volume are filled, and no more
    than `gap` + 2 are in memory.

    Parameters
    ----------
    labels : (Z, H, W) array_like of int
        Labels of each plane, 0 is background; numpy, dask or zarr.
    options : LinkOptions, optional
    progress : callable, optional
        Called with (planes done, planes in all) of the first pass.
    cancel : CancelToken, optional
        Looked at before each plane.

    Returns
    -------
    Linked
        Its planes are made when they are asked for.

    Raises
    ------
    InputError, InputTypeError
        If the labels are not a stack of integers from 0.
    ReadError
        If the data behind them fails.
    CancelledError
        If `cancel` was raised.
    """
    options = options or LinkOptions()
    planes = stack_of(labels)
    linker = Linker(options)
    for index in range(len(planes)):
        if cancel is not None:
            cancel.raise_if_cancelled()
        linker.add(planes.read(index))
        if progress is not None:
            progress(index + 1, len(planes))
    relabelling = solve(linker.links(), options)
    linked = Linked(planes, relabelling, None)
    if not options.fills_volume:
        return linked
    hollows = hollows_of(_watched(linked, cancel))
    return Linked(planes, relabelling, VolumeHoles.of(hollows, options.max_hole_volume / options.voxel))


def stack_of(labels: object) -> Planes:
    """Return labels as planes to be linked.

    Raises
    ------
    InputError, InputTypeError
        If they are not a stack of integers.
    """
    planes = Planes.of(labels, rgb=False)
    if len(planes.index_shape) != 1:
        raise InputError(f"A stack (planes, rows, columns) was expected; got shape {tuple(planes.data.shape)}.")
    if planes.dtype.kind not in "iu":
        raise InputTypeError(f"Labels to link are integers; got {planes.dtype}.")
    return planes


def _watched(linked: Linked, cancel: CancelToken | None) -> Iterator[NDArray[np.int32]]:
    for plane in linked:
        if cancel is not None:
            cancel.raise_if_cancelled()
        yield plane
