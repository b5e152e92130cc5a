"""Single pictures without axes or spacing: PNG, JPEG and numpy's own files."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import ReadError
from napari_zeroseg.io.picture import Picture, check_real, named_axes, without_alpha

_log = logging.getLogger(__name__)

# These formats are decoded whole, into 3 GiB at this size in colour.
MOST_PIXELS = 1 << 30

_TO_GREY = {"1", "LA", "La"}
_AS_STORED = {"L", "I;16", "I;16B", "I;16L", "I", "F", "RGB"}
_pil_limit = threading.Lock()


def read_raster(path: Path) -> Picture:
    """Open a PNG or JPEG.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    Picture
        (H, W) uint8, uint16, int32 or float32, or (H, W, 3) uint8 or uint16; alpha is dropped with a logged
        sentence.

    Raises
    ------
    ReadError
        If the file is damaged or has more than 2^30 pixels.
    """
    from PIL import Image

    # Pillow's own limit is a guess about web servers; ours says what to do instead.
    with _pil_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            pixels = _decoded(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    rgb = pixels.ndim == 3
    return Picture(pixels, "YXS" if rgb else "YX", name=path.stem, rgb=rgb, metadata={"format": "PNG or JPEG"})


def _decoded(path: Path) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ReadError(
                    f"{path.name} has {height} x {width} pixels, more than the {MOST_PIXELS:,} that are read from a "
                    f"{image.format}: save it as tiled TIFF or OME-Zarr, which are read in parts."
                )
            if image.format == "PNG" and _is_deep_colour(path):
                return _deep_png(path)
            if image.mode in _TO_GREY | {"RGBA", "PA"} and image.mode != "1":
                _log.info("%s has an alpha channel, which is left out.", path.name)
            if image.mode not in _AS_STORED:
                pixels = np.asarray(image.convert("L" if image.mode in _TO_GREY else "RGB"))
            else:
                pixels = np.asarray(image)
    except ReadError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ReadError(f"{path.name} is damaged or truncated ({error}): copy or export it again.") from error
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _is_deep_colour(path: Path) -> bool:
    """Whether a PNG has 16 bits a channel and more than one channel, which Pillow would cut to 8."""
    with path.open("rb") as file:
        header = file.read(26)
    return header[24] == 16 and header[25] != 0


def _deep_png(path: Path) -> NDArray[Any]:
    import imagecodecs

    try:
        pixels = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except imagecodecs.PngError as error:
        raise ReadError(f"{path.name} is damaged or truncated ({error}): copy or export it again.") from error
    if pixels.shape[-1] == 2:
        _log.info("%s has an alpha channel, which is left out.", path.name)
        return pixels[..., 0]
    return np.asarray(without_alpha(pixels, path.name))


def read_npy(path: Path) -> Picture:
    """Open an array that numpy.save wrote, memory-mapped.

    Axes are taken as (row, column), (plane, row, column) or (time, plane, row, column); a last axis of 3 or 4 bytes
    is colour.

    Raises
    ------
    ReadError
        If the file is damaged, truncated, empty or holds Python objects.
    InputError, InputTypeError
        If its axes or values are no picture's.
    """
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReadError(
            f"{path.name} could not be read ({error}): an array of numbers, whole and written by numpy.save, was "
            "expected."
        ) from error
    check_real(data.dtype, path.name)
    if data.size == 0:
        raise ReadError(f"{path.name} holds no pixels (shape {data.shape}): a picture of at least 2 x 2 was expected.")
    rgb = data.ndim >= 3 and data.dtype == np.uint8 and data.shape[-1] in (3, 4)
    if rgb:
        data = without_alpha(data, path.name)
    axes = named_axes(data.ndim - rgb, path.name) + ("S" if rgb else "")
    return Picture(data, axes, name=path.stem, rgb=rgb, metadata={"format": "numpy"})
