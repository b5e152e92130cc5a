"""TIFF of every kind, plane by plane: multi-page, ImageJ, OME, BigTIFF, tiled, compressed, folders of files."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, ReadError, UnknownAxesError, ZerosegError
from napari_zeroseg.io.picture import Picture, check_real, lazy_planes, named_axes, said_for, without_alpha
from napari_zeroseg.io.tiff_chain import check_chain
from napari_zeroseg.io.tiff_spacing import tiff_spacing

if TYPE_CHECKING:
    import tifffile

_log = logging.getLogger(__name__)
# tifffile tells the same faults in its own words; without a handler Python would print them beside our sentence.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_COLOUR = {"RGB", "YCBCR", "CIELAB"}


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the first series of a TIFF is laid out."""

    index_shape: tuple[int, ...]
    page_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    photometric: str
    offset: int | None  # of the pixels, where they lie uncompressed in one run
    whole_pages: bool  # whether each index is one page

    @property
    def shape(self) -> tuple[int, ...]:
        return self.index_shape + self.page_shape

    @property
    def is_mappable(self) -> bool:
        return self.offset is not None and not self.is_inverted

    @property
    def is_inverted(self) -> bool:
        """Whether 0 is white; as a one-bit mask that is a matter of taste and left alone."""
        return self.photometric == "MINISWHITE" and self.dtype.kind == "u"

    def inverted(self, pixels: NDArray[Any]) -> NDArray[Any]:
        return np.iinfo(self.dtype).max - pixels if self.is_inverted else pixels


def read_tiff(path: Path) -> Picture:
    """Open one TIFF.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    Picture
        Its pixels are memory-mapped, or read page by page when they are used.

    Raises
    ------
    ReadError
        If the file is no TIFF, or is truncated.
    InputError, InputTypeError
        If its axes or pixels are nothing that can be segmented.
    """
    with _opened(path) as tif:
        layout = _layout(tif, path)
        spacing, units = tiff_spacing(tif)
        if len(tif.series) > 1:
            _log.info("%s holds %d pictures of different shape; the first is opened.", path.name, len(tif.series))
    data = _mapped(path, layout) if layout.is_mappable else None
    if data is None:
        data = _by_page(path, layout) if layout.whole_pages else _decoded(path)
    return _picture(data, layout.axes, layout, spacing, units, path)


def read_tiff_stack(paths: Sequence[Path], name: str, faults: Mapping[int, str] | None = None) -> Picture:
    """Open several TIFFs, in the order given, as one stack.

    Parameters
    ----------
    paths : sequence of Path
    name : str
        Of the stack.
    faults : mapping of int to str, optional
        Why some of them, by place, are known to be no TIFF.

    Raises
    ------
    ReadError
        If none of them can be read; a damaged one is a plane that cannot be read.
    InputError
        If one has another shape or type than the first.
    """
    broken = dict(faults or {})
    layouts: dict[int, _Layout] = {}
    for number, path in enumerate(paths):
        if number in broken:
            continue
        try:
            with _opened(path) as tif:
                layouts[number] = _layout(tif, path)
                if len(layouts) == 1:
                    spans, (spacing, units) = _spans_files(tif), tiff_spacing(tif)
        except ReadError as error:
            _log.debug("Plane %d of %s cannot be read: %s", number, name, error)
            broken[number] = str(error)
            continue
        if spans:
            _log.info("%s names the other files of its stack; all of them are opened as it says.", path.name)
            return read_tiff(path)
    if not layouts:
        raise ReadError(broken[0])
    same = _common(layouts, paths)

    def read(index: tuple[int, ...]) -> NDArray[Any]:
        if index[0] in broken:
            raise ReadError(f"Plane {index[0]}: {broken[index[0]]}")
        try:
            return _Pages(paths[index[0]], same)(index[1:])
        except ReadError as error:
            raise ReadError(f"Plane {index[0]}: {error}") from error

    data = lazy_planes(read, (len(paths), *same.index_shape), same.page_shape, same.dtype)
    stack_axis = "Z" if "Z" not in same.axes else "T" if "T" not in same.axes else "Q"
    return _picture(data, stack_axis + same.axes, same, spacing, units, paths[0], name)


def _common(layouts: Mapping[int, _Layout], paths: Sequence[Path]) -> _Layout:
    """The layout of all files, by place."""
    model, first = next(iter(layouts.items()))
    for number, layout in layouts.items():
        if (layout.shape, layout.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"{paths[number].name} is {_words(layout)} but {paths[model].name} is {_words(first)}: all files of a "
                "stack must have one shape and type, so move the odd one out of the folder."
            )
    return first


def _words(layout: _Layout) -> str:
    return f"{' x '.join(map(str, layout.shape))} {layout.dtype.name}"


def _opened(path: Path) -> tifffile.TiffFile:
    import tifffile

    check_chain(path)
    try:
        return tifffile.TiffFile(path)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a damaged directory fails in as many ways as there are tags
        raise ReadError(f"{path.name} is a damaged TIFF ({error}): copy or export it again.") from error


def _layout(tif: tifffile.TiffFile, path: Path) -> _Layout:
    try:
        series = tif.series[0]
        page = series.keyframe
    except Exception as error:  # a damaged directory fails in as many ways as there are tags
        raise ReadError(f"{path.name} is a damaged TIFF ({error}): copy or export it again.") from error
    shape, tail = tuple(series.shape), tuple(page.shape)
    dtype = np.dtype(series.dtype).newbyteorder("=")
    check_real(dtype, path.name)
    if 0 in shape:
        raise ReadError(f"{path.name} holds no pixels: a picture of at least 2 x 2 was expected.")
    _check_promise(tif, int(np.prod(shape)) // int(np.prod(tail)), path)
    leading = shape[: len(shape) - len(tail)]
    whole = shape[len(leading) :] == tail and int(np.prod(leading)) == len(series.pages)
    return _Layout(
        index_shape=leading if whole else (),
        page_shape=tail if whole else shape,
        dtype=dtype,
        axes=_axes(series.axes, path),
        photometric=getattr(page.photometric, "name", "unknown"),
        offset=series.dataoffset,
        whole_pages=whole,
    )


def _check_promise(tif: tifffile.TiffFile, found: int, path: Path) -> None:
    """Raise if ImageJ wrote more planes than are left; without directories of their own they vanish silently."""
    metadata = tif.imagej_metadata if tif.is_imagej else None
    promised = (metadata or {}).get("images", 1)
    if isinstance(promised, int) and promised > found:
        raise ReadError(
            f"{path.name} is truncated: it says that it has {promised} planes, but not all of their pixels are there. "
            "Copy or export it again."
        )


def _spans_files(tif: tifffile.TiffFile) -> bool:
    """Whether the stack of this OME-TIFF goes on in other files, which it names."""
    return bool(tif.is_ome) and any(page is not None and page.parent is not tif for page in tif.series[0].pages)


def _axes(axes: str, path: Path) -> str:
    """Name the axes that the file leaves unknown."""
    axes = axes.upper().replace("I", "Q")
    unknown = axes.count("Q")
    if unknown == 0:
        return axes
    if unknown == 1:
        free = next(name for name in "ZTCQ" if name not in axes)
        return axes.replace("Q", free)
    samples = "S" if axes.endswith("S") else ""
    said = said_for(len(axes) - len(samples))
    if said is None and set(axes) & set("TZC"):
        raise UnknownAxesError(
            f"{path.name} has axes {axes} of unknown meaning (Q): say once what they are, such as "
            f"`zeroseg axes FILE TZCYX`, or save it as OME-TIFF."
        )
    return named_axes(len(axes) - len(samples), path.name) + samples


def _mapped(path: Path, layout: _Layout) -> NDArray[Any] | None:
    """Memory-map the run of pixels, or None where the file is too short for it."""
    with path.open("rb") as file:
        order = "<" if file.read(2) == b"II" else ">"
    dtype = layout.dtype.newbyteorder(order)  # type: ignore[arg-type]
    assert layout.offset is not None
    if layout.offset + int(np.prod(layout.shape, dtype=np.int64)) * dtype.itemsize > path.stat().st_size:
        if not layout.whole_pages:
            raise ReadError(f"{path.name} is truncated: its pixels go on behind its end. Copy or export it again.")
        return None
    mapped: NDArray[Any] = np.memmap(path, dtype, "r", layout.offset, layout.shape)
    return mapped


def _decoded(path: Path) -> NDArray[Any]:
    """Decode pages of a kind that is no plane (volumes, mosaics) into a temporary file."""
    with _opened(path) as tif:
        try:
            decoded: NDArray[Any] = tif.series[0].asarray(out="memmap")
        except Exception as error:  # decoders raise what they like
            raise ReadError(f"{path.name} could not be decoded ({error}): copy or export it again.") from error
    return decoded


def _by_page(path: Path, layout: _Layout) -> Any:
    pages = _Pages(path, layout)
    if not layout.index_shape:
        return pages(())
    return lazy_planes(pages, layout.index_shape, layout.page_shape, layout.dtype)


class _Pages:
    """Reads single pages; the file is open only while a page is read, and by one thread at a time."""

    def __init__(self, path: Path, layout: _Layout) -> None:
        self._path = path
        self._layout = layout
        self._tif: tifffile.TiffFile | None = None
        self._lock = threading.Lock()

    def __call__(self, index: tuple[int, ...]) -> NDArray[Any]:
        shape = self._layout.index_shape
        number = int(np.ravel_multi_index(index, shape)) if shape else 0
        name = f"Plane {number} of {self._path.name}" if shape else self._path.name
        with self._lock:
            try:
                return self._layout.inverted(self._read(number, name)).astype(self._layout.dtype, copy=False)
            except ZerosegError:
                raise
            except MemoryError as error:
                raise ReadError(
                    f"{name} says that it needs more memory than there is: if it is not that large, it is damaged; "
                    "copy or export it again."
                ) from error
            except FileNotFoundError as error:
                raise ReadError(f"{self._path.name} is no longer there: bring it back and try again.") from error
            except Exception as error:  # decoders raise what they like
                raise ReadError(f"{name} could not be decoded ({error}): copy or export it again.") from error

    def _read(self, number: int, name: str) -> NDArray[Any]:
        import tifffile

        if self._tif is None:
            self._tif = tifffile.TiffFile(self._path)
        else:
            self._tif.filehandle.open()
        handles = [self._tif.filehandle]
        try:
            page = self._tif.series[0].pages[number]
            if page is None:  # OME allows planes that were never acquired
                return np.zeros(self._layout.page_shape, self._layout.dtype)
            handles.append(page.parent.filehandle)  # that of another file where an OME stack spans several
            handles[-1].open()
            size = handles[-1].size
            ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False)]
            if ends and max(ends) > size:
                raise ReadError(
                    f"{name} is cut off: its pixels go on to byte {max(ends)} but the file ends at byte {size}. "
                    "Copy or export the file again."
                )
            pixels: NDArray[Any] = page.asarray().reshape(self._layout.page_shape)
            return pixels
        finally:
            for handle in handles:
                handle.close()


def _picture(
    data: Any,
    axes: str,
    layout: _Layout,
    spacing: dict[str, float],
    units: dict[str, str],
    path: Path,
    name: str | None = None,
) -> Picture:
    """Bring colour channels to the end and other channels in front of the rows."""
    rgb = False
    if "S" in axes:
        where = axes.index("S")
        samples = data.shape[where]
        axes = axes.replace("S", "")
        if samples in (3, 4) and layout.photometric in _COLOUR:
            data, rgb = without_alpha(np.moveaxis(data, where, -1), path.name), True
            axes += "S"
        elif samples == 2:
            _log.info("%s has an alpha channel, which is left out.", path.name)
            data = np.moveaxis(data, where, -1)[..., 0]
        else:
            row = axes.index("Y")
            axes = f"{axes[:row]}C{axes[row:]}"
            data = np.moveaxis(data, where, row)
    return Picture(
        data=data,
        axes=axes,
        spacing={axis: step for axis, step in spacing.items() if axis in axes},
        units={axis: unit for axis, unit in units.items() if axis in axes},
        name=name or path.name.removesuffix(path.suffix).removesuffix(".ome"),
        rgb=rgb,
        metadata={"format": "TIFF"},
    )
