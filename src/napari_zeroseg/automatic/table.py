"""What was found as a table: rows of plain values, and CSV."""

from __future__ import annotations

import csv
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from napari_zeroseg.automatic.masks import AutomaticMask
from napari_zeroseg.errors import WriteError

COLUMNS = (
    *("label", "plane", "area", "predicted_iou", "stability_score"),
    *("row0", "column0", "row1", "column1"),
)
"""Columns that are always there."""


def row(label: int, plane: int, area: int, scores: tuple[float, float], box: Sequence[int]) -> dict[str, Any]:
    """One object as plain values, by the names of `COLUMNS`."""
    return dict(zip(COLUMNS, (label, plane, area, *(round(score, 4) for score in scores), *box), strict=True))


def table(masks: Sequence[AutomaticMask], plane: int = 0, first: int = 1) -> list[dict[str, Any]]:
    """Tell masks as rows of plain values.

    Parameters
    ----------
    masks : sequence of AutomaticMask
    plane : int
        Running number of their plane.
    first : int
        Label of the first, as for :func:`to_labels`.

    Returns
    -------
    list of dict
        label, plane, area (pixels of the whole mask, also where another one lies over it), predicted_iou,
        stability_score, and row0, column0, row1, column1 of the box, last pixels included.
    """
    return [
        row(first + i, plane, mask.area, (mask.predicted_iou, mask.stability_score), mask.box)
        for i, mask in enumerate(masks)
    ]


def checked_table(path: Path) -> Path:
    """Return where a table can be written.

    Raises
    ------
    WriteError
        If the ending is not .csv, or the folder is not there.
    """
    path = path.expanduser()
    if path.suffix.lower() != ".csv":
        raise WriteError(f"A table is written as CSV: give {path} the ending .csv.")
    if not path.parent.is_dir():
        raise WriteError(f"The folder {path.parent} for the table is not there: make it first.")
    return path


def write_table(path: str | PathLike[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as CSV, to a temporary name that is renamed at the end.

    Parameters
    ----------
    path : path-like
    rows : iterable of mapping
        All with the keys of the first. They are taken one by one, so a generator needs no memory.

    Raises
    ------
    WriteError
        If the ending is not .csv, or it cannot be written; what was there before stays.
    """
    path = checked_table(Path(path))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer: csv.DictWriter[str] | None = None
            for one in rows:
                if writer is None:
                    writer = csv.DictWriter(file, list(one))
                    writer.writeheader()
                writer.writerow(one)
            if writer is None:
                csv.writer(file).writerow(COLUMNS)
        temporary.replace(path)
    except OSError as error:
        raise WriteError(
            f"{path} could not be written ({error.strerror}): make room or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
