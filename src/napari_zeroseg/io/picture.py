"""Picture: what every reader returns, and what the readers share."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputTypeError, UnknownAxesError
from napari_zeroseg.planes import LazyArray, Planes

if TYPE_CHECKING:
    import dask.array as da

_log = logging.getLogger(__name__)

MICROMETRE = "micrometer"
MILLIMETRE = "millimeter"
SECOND = "second"

_MICROMETRES = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "inch": 25400.0,
    "in": 25400.0,
    "m": 1e6,
    "meter": 1e6,
}
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "millisecond": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture or stack as it lies in its file, read only as far as it is used.

    Parameters
    ----------
    data : numpy, dask or zarr array
        Pixels, in the order of `axes`.
    axes : str
        One capital letter for each axis of `data`, such as "ZYX"; "S" is the channels of a colour picture.
    spacing : dict of str to float
        Distance of neighbours along the axes where the file says so.
    units : dict of str to str
        Unit of each of those spacings: "micrometer", "millimeter" or "second".
    name : str
        Name of the file without its ending.
    rgb : bool
        Whether the last axis holds red, green and blue.
    metadata : dict
        What else the file says; "contrast_limits" holds (black, white) where it names a window.
    """

    data: Any
    axes: str
    spacing: dict[str, float] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    name: str = ""
    rgb: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def planes(self) -> Planes:
        """See the picture as planes of rows and columns."""
        both = "Y" in self.spacing and "X" in self.spacing
        spacing = (self.spacing["Y"], self.spacing["X"]) if both else None
        return Planes.of(self.data, rgb=self.rgb, spacing=spacing)


def micrometres(value: object, unit: object) -> float | None:
    """Convert a length to micrometres; None where value or unit make no sense."""
    return _converted(value, unit, _MICROMETRES)


def seconds(value: object, unit: object) -> float | None:
    """Convert a duration to seconds; None where value or unit make no sense."""
    return _converted(value, unit, _SECONDS)


def _converted(value: object, unit: object, factors: dict[str, float]) -> float | None:
    number = positive(value)
    if number is None or not isinstance(unit, str):
        return None
    plain = (
        unit.strip().replace("\\u00B5", "u").replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u")
    )
    plain = plain.lower().replace("metre", "meter")
    factor = factors.get(plain) or factors.get(plain.removesuffix("s"))
    # Rounding takes the last binary digit of 4.6 nm * 0.001 away, which would show in a window.
    return None if factor is None else float(f"{number * factor:.12g}")


def positive(value: object) -> float | None:
    """Return `value` as a positive finite float, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort so that plane2 comes before plane10."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", path.name.lower())
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    return sorted(paths, key=lambda path: (key(path), path.name))


_said: ContextVar[str | None] = ContextVar("axes that the user named", default=None)


@contextmanager
def said_axes(axes: str | None) -> Iterator[None]:
    """Take the axes of what is opened meanwhile for these."""
    token = _said.set(axes)
    try:
        yield
    finally:
        _said.reset(token)


def said_for(ndim: int) -> str | None:
    """What the user has said of the file that is being opened, if that fits its number of axes."""
    said = _said.get()
    return said if said is not None and len(said) == ndim else None


def named_axes(ndim: int, where: str) -> str:
    """Name the axes of a file that does not say what they are: planes, then a stack, then stacks over time.

    What the user has said of the file goes before.

    Raises
    ------
    InputError
        If there are fewer than two axes, or too many to guess.
    """
    said = said_for(ndim)
    if said is not None:
        return said
    if not 2 <= ndim <= 4:
        raise UnknownAxesError(
            f"{where} has {ndim} axes without names, and a picture or stack of 2 to 4 axes was expected: say once what "
            "they are, such as `zeroseg axes FILE TZCYX`, or save it as OME-TIFF or OME-Zarr, which name their axes."
        )
    return "TZYX"[4 - ndim :]


def check_real(dtype: np.dtype[Any], where: str) -> None:
    """Raise if pixels of this type are no picture.

    Raises
    ------
    InputTypeError
        If pixels are complex or not numbers.
    """
    if dtype.kind == "c":
        raise InputTypeError(f"{where} holds complex numbers: save their magnitude, numpy.abs, and open that.")
    if dtype.kind not in "iufb":
        raise InputTypeError(f"{where} holds {dtype} values, and a picture of integers or floats was expected.")


def without_alpha(data: LazyArray, where: str) -> LazyArray:
    """Drop the fourth channel of (..., H, W, 4), with a logged sentence."""
    if data.shape[-1] != 4:
        return data
    _log.info("%s has an alpha channel, which is left out: red, green and blue are used.", where)
    return data[(..., slice(3))]  # type: ignore[index, return-value]


class _ReadsPlanes:
    """The array that dask slices: every plane asked for is one call of `read`."""

    def __init__(
        self,
        read: Callable[[tuple[int, ...]], NDArray[Any]],
        index_shape: tuple[int, ...],
        plane_shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self._read = read
        self._index_shape = index_shape
        self.shape = index_shape + plane_shape
        self.ndim = len(self.shape)
        self.dtype = dtype

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        leading, within = key[: len(self._index_shape)], key[len(self._index_shape) :]
        chosen = [
            range(length)[part] if isinstance(part, slice) else [part]
            for part, length in zip(leading, self._index_shape, strict=True)
        ]
        planes = np.stack([self._read(index)[within] for index in product(*chosen)])
        kept = [len(c) for c, part in zip(chosen, leading, strict=True) if isinstance(part, slice)]
        return planes.reshape(*kept, *planes.shape[1:])


def lazy_planes(
    read: Callable[[tuple[int, ...]], NDArray[Any]],
    index_shape: tuple[int, ...],
    plane_shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> da.Array:
    """Join planes that `read` fetches into one lazy array of shape `index_shape` + `plane_shape`."""
    import dask.array as da

    source = _ReadsPlanes(read, index_shape, plane_shape, dtype)
    chunks = (*((1,) * n for n in index_shape), *((n,) for n in plane_shape))
    # Whether dask ships types depends on its version; this line reads the same with both.
    from_array: Callable[..., da.Array] = da.from_array
    return from_array(source, chunks=chunks, name=False, meta=np.empty((0,) * source.ndim, dtype))
