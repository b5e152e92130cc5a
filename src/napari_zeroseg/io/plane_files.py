"""Labels of single planes in files of their own, for runs that are not finished."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import ReadError
from napari_zeroseg.io.targets import remove


def write_plane(file: Path, plane: NDArray[Any]) -> None:
    """Write one plane (H, W) as int32 TIFF, to a temporary name that is renamed.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    import tifffile

    temporary = file.with_name(f"{file.stem}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        tifffile.imwrite(temporary, plane.astype(np.int32, copy=False), compression="zlib", metadata=None)
        temporary.replace(file)
    finally:
        remove(temporary)


def read_plane(file: Path) -> NDArray[Any]:
    """Read one plane as it was kept.

    Raises
    ------
    ReadError
        If it is damaged.
    """
    import tifffile

    try:
        return np.asarray(tifffile.imread(file))
    except Exception as error:  # damaged files fail in as many ways as there are tags
        raise ReadError(f"{file} is damaged ({error}): delete it, so that its plane is done again.") from error
