"""The rows of an evaluation as a table that sorts by numbers, however many rows there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from napari_zeroseg.evaluation.report import Report, Row

KINDS = (
    ("object", "Objects", "True objects, and predicted ones without a match"),
    ("class", "Classes", "One row for each class"),
    ("plane", "Planes", "Everything that is labelled, plane by plane"),
)
_Index = QModelIndex | QPersistentModelIndex
_NO_INDEX = QModelIndex()

_COLUMNS: tuple[tuple[str, str, Callable[[Row], Any]], ...] = (
    ("Label", "Its number in the truth; + for a predicted object without a match", lambda row: row.label),
    ("Plane", "An object is shown where it is largest", lambda row: row.plane),
    ("IoU", "", lambda row: row.iou),
    ("Dice", "", lambda row: row.dice),
    ("Match", "The label of the other layer that fits best", lambda row: row.match),
    ("Found", "Whether both count as one object: an IoU of at least 0.5", lambda row: row.matched),
    ("Prec.", "Precision", lambda row: row.precision),
    ("Recall", "", lambda row: row.recall),
    ("HD95", "95 % of the boundaries are nearer to each other", lambda row: row.hd95),
    ("ASSD", "Mean distance of the boundaries", lambda row: row.assd),
    ("True px", "Pixels of the true one", lambda row: row.truth_size),
    ("Pred. px", "Pixels of the predicted one", lambda row: row.prediction_size),
)
_DISTANCES = ("HD95", "ASSD")


def rows_of_kind(report: Report, kind: str) -> tuple[Row, ...]:
    """Rows of a report to show: "object", "class" or "plane"."""
    return {"object": report.objects, "class": report.classes, "plane": report.planes}[kind]


class RowTable(QAbstractTableModel):
    """Rows of a report, of one kind.

    Parameters
    ----------
    parent : QObject
    """

    IOU = 2
    """Column of the IoU."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._rows: list[Row] = []
        self._unit = "px"

    def show_rows(self, rows: Sequence[Row], unit: str) -> None:
        """Show these rows, with distances in `unit`."""
        self.beginResetModel()
        self._rows, self._unit = list(rows), unit
        self.endResetModel()

    def row_at(self, number: int) -> Row:
        """The row that is shown there."""
        return self._rows[number]

    def rowCount(self, parent: _Index = _NO_INDEX) -> int:  # noqa: N802
        """Number of rows."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: _Index = _NO_INDEX) -> int:  # noqa: N802
        """Number of columns."""
        return 0 if parent.isValid() else len(_COLUMNS)

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text of a cell."""
        if not index.isValid() or role != Qt.ItemDataRole.DisplayRole:
            return None
        one = self._rows[index.row()]
        text = _as_text(_COLUMNS[index.column()][2](one))
        return f"+ {text}" if one.kind == "extra" and index.column() == 0 else text

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        """Name and explanation of a column."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        name, explanation, _ = _COLUMNS[section]
        if role == Qt.ItemDataRole.ToolTipRole:
            return explanation or name
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        return f"{name} ({self._unit})" if name in _DISTANCES else name

    def sort(self, number: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column's values; what is not defined comes last either way."""
        if not 0 <= number < len(_COLUMNS):
            return
        value = _COLUMNS[number][2]
        self.layoutAboutToBeChanged.emit()
        known = [one for one in self._rows if _is_known(value(one))]
        unknown = [one for one in self._rows if not _is_known(value(one))]
        self._rows = sorted(known, key=value, reverse=order == Qt.SortOrder.DescendingOrder) + unknown
        self.layoutChanged.emit()


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _as_text(value: Any) -> str:
    if not _is_known(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else f"{value}"
