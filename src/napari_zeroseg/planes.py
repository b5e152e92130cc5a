"""Any array as a series of 2-D planes, read one at a time."""

from __future__ import annotations

import itertools
import logging
import math
import mmap
import re
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, InputTypeError, ReadError, ZerosegError

_log = logging.getLogger(__name__)

_CHANNELS = (3, 4)


class LazyArray(Protocol):
    """What numpy, dask and zarr arrays have in common and this package asks of a picture."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one value."""
        ...

    def __getitem__(self, key: tuple[int | slice, ...], /) -> object:
        """Part of the array, itself convertible by numpy.asarray."""
        ...


class Planes:
    """An array-like seen as planes (row, column), of which only the one asked for is computed.

    Parameters
    ----------
    data : array_like
        numpy, dask, zarr or anything else with ``shape``, ``dtype`` and slicing. A sequence of arrays is taken
        as the levels of one multi-scale picture, finest first; the finest is used.
    plane_axes : tuple of int
        (row axis, column axis): any two axes of `data`, in either order. Negative numbers count from the end.
    channel_axis : int, optional
        Axis of length 3 (RGB) or 4 (RGBA) that belongs to each plane.
    spacing : tuple of float, optional
        (row, column) distance of neighbouring pixel centres, in the unit of the caller.

    Raises
    ------
    InputError
        If an axis does not exist or is named twice, the channels are not 3 or 4, or a spacing is not positive.
    InputTypeError
        If `data` is no array.
    """

    def __init__(
        self,
        data: object,
        plane_axes: tuple[int, int],
        channel_axis: int | None = None,
        spacing: tuple[float, float] | None = None,
    ) -> None:
        self.data = finest_level(data)
        shape = tuple(int(n) for n in self.data.shape)
        self.plane_axes = (_axis(plane_axes[0], shape), _axis(plane_axes[1], shape))
        self.channel_axis = None if channel_axis is None else _axis(channel_axis, shape)
        within = self.plane_axes if self.channel_axis is None else (*self.plane_axes, self.channel_axis)
        if len(set(within)) != len(within):
            raise InputError(
                f"Rows, columns and channels must be different axes; got axes {within} of a picture of shape {shape}."
            )
        if self.channel_axis is not None and shape[self.channel_axis] not in _CHANNELS:
            raise InputError(
                f"A colour picture has 3 (RGB) or 4 (RGBA) channels; axis {self.channel_axis} of shape {shape} has "
                f"{shape[self.channel_axis]}: name another channel axis, or none for grey."
            )
        self._within = within
        self.index_axes = tuple(axis for axis in range(len(shape)) if axis not in within)
        self.plane_shape = (shape[self.plane_axes[0]], shape[self.plane_axes[1]])
        self.index_shape = tuple(shape[axis] for axis in self.index_axes)
        self.spacing = None if spacing is None else _checked_spacing(spacing)
        self._alpha_told = False

    @classmethod
    def of(cls, data: object, rgb: bool | None = None, spacing: tuple[float, float] | None = None) -> Planes:
        """Take the last two axes as the plane, before the channels if there are any.

        Parameters
        ----------
        data : array_like
            As for :class:`Planes`.
        rgb : bool, optional
            Whether the last axis holds 3 or 4 colour channels. Left out, it does where `data` is uint8, has at
            least three axes and a last axis of 3 or 4.
        spacing : tuple of float, optional
            (row, column) distance of neighbouring pixel centres.

        Raises
        ------
        InputError
            If there are fewer than two axes left for the plane.
        """
        picture = finest_level(data)
        shape = tuple(picture.shape)
        if rgb is None:
            rgb = len(shape) >= 3 and np.dtype(picture.dtype) == np.uint8 and shape[-1] in _CHANNELS
        if len(shape) < (3 if rgb else 2):
            raise InputError(
                f"A picture has at least two axes, rows and columns{', and one of channels' if rgb else ''}; "
                f"got shape {shape}."
            )
        return cls(picture, (-3, -2) if rgb else (-2, -1), channel_axis=-1 if rgb else None, spacing=spacing)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one pixel value, as stored."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype)
        return dtype

    @property
    def is_colour(self) -> bool:
        """Whether planes are (H, W, 3) rather than (H, W)."""
        return self.channel_axis is not None

    def __len__(self) -> int:
        return math.prod(self.index_shape)

    def index(self, index: tuple[int, ...] | int) -> tuple[int, ...]:
        """Index along each of the other axes, from such an index or from a running number.

        Raises
        ------
        InputError
            If there is no such plane.
        """
        if isinstance(index, (int, np.integer)):
            number = int(index)
            if not 0 <= number < len(self):
                raise InputError(f"There is no plane {number}: planes are counted from 0 to {len(self) - 1}.")
            return tuple(int(i) for i in np.unravel_index(number, self.index_shape)) if self.index_shape else ()
        whole = tuple(int(i) for i in index)
        fits = len(whole) == len(self.index_shape)
        if not fits or any(not 0 <= i < n for i, n in zip(whole, self.index_shape, strict=True)):
            raise InputError(
                f"There is no plane {whole}: give one number from 0 for each of the axes besides the plane, "
                f"whose lengths are {self.index_shape}."
            )
        return whole

    def read(self, index: tuple[int, ...] | int = ()) -> NDArray[Any]:
        """Read one plane, and nothing else.

        Parameters
        ----------
        index : tuple of int or int
            Index along each of the other axes in their order, or the running number of the plane (last axis
            fastest).

        Returns
        -------
        (H, W) or (H, W, 3) ndarray
            In native byte order; an alpha channel is dropped. It may share memory with an array in memory: do not
        write to it. Of a memory-mapped file it is a copy, and the file's pages are given back.

        Raises
        ------
        InputError
            If there is no such plane.
        ReadError
            If the data behind the picture fails.
        """
        selection: list[int | slice] = [slice(None)] * len(self.data.shape)
        for axis, i in zip(self.index_axes, self.index(index), strict=True):
            selection[axis] = i
        try:
            plane = _let_go(np.asarray(self.data[tuple(selection)]))
        except ZerosegError:
            raise
        except MemoryError as error:
            raise ReadError(
                f"Plane {self.index(index)} of {self.plane_shape} pixels needs more memory than there is: close other "
                "programs, or cut the picture into smaller parts."
            ) from error
        except Exception as error:  # lazy data fails in as many ways as there are formats and codecs
            raise ReadError(f"Plane {self.index(index)} of the picture could not be read: {error}.") from error
        kept = sorted(self._within)
        plane = plane.transpose([kept.index(axis) for axis in self._within])
        if self.is_colour and plane.shape[2] == 4:
            if not self._alpha_told:
                _log.info("The picture has an alpha channel, which is left out: red, green and blue are used.")
                self._alpha_told = True
            plane = plane[..., :3]
        return plane.astype(plane.dtype.newbyteorder("="), copy=False)


def _let_go(plane: NDArray[Any]) -> NDArray[Any]:
    """Copy what is mapped from a file and give its pages back; else a run over a stack comes to hold all of it."""
    root: Any = plane
    while isinstance(root.base, np.ndarray):
        root = root.base
    # of a writable one changes could be lost that are in memory alone (numpy's mode "c")
    if not isinstance(root.base, mmap.mmap) or root.flags.writeable:
        return plane
    copy = plane.copy()
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        root.base.madvise(mmap.MADV_DONTNEED)
    return copy


def planes_of(text: str | None, count: int) -> list[int]:
    """Read a choice of planes: "3", "0:20", "0:20:2", "1,4,7", or None for all.

    Raises
    ------
    InputError
        If the text is no such choice or names no plane of the stack.
    """
    if text is None:
        return list(range(count))
    chosen: list[int] = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*(-?\d+|(-?\d*):(-?\d*)(:\d+)?)\s*", part):
            raise InputError(f"Planes {text!r}: this was not understood: write 3, 0:20, 0:20:2 or 1,4,7.")
        if ":" not in part:
            number = int(part)
            if not 0 <= number < count:
                raise InputError(f"There is no plane {number}: planes are counted from 0 to {count - 1}.")
            chosen.append(number)
        else:
            bounds = [int(bound) if bound.strip() else None for bound in part.split(":")]
            if len(bounds) == 3 and bounds[2] == 0:
                raise InputError(f"Planes {text!r}: this was not understood: a step is at least 1.")
            chosen += range(count)[slice(*bounds)]
    if not chosen:
        raise InputError(f"Planes {text!r}: this names none of the planes 0 to {count - 1}.")
    return sorted(set(chosen))


def finest_level(data: object) -> LazyArray:
    """Return the array itself, or the finest of the levels of a multi-scale picture.

    Raises
    ------
    InputError
        If the levels of a sequence do not go from fine to coarse.
    InputTypeError
        If `data` is no array and cannot be made one.
    """
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)) and len(data):
        levels = list(data)
        if all(hasattr(level, "shape") and len(level.shape) >= 2 for level in levels):
            sizes = [math.prod(level.shape) for level in levels]
            if any(fine <= coarse for fine, coarse in itertools.pairwise(sizes)):
                raise InputError(
                    "A list of arrays is taken as the levels of one multi-scale picture, from fine to coarse, but "
                    f"these have {sizes} pixels: join planes of one stack with numpy.stack instead."
                )
            return cast("LazyArray", levels[0])
    if hasattr(data, "shape") and hasattr(data, "dtype") and hasattr(data, "__getitem__"):
        return cast("LazyArray", data)
    try:
        return cast("LazyArray", np.asarray(data))
    except ValueError as error:
        raise InputTypeError(f"A picture must be an array of numbers, not {type(data).__name__}: {error}.") from error


def check_picture(plane: NDArray[Any]) -> None:
    """Raise, with a sentence, if no model can make anything of this plane.

    Parameters
    ----------
    plane : (H, W) or (H, W, 3 or 4) ndarray
        One plane as read.

    Raises
    ------
    InputTypeError
        If pixels are complex, bool, text or objects.
    InputError
        If the shape is not a plane's, there are fewer than 2 rows or columns, or all finite pixels are the same.
    """
    _check_kind(plane.dtype)
    if plane.ndim != 2 and not (plane.ndim == 3 and plane.shape[2] in _CHANNELS):
        raise InputError(
            f"A plane is (rows, columns), or (rows, columns, 3 or 4) in colour; got shape {plane.shape}: "
            "choose which two axes are the plane."
        )
    height, width = plane.shape[:2]
    if height == 0 or width == 0:
        raise InputError(f"The picture of {height} rows and {width} columns has no pixels: open one that has.")
    if height < 2 or width < 2:
        raise InputError(
            f"The picture has {height} row(s) and {width} column(s) and at least 2 of each are needed: "
            "check which axes are rows and columns."
        )
    low, high = _range(plane)
    if (low == high).all():
        raise InputError(
            f"All pixels of the plane have the same value ({float(low.max()):g}), so there is nothing to segment: "
            "choose another plane or check the file."
        )


def is_flat(picture: NDArray[Any]) -> bool:
    """Whether every pixel of an (H, W) or (H, W, channels) picture is the same, which tells nothing."""
    return bool((picture == picture[0, 0]).all())


def _range(plane: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest finite value of each channel, shape (channels,)."""
    channels = np.atleast_3d(plane)
    low, high = channels.min((0, 1)), channels.max((0, 1))
    if np.isfinite(low).all() and np.isfinite(high).all():
        return low, high
    finite = np.isfinite(channels)
    if not finite.any():
        raise InputError(
            "The plane holds no number: every pixel is NaN or infinite. Choose another plane or check the file."
        )
    largest, smallest = np.finfo(plane.dtype).max, np.finfo(plane.dtype).min
    low = np.where(finite, channels, largest).min((0, 1))
    high = np.where(finite, channels, smallest).max((0, 1))
    # A channel without any number says nothing, as a constant one does.
    return np.where(low > high, 0, low), np.where(low > high, 0, high)


def _check_kind(dtype: np.dtype[Any]) -> None:
    if dtype.kind in "iuf":
        return
    if dtype.kind == "c":
        raise InputTypeError("The picture holds complex numbers: take their magnitude first, numpy.abs(picture).")
    if dtype.kind == "b":
        raise InputTypeError(
            "The picture holds only True and False, so it is a mask: choose the picture that it was drawn on."
        )
    raise InputTypeError(f"A picture must hold numbers, integers or floats, not {dtype}.")


def _axis(axis: int, shape: tuple[int, ...]) -> int:
    if not -len(shape) <= axis < len(shape):
        raise InputError(f"There is no axis {axis} in a picture of shape {shape}: give one from 0 to {len(shape) - 1}.")
    return axis % len(shape)


def _checked_spacing(spacing: tuple[float, float]) -> tuple[float, float]:
    row, column = (float(step) for step in spacing)
    if not all(math.isfinite(step) and step > 0 for step in (row, column)):
        raise InputError(f"Spacing is the positive distance of pixels as (row, column); got {spacing}.")
    return row, column
