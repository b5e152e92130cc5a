"""The four formats of labels, each written plane by plane so that a stack need not fit into memory."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import WriteError
from napari_zeroseg.io.label_zarr import ZarrLabels
from napari_zeroseg.io.picture import MICROMETRE, MILLIMETRE

_SHORT = {MICROMETRE: "um", MILLIMETRE: "mm"}
_LONGEST_NIFTI_AXIS = np.iinfo(np.int16).max


@dataclass(frozen=True, slots=True)
class LabelPlanes:
    """Labels as the formats want them: one plane after the other.

    Parameters
    ----------
    shape : tuple of int
        (H, W) or (Z, H, W).
    read : callable
        Gives plane 0, 1, ... as (H, W).
    dtype : dtype
        Type to store.
    largest : int
        The largest label of all planes.
    spacing : dict of str to float
        Distance of neighbours along "Z", "Y", "X" where known.
    unit : str
        "micrometer" or "millimeter".
    """

    shape: tuple[int, ...]
    read: Callable[[int], NDArray[Any]]
    dtype: np.dtype[Any]
    largest: int
    spacing: dict[str, float] = field(default_factory=dict)
    unit: str = MICROMETRE

    @property
    def count(self) -> int:
        """Number of planes."""
        return 1 if len(self.shape) == 2 else self.shape[0]

    @property
    def axes(self) -> str:
        """Letter of each axis."""
        return "ZYX"[3 - len(self.shape) :]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for index in range(self.count):
            yield np.ascontiguousarray(self.read(index), self.dtype)


Write = Callable[[Path, LabelPlanes], None]


def label_format(path: Path) -> Write:
    """Choose the format by the ending.

    Raises
    ------
    WriteError
        If the ending is none of those that are written.
    """
    for ending, write in _FORMATS.items():
        if path.name.lower().endswith(ending) and len(path.name) > len(ending):
            return write
    raise WriteError(f"Labels are written to files that end in {', '.join(_FORMATS)}; got '{path.name}'.")


def _write_tiff(path: Path, labels: LabelPlanes) -> None:
    """Write a TIFF that ImageJ opens as one stack, with its voxel size."""
    import tifffile

    dtype = np.dtype(np.uint16 if labels.largest <= np.iinfo(np.uint16).max else np.int32)
    unit = _SHORT.get(labels.unit, labels.unit)
    lines = ["ImageJ=1.54f", f"images={labels.count}"]
    if labels.count > 1:
        lines += [f"slices={labels.count}", "loop=false"]
    calibrated = "Y" in labels.spacing and "X" in labels.spacing
    if calibrated:
        lines.append(f"unit={unit}")
    if "Z" in labels.spacing:
        lines.append(f"spacing={labels.spacing['Z']:.12g}")
    lines += ["min=0.0", f"max={float(max(1, labels.largest))}"]
    with tifffile.TiffWriter(path, bigtiff=np.prod(labels.shape, dtype=float) * dtype.itemsize > 2**31) as tif:
        tif.write(
            (plane.astype(dtype) for plane in labels),
            shape=(labels.count, *labels.shape[-2:]),
            dtype=dtype,
            photometric="minisblack",
            compression="zlib",
            description="\n".join(lines) + "\n",
            metadata=None,
            resolution=(1 / labels.spacing["X"], 1 / labels.spacing["Y"]) if calibrated else None,
            resolutionunit="NONE" if calibrated else None,
        )


def _write_zarr(path: Path, labels: LabelPlanes) -> None:
    written = ZarrLabels(path)
    written.create(labels.shape, labels.dtype, labels.spacing, labels.unit)
    for index, plane in enumerate(labels):
        written.write(index, plane)
    written.finish()


def _write_npy(path: Path, labels: LabelPlanes) -> None:
    # Not numpy's memory map: on a full disk that ends the process instead of raising.
    header = {"descr": np.lib.format.dtype_to_descr(labels.dtype), "fortran_order": False, "shape": labels.shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for plane in labels:
            file.write(plane.tobytes())


def _write_nifti(path: Path, labels: LabelPlanes) -> None:
    """Write the header and then the planes, whose bytes are in NIfTI's order (x fastest) as they are."""
    import nibabel

    image: Callable[..., Any] = nibabel.Nifti1Image  # without types of its own
    shape = (*labels.shape[:0:-1], labels.shape[0]) if len(labels.shape) == 3 else labels.shape[::-1]
    if max(shape) > _LONGEST_NIFTI_AXIS:
        raise WriteError(f"NIfTI holds at most {_LONGEST_NIFTI_AXIS} pixels along an axis: write .tif or .ome.zarr.")
    steps = [labels.spacing.get(axis, 1.0) for axis in "XYZ"]
    # Columns run to the patient's left and rows to the back, as ITK takes a picture that does not say.
    affine = np.diag([-steps[0], -steps[1], steps[2], 1.0])
    header = image(np.broadcast_to(np.zeros((), labels.dtype), shape), affine).header
    header.set_xyzt_units("micron" if labels.unit == MICROMETRE and labels.spacing else "mm")
    header["vox_offset"] = 352
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0) as file:
        header.write_to(file)
        file.write(b"\0" * (352 - file.tell()))
        for plane in labels:
            file.write(plane.tobytes())


_FORMATS: dict[str, Write] = {
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
    ".ome.zarr": _write_zarr,
    ".npy": _write_npy,
    ".nii.gz": _write_nifti,
}
