"""What an evaluation found: figures, rows for a table, and text to read."""

from __future__ import annotations

import csv
import dataclasses
import math
import uuid
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from napari_zeroseg.evaluation.scores import InstanceScores, Interval
from napari_zeroseg.io.targets import explained, remove


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one thing: everything, a class, a plane, or an object.

    Attributes
    ----------
    kind : str
        "foreground" (everything that is labelled), "class", "plane" (the foreground of a plane), "class on plane",
        "object" (a true one) or "extra" (a predicted object without a match).
    label : int, optional
        The class or object, by its number in the truth; of an extra object in the prediction.
    plane : int, optional
        Where it is; of an object through several planes, the one where it is largest.
    row, column : int, optional
        A pixel of the object on that plane.
    match : int, optional
        The object of the other side that fits best, 0 if none overlaps.
    matched : bool, optional
        Whether they count as one object: one to one, with an IoU of at least 0.5.
    truth_size, prediction_size : int
        Pixels of the true and of the predicted one.
    iou, dice, precision, recall : float
        Of the pixels.
    assd, hd95, nsd : float
        Distances of the boundaries; nan where they were not measured.
    """

    kind: str
    label: int | None
    plane: int | None
    row: int | None
    column: int | None
    match: int | None
    matched: bool | None
    truth_size: int
    prediction_size: int
    iou: float
    dice: float
    precision: float
    recall: float
    assd: float = math.nan
    hd95: float = math.nan
    nsd: float = math.nan


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class Report:
    """A prediction against the truth.

    ``str(report)`` is a table to read. What each figure means is told in docs/evaluate.md.

    Attributes
    ----------
    mode : str
        "instances" (a label is an object) or "semantic" (a label is a class).
    per_plane : bool
        Whether objects and distances are those of each plane for itself.
    shape : tuple of int
    spacing : tuple of float
        Distance of neighbours along each axis.
    unit : str
        Of the spacing, tolerance and distances.
    tolerance : float
        What counts as agreement in `nsd`.
    foreground : Row
        Everything that is labelled against everything that is labelled.
    classes : tuple of Row
        In semantic mode, one for each class.
    planes : tuple of Row
        One for each plane; in semantic mode with several classes also one for each class on each plane.
    objects : tuple of Row
        In instances mode, one for each true object, then one for each predicted object without a match.
    instances : InstanceScores, optional
    intervals : dict of str to (low, high)
        95 % bootstrap intervals, over objects in instances mode and over planes in semantic mode.
    notes : tuple of str
        Sentences on what to mind when reading the figures.
    """

    mode: str
    per_plane: bool
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    tolerance: float
    foreground: Row
    classes: tuple[Row, ...] = ()
    planes: tuple[Row, ...] = ()
    objects: tuple[Row, ...] = ()
    instances: InstanceScores | None = None
    intervals: dict[str, Interval] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, as dictionaries with the fields of :class:`Row`."""
        everything = (self.foreground, *self.classes, *self.planes, *self.objects)
        return [dataclasses.asdict(row) for row in everything]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it; what is not defined or infinite is None."""
        figures: dict[str, Any] = dataclasses.asdict(self)
        if self.instances is not None:
            for plain, one in zip(figures["instances"]["thresholds"], self.instances.thresholds, strict=True):
                plain.update(precision=one.precision, recall=one.recall, f1=one.f1, ap=one.ap)
        cleaned: dict[str, Any] = _plain(figures)
        return cleaned

    def to_csv(self, path: str | PathLike[str]) -> Path:
        """Write the rows as CSV; what is not defined is an empty cell.

        Raises
        ------
        WriteError
            If it cannot be written; what was there before stays.
        """
        path = Path(path).expanduser()
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        with explained(path):
            try:
                with temporary.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows({name: _cell(value) for name, value in row.items()} for row in self.rows())
                temporary.replace(path)
            finally:
                remove(temporary)
        return path

    @property
    def summary(self) -> str:
        """The main figures in one line."""
        told = f"Foreground IoU {_figure(self.foreground.iou)}, Dice {_figure(self.foreground.dice)}"
        if self.instances is not None:
            one = self.instances
            at_half = one.thresholds[0]
            told += (
                f"; {at_half.tp} of {one.truth} objects found, {at_half.fp} without a match"
                f", F1 {_figure(at_half.f1)}, mean IoU {_figure(one.mean_iou)}"
            )
        elif len(self.classes) > 1:
            told += f"; mean over {len(self.classes)} classes IoU {_figure(self.mean_class_iou)}"
        return told + "."

    @property
    def mean_class_iou(self) -> float:
        """Mean IoU over the classes; nan without classes."""
        return sum(row.iou for row in self.classes) / len(self.classes) if self.classes else math.nan

    def __str__(self) -> str:
        from napari_zeroseg.evaluation.text import as_text

        return as_text(self)


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value
