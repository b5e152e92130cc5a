"""What a run keeps in its folder of what it has learnt: the best weights, rows of figures, the class."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_zeroseg.errors import ReadError, WriteError, ZerosegError
from napari_zeroseg.training.classes import ClassSegmenter, save_class
from napari_zeroseg.training.folder import RunFolder
from napari_zeroseg.weights.cards import CLASS_HEAD


def write_best(folder: RunFolder, weights: Mapping[str, Tensor]) -> None:
    """Keep weights in place of those that were the best before."""
    with _whole(folder.best) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, temporary)


def read_best(folder: RunFolder) -> dict[str, Tensor]:
    """Return the best weights of the run so far.

    Raises
    ------
    ReadError
        If they are missing or damaged.
    """
    try:
        return load_file(folder.best)
    except (OSError, SafetensorError) as error:
        raise ReadError(
            f"{folder.best}, the best weights of this run, cannot be read ({error}): put it back, or start anew."
        ) from error


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows of figures anew: what a run that was killed wrote after its last state is not twice in them."""
    with _whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_class(folder: RunFolder, head: ClassSegmenter | None) -> Path | None:
    """Write the class head as it will lie beside the weights; None where there is none."""
    if head is None:
        return None
    path = folder.path / CLASS_HEAD
    with room_in(folder.path):
        save_class(head, path)
    return path


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Say in a sentence what to do where something of a run cannot be written.

    Raises
    ------
    WriteError
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, ZerosegError):
            raise
        raise WriteError(
            f"What the run came to could not be written to {folder} ({error}): make room there, then go on with "
            "--resume."
        ) from error


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a path to write to in place of another, which is replaced once all is written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
