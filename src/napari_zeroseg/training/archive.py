"""Zip files that are written whole or not at all, and never over another one unasked."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from napari_zeroseg.errors import WriteError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.weights.blocks import blocks_of


def target_of(path: str | Path, overwrite: bool) -> Path:
    """Return where an archive goes; ".zip" is added where there is no ending.

    Raises
    ------
    WriteError
        If a file of that name is there and may not be replaced.
    """
    path = Path(path).expanduser()
    path = path if path.suffix else path.with_suffix(".zip")
    if path.exists() and not overwrite:
        raise WriteError(f"{path} is there already: choose another name, or say that it may be overwritten.")
    return path


def write_archive(path: Path, fill: Callable[[zipfile.ZipFile], None], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive that `fill` puts its files into.

    Raises
    ------
    WriteError
        If the disk is full or read-only; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", compression) as archive:
            fill(archive)
        temporary.replace(path)
    except OSError as error:
        raise WriteError(
            f"{path} could not be written ({error.strerror}): make room, or choose another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def put_into(archive: zipfile.ZipFile, file: Path, name: str, cancel: CancelToken | None = None) -> None:
    """Write a file into an archive, unless `cancel` is raised meanwhile."""
    entry = zipfile.ZipInfo.from_file(file, name)
    entry.compress_type = archive.compression
    with file.open("rb") as read, archive.open(entry, "w") as written:
        for block in blocks_of(read, cancel):
            written.write(block)


def take_out(archive: zipfile.ZipFile, name: str, folder: Path, cancel: CancelToken | None = None) -> Path:
    """Write a file of an archive into a folder, unless `cancel` is raised meanwhile; `name` is one without folders."""
    file = folder / name
    with archive.open(name) as read, file.open("wb") as written:
        for block in blocks_of(read, cancel):
            written.write(block)
    return file
