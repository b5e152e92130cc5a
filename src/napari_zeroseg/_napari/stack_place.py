"""A layer as a stack: which of its axes is gone through, and its planes one at a time. No Qt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg._napari.engine import PictureRef
from napari_zeroseg._napari.layers import ShownPlane, data_shape, shown_plane
from napari_zeroseg.errors import InputError
from napari_zeroseg.planes import Planes

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Labels, Layer

Box = tuple[int | slice, ...]


@dataclass(frozen=True)
class StackPlace:
    """The planes of a layer along one axis, that of the last slider; along others it stays where it is.

    Attributes
    ----------
    axes : tuple of int
        Row and column axis.
    along : int or None
        The axis that is gone through; None for a single picture.
    index : tuple of int
        Position along every axis on the screen.
    shape : tuple of int
        (H, W) of a plane.
    count : int
        Number of planes.
    """

    axes: tuple[int, int]
    along: int | None
    index: tuple[int, ...]
    shape: tuple[int, int]
    count: int

    @classmethod
    def of(cls, layer: Layer, dims: Dims) -> StackPlace:
        """Take the planes as the screen shows them.

        Raises
        ------
        InputError
            If there is no plane on the screen.
        """
        return cls.of_plane(layer, shown_plane(layer, dims))

    @classmethod
    def of_plane(cls, layer: Layer, plane: ShownPlane) -> StackPlace:
        """Take the planes along the last axis with a slider, from one of them."""
        along = plane.others[-1] if plane.others else None
        count = 1 if along is None else data_shape(layer)[along]
        return cls(plane.axes, along, plane.index, plane.shape, count)

    @property
    def current(self) -> int:
        """The plane on the screen when this was made."""
        return 0 if self.along is None else self.index[self.along]

    @property
    def stack(self) -> tuple[object, ...]:
        """Equal for all planes of one stack."""
        others = tuple(i for axis, i in enumerate(self.index) if axis != self.along)
        return (self.axes, self.along, others, self.shape)

    def at(self, plane: int) -> tuple[int, ...]:
        """Position of a plane along every axis."""
        return tuple(plane if axis == self.along else i for axis, i in enumerate(self.index))

    def spacing(self, image: Image) -> tuple[float, float, float] | None:
        """Distance of neighbouring planes, rows and columns; None where all are 1, since then nobody has told."""
        if self.along is None:
            return None
        steps = [float(abs(image.scale[axis])) for axis in (self.along, *self.axes)]
        return None if all(step == 1 for step in steps) else (steps[0], steps[1], steps[2])

    def box(self, plane: int, rows: slice = slice(None), columns: slice = slice(None)) -> Box:
        """Part of a plane in the layer's data."""
        selection: list[int | slice] = list(self.at(plane))
        selection[self.axes[0]], selection[self.axes[1]] = rows, columns
        return tuple(selection)

    def turned(self, plane: NDArray[Any]) -> NDArray[Any]:
        """(rows, columns) from the order of the data's axes, or the other way round."""
        return plane if self.axes[0] < self.axes[1] else plane.T

    def read(self, data: Any, plane: int) -> NDArray[Any]:
        """(H, W) labels of a plane."""
        return self.turned(np.asarray(data[self.box(plane)]))


def labels_place(labels: Labels, image: Image, place: StackPlace) -> StackPlace:
    """The planes of a labels layer that go with those of an image.

    Raises
    ------
    InputError
        If it has another shape, or several scales.
    """
    if labels.multiscale:
        raise InputError(f"'{labels.name}' has several scales: choose labels of one scale.")
    if data_shape(labels) != data_shape(image):
        raise InputError(
            f"'{labels.name}' has the shape {data_shape(labels)} and '{image.name}' {data_shape(image)}: choose labels "
            "of the image's shape, or a new layer."
        )
    return place


class ShownStack:
    """An image's planes as the screen shows them, (Z, H, W) or (Z, H, W, 3) uint8, read one at a time."""

    dtype = np.dtype(np.uint8)

    def __init__(self, picture: PictureRef, place: StackPlace) -> None:
        self._picture = picture
        self._place = place
        self.shape = (place.count, *place.shape, *((3,) if picture.rgb else ()))

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[np.uint8]:
        plane, *within = key
        assert not isinstance(plane, slice)
        return self.plane(int(plane))[tuple(within)]

    def plane(self, number: int) -> NDArray[np.uint8]:
        """Read one plane.

        Raises
        ------
        InputError, InputTypeError, ReadError
            If no model can make anything of it.
        """
        return replace(self._picture, index=self._place.at(number)).read()

    def series(self) -> Planes:
        """The planes for the library."""
        return Planes(self, (1, 2), channel_axis=3 if self._picture.rgb else None)


class LabelStack:
    """A labels layer's planes, (Z, H, W), read one at a time."""

    def __init__(self, data: Any, place: StackPlace) -> None:
        self._data = data
        self._place = place
        self.dtype: np.dtype[Any] = np.dtype(data.dtype)
        self.shape = (place.count, *place.shape)

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        plane, *within = key
        assert not isinstance(plane, slice)
        return self.plane(int(plane))[tuple(within)]

    def plane(self, number: int) -> NDArray[Any]:
        """Read one plane."""
        return self._place.read(self._data, number)

    def series(self) -> Planes:
        """The planes for the library."""
        return Planes(self, (1, 2))


def world_of(plane: ShownPlane, along: int, number: int) -> float:
    """Where the slider of an axis stands at a plane."""
    position = np.array([*plane.index, 1.0])
    position[along] = number
    return float((plane.to_world @ position)[along])
