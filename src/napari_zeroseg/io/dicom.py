"""DICOM pictures: pixel spacing, rescaled values, the right way round, with their window."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import InputError, ReadError
from napari_zeroseg.io.picture import MILLIMETRE, Picture, positive

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

_log = logging.getLogger(__name__)

_Otherwise = TypeVar("_Otherwise", float, None)

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
# Groups that can open a file without preamble, in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


def is_bare_dicom(path: Path, head: bytes) -> bool:
    """Whether a file that begins with `head` is DICOM without the usual preamble and mark."""
    if head[:2] not in _FIRST_GROUPS:
        return False
    try:
        header = _header(path)
    except ReadError:
        return False
    return "SOPClassUID" in header or "Rows" in header


def read_dicom(path: Path) -> Picture:
    """Open one DICOM file.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    Picture
        (H, W), (Z, H, W) or colour with a last axis of 3, in the units of the rescale slope; larger is brighter,
        so MONOCHROME1 is inverted. Spacing is in millimetres; the file's window is in
        ``metadata["contrast_limits"]``.

    Raises
    ------
    ReadError
        If the file is damaged, truncated or compressed in a way that no installed decoder reads.
    InputError
        If it holds no picture.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dataset = _dataset(path)
        pixels = _pixels(dataset, path)
        picture = _picture(dataset, pixels, path)
    for warning in told:
        _log.info("%s: %s", path.name, warning.message)
    return picture


def _header(path: Path) -> FileDataset:
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(path, force=True, specific_tags=["SOPClassUID", "Rows"], stop_before_pixels=True)
        except Exception as error:  # damaged headers fail in as many ways as there are tags
            raise ReadError(f"{path.name} is a damaged DICOM ({error}): export it again.") from error


def _dataset(path: Path) -> FileDataset:
    import pydicom

    try:
        dataset = pydicom.dcmread(path, force=True)
        has_pixels = any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    except Exception as error:  # damaged headers fail in as many ways as there are tags
        raise ReadError(f"{path.name} is a damaged DICOM ({error}): export it again.") from error
    if not has_pixels:
        kind = dataset.get("Modality") or "of no modality"
        raise InputError(f"{path.name} is a DICOM file without a picture ({kind}): open one that has pixels.")
    return dataset


def _pixels(dataset: FileDataset, path: Path) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    if "TransferSyntaxUID" not in dataset.file_meta:
        little, explicit = dataset.original_encoding[1], not dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = UID(_plain_syntax(bool(little), explicit))
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        if not get_decoder(syntax).is_available:
            raise ReadError(
                f"{path.name} is compressed as {syntax.name}, for which no decoder is installed: install them with "
                "'pip install pylibjpeg[all]', or export the file uncompressed."
            )
    except NotImplementedError as error:
        raise ReadError(f"{path.name} is compressed as {syntax.name}, which is no picture: export it again.") from error
    try:
        pixels = np.asarray(dataset.pixel_array)
        if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            pixels = _coloured(pixels, dataset)
    except Exception as error:  # decoders raise what they like
        reason = " ".join(str(error).split()).rstrip(":. ") or type(error).__name__
        if syntax.is_compressed:
            raise ReadError(
                f"The decoders that are installed cannot decode {path.name}, {syntax.name} ({reason}): if other "
                "programs can, install more with 'pip install pylibjpeg[all]'; otherwise export it again."
            ) from error
        raise ReadError(f"The pixels of {path.name} are damaged or truncated ({reason}): export it again.") from error
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _coloured(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    """Look colours up in the palette, whose entries fill 16 bits or, against the standard, the lower 8."""
    from pydicom.pixels.processing import apply_color_lut

    colours = np.asarray(apply_color_lut(pixels, dataset))[..., :3]
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def _plain_syntax(little: bool, explicit: bool) -> str:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not little:
        return ExplicitVRBigEndian
    return ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian


def _picture(dataset: FileDataset, pixels: NDArray[Any], path: Path) -> Picture:
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    rgb = int(dataset.get("SamplesPerPixel", 1)) == 3 or photometric == "PALETTE COLOR"
    metadata: dict[str, Any] = {
        "format": "DICOM",
        "modality": str(dataset.get("Modality", "")),
        "photometric": photometric,
        "inverted": photometric == "MONOCHROME1",
    }
    limits = None
    if not rgb:
        stored = _stored_range(dataset, pixels)
        pixels, ends = _rescaled(dataset, pixels, stored)
        limits = _window(dataset)
        if metadata["inverted"]:
            pixels = _fitting(_mirrored(pixels, ends), ends)
            limits = limits and (ends[0] + ends[1] - limits[1], ends[0] + ends[1] - limits[0])
            metadata["note"] = "Stored as MONOCHROME1 (larger is darker); inverted here so that larger is brighter."
    if limits:
        metadata["contrast_limits"] = limits
    axes = ("Z" if pixels.ndim - rgb == 3 else "") + "YX" + ("S" if rgb else "")
    spacing = _spacing(dataset, path) if "Z" in axes else {k: v for k, v in _spacing(dataset, path).items() if k != "Z"}
    name = path.stem if path.suffix.lower() in (".dcm", ".dicom", ".ima") else path.name
    return Picture(pixels, axes, spacing, dict.fromkeys(spacing, MILLIMETRE), name, rgb, metadata)


def _stored_range(dataset: Dataset, pixels: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value that the file can hold, widened where its pixels disagree with its header."""
    low, high = float(pixels.min()), float(pixels.max())
    bits = dataset.get("BitsStored")
    if bits is None or pixels.dtype.kind == "f":
        return low, high
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    first = -(2.0 ** (int(bits) - 1)) if signed else 0.0
    return min(low, first), max(high, first + 2.0 ** int(bits) - 1)


def _rescaled(
    dataset: Dataset, pixels: NDArray[Any], stored: tuple[float, float]
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Values in the modality's own unit, and the range that they can have."""
    if "ModalityLUTSequence" in dataset:
        from pydicom.pixels.processing import apply_modality_lut

        values = apply_modality_lut(pixels, dataset)
        return values, (float(values.min()), float(values.max()))
    slope = _number(_anywhere(dataset, "RescaleSlope", "PixelValueTransformationSequence"), 1.0) or 1.0
    intercept = _number(_anywhere(dataset, "RescaleIntercept", "PixelValueTransformationSequence"), 0.0)
    low, high = sorted((stored[0] * slope + intercept, stored[1] * slope + intercept))
    if slope == 1 and intercept == 0:
        return _fitting(pixels, (low, high)), (low, high)
    if slope.is_integer() and intercept.is_integer() and pixels.dtype.kind != "f":
        return _fitting(_wide(pixels) * int(slope) + int(intercept), (low, high)), (low, high)
    return (pixels * np.float32(slope) + np.float32(intercept)).astype(np.float32), (low, high)


def _mirrored(pixels: NDArray[Any], ends: tuple[float, float]) -> NDArray[Any]:
    """Swap dark and bright within `ends`."""
    return (int(ends[0] + ends[1]) if pixels.dtype.kind in "iu" else ends[0] + ends[1]) - _wide(pixels)


def _wide(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels.astype(np.int64) if pixels.dtype.kind in "iu" else pixels


def _fitting(pixels: NDArray[Any], ends: tuple[float, float]) -> NDArray[Any]:
    """Store integers in the smallest type that holds the range `ends`."""
    if pixels.dtype.kind not in "iu":
        return pixels.astype(np.float32, copy=False)
    for dtype in (np.uint8, np.uint16, np.int16, np.uint32, np.int32):
        if np.iinfo(dtype).min <= ends[0] and ends[1] <= np.iinfo(dtype).max:
            return pixels.astype(dtype)
    return pixels.astype(np.float64)


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Black and white of the first window, or of the lookup table, in rescaled values."""
    centre = _number(_anywhere(dataset, "WindowCenter", "FrameVOILUTSequence"), None)
    width = positive(_number(_anywhere(dataset, "WindowWidth", "FrameVOILUTSequence"), None))
    if centre is not None and width is not None:
        if dataset.get("VOILUTFunction", "LINEAR") != "LINEAR" or width <= 1:
            return centre - width / 2, centre + width / 2
        # DICOM PS3.3 C.11.2.1.2.1: the default function is half a step off the middle.
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return _table_limits(dataset)


def _table_limits(dataset: Dataset) -> tuple[float, float] | None:
    """Where the table of the VOI LUT Sequence leaves its darkest and reaches its brightest value."""
    sequence = dataset.get("VOILUTSequence")
    if not sequence:
        return None
    try:
        first = float(sequence[0].LUTDescriptor[1])
        data = sequence[0].LUTData
        table = np.frombuffer(data, np.uint16) if isinstance(data, bytes) else np.asarray(data)
        low, high = first + float(np.flatnonzero(table > table.min())[0]) - 1, first + float(np.argmax(table))
    except (AttributeError, IndexError, TypeError, ValueError):
        _log.info("The VOI lookup table cannot be read and is left out.")
        return None
    return (low, high) if low < high else None


def _spacing(dataset: Dataset, path: Path) -> dict[str, float]:
    """Millimetres between pixels, rows first as DICOM has them too."""
    spacing = {}
    for name in _SPACINGS:
        value = _anywhere(dataset, name, "PixelMeasuresSequence")
        if value is None or isinstance(value, (str, float, int)) or len(value) != 2:
            continue
        row, column = positive(value[0]), positive(value[1])
        if row and column:
            spacing = {"Y": row, "X": column}
            break
        _log.info("%s says that its pixels are %s mm apart, which is taken as unknown.", path.name, list(value))
    between = positive(_number(_anywhere(dataset, "SpacingBetweenSlices", "PixelMeasuresSequence"), None))
    return {"Z": between, **spacing} if between else spacing


def _anywhere(dataset: Dataset, name: str, macro: str) -> Any:
    """Find an element in the file itself, or in the groups that multi-frame files share or start with."""
    value = dataset.get(name)
    if value is not None:
        return value
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in list(dataset.get(groups) or [])[:1]:
            for item in list(group.get(macro) or [])[:1]:
                if item.get(name) is not None:
                    return item.get(name)
    return None


def _number(value: object, otherwise: _Otherwise) -> float | _Otherwise:
    """Return the first number of an element that may hold several, none or nonsense."""
    from pydicom.multival import MultiValue

    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return otherwise
    return number if np.isfinite(number) else otherwise
