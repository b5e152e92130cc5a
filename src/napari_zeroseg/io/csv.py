"""Prompts from CSV files: those that napari itself saves for Points and Shapes layers, and tables of boxes."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from os import PathLike
from pathlib import Path

from napari_zeroseg.errors import InputError, ReadError

# napari writes one table of one type, so True may arrive as "True", "1" or "1.0".
_SIGNS = {
    **dict.fromkeys(("positive", "true", "1", "1.0", "+", "+1", "foreground"), True),
    **dict.fromkeys(("negative", "false", "0", "0.0", "-", "-1", "-1.0", "background"), False),
}
_CORNERS = ("row0", "column0", "row1", "column1")
_NOTHING = {"", "nan", "none", "<na>"}


@dataclass(frozen=True, slots=True)
class PointRow:
    """One click.

    Parameters
    ----------
    plane : tuple of int
        Index along each of the axes in front of row and column; empty for a single picture.
    row, column : float
        In pixels of the plane.
    sign : bool
        True on the object, False on background.
    object : int or None
        Which object the click describes, where the file says so.
    """

    plane: tuple[int, ...]
    row: float
    column: float
    sign: bool = True
    object: int | None = None


@dataclass(frozen=True, slots=True)
class BoxRow:
    """One rectangle.

    Parameters
    ----------
    plane : tuple of int
        Index along each of the axes in front of row and column; empty for a single picture.
    box : tuple of float
        (row0, column0, row1, column1) in pixels of the plane, sorted.
    object : int or None
        Which object it holds, where the file says so.
    text : str or None
        What to find in it, where the file says so.
    class_ : str or None
        Number or name of its class, where the file says so.
    score : float or None
        How sure that is, where the file says so.
    where : str
        File and line, for what is wrong with it.
    """

    plane: tuple[int, ...]
    box: tuple[float, float, float, float]
    object: int | None = None
    text: str | None = None
    class_: str | None = None
    score: float | None = None
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the table; what is wrong in it is told with its place."""

    where: str
    cells: dict[str, str]

    def number(self, column: str) -> float:
        text = self.cells[column].strip()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{self.where}, column {column}: a number was expected, not '{text}'.")
        return value

    def whole(self, column: str) -> int | None:
        text = self.cells.get(column, "").strip()
        if text.lower() in _NOTHING:
            return None
        value = self.number(column)
        if not value.is_integer():
            raise InputError(f"{self.where}, column {column}: a whole number was expected, not '{text}'.")
        return int(value)

    def sign(self) -> bool:
        text = self.cells.get("sign", "").strip().lower()
        if text in _NOTHING:
            return True
        if text not in _SIGNS:
            raise InputError(f"{self.where}, column sign: 'positive' or 'negative' was expected, not '{text}'.")
        return _SIGNS[text]

    def text(self, column: str = "text") -> str | None:
        text = self.cells.get(column, "").strip()
        return None if text.lower() in _NOTHING else text

    def score(self) -> float | None:
        return None if self.text("score") is None else self.number("score")

    def place(self, axes: list[str]) -> tuple[tuple[int, ...], float, float]:
        """(plane, row, column); a point between two planes belongs to the nearer, as on the screen."""
        *plane, row, column = (self.number(axis) for axis in axes)
        return tuple(math.floor(index + 0.5) for index in plane), row, column


def read_points(path: str | PathLike[str]) -> list[PointRow]:
    """Read the CSV of a Points layer: axis-0, axis-1, ..., and the features sign and object if it has them.

    Parameters
    ----------
    path : path-like
        A file that napari saved.

    Returns
    -------
    list of PointRow
        In the order of the file; empty where the layer had no points.

    Raises
    ------
    ReadError
        If the file is missing, empty or no table of text.
    InputError
        If a column is missing, or a cell is not what its column holds.
    """
    path = Path(path).expanduser()
    columns, lines = _table(path)
    if "shape-type" in columns:
        raise InputError(f"{path.name} is the CSV of a Shapes layer: give it as boxes, or save the Points layer.")
    axes = _axes(columns, path)
    rows = []
    for line in lines:
        plane, row, column = line.place(axes)
        rows.append(PointRow(plane, row, column, line.sign(), line.whole("object")))
    return rows


def read_boxes(path: str | PathLike[str]) -> list[BoxRow]:
    """Read boxes: the CSV of a Shapes layer of rectangles, or a table with a line a box.

    Parameters
    ----------
    path : path-like
        A file that napari saved (index, shape-type, vertex-index, axis-0, axis-1, ...; napari leaves features out, but
        their columns may have been added), or one with the columns row0, column0, row1 and column1, and plane if it is
        of a stack. Both may have the columns object, class (a number or a name) and score; the first, text.

    Returns
    -------
    list of BoxRow
        In the order of the file. A rotated rectangle gives the upright box around it.

    Raises
    ------
    ReadError
        If the file is missing, empty or no table of text.
    InputError
        If a column is missing, a cell is not what its column holds, or a shape is no rectangle on one plane.
    """
    path = Path(path).expanduser()
    columns, lines = _table(path)
    if set(_CORNERS) <= set(columns):
        return [_line_box(line) for line in lines]
    for column in ("index", "shape-type"):
        if column not in columns:
            raise InputError(
                f"{path.name} has no column {column}: the CSV that napari saves for a Shapes layer was expected, or a "
                f"table with the columns {', '.join(_CORNERS)}."
            )
    axes = _axes(columns, path)
    return [_box(list(vertices), axes) for _, vertices in groupby(lines, key=lambda line: line.number("index"))]


def _box(vertices: list[_Line], axes: list[str]) -> BoxRow:
    first = vertices[0]
    kind = first.cells["shape-type"].strip().lower()
    if kind != "rectangle":
        raise InputError(f"{first.where}, column shape-type: 'rectangle' was expected, not '{kind}'.")
    planes, rows, columns = zip(*(vertex.place(axes) for vertex in vertices), strict=True)
    if len(set(planes)) > 1:
        raise InputError(f"{first.where}: the rectangle lies on several planes; draw it on one.")
    return _row(first, planes[0], rows, columns)


def _line_box(line: _Line) -> BoxRow:
    plane = line.whole("plane")
    r0, c0, r1, c1 = map(line.number, _CORNERS)
    return _row(line, () if plane is None else (plane,), (r0, r1), (c0, c1))


def _row(line: _Line, plane: tuple[int, ...], rows: Sequence[float], columns: Sequence[float]) -> BoxRow:
    box = (min(rows), min(columns), max(rows), max(columns))
    if box[0] == box[2] or box[1] == box[3]:
        raise InputError(f"{line.where}: the rectangle has no area; draw it around the object.")
    return BoxRow(plane, box, line.whole("object"), line.text(), line.text("class"), line.score(), line.where)


def _table(path: Path) -> tuple[list[str], list[_Line]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = [name.strip() for name in next(reader, [])]
            lines = list(_lines(reader, columns, path))
    except FileNotFoundError as error:
        raise ReadError(f"There is no file {path}: save the Points or Shapes layer as CSV from napari.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError(f"{path.name} could not be read as CSV ({error}): save the layer from napari again.") from error
    if not columns:
        raise ReadError(f"{path.name} is empty: save the Points or Shapes layer as CSV from napari.")
    return columns, lines


def _lines(reader: Iterator[list[str]], columns: list[str], path: Path) -> Iterator[_Line]:
    for number, cells in enumerate(reader, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path.name}, line {number}"
        if len(cells) != len(columns):
            raise InputError(f"{where}: {len(columns)} columns were expected, as in the first line, not {len(cells)}.")
        yield _Line(where, dict(zip(columns, cells, strict=True)))


def _axes(columns: list[str], path: Path) -> list[str]:
    axes = sorted((name for name in columns if re.fullmatch(r"axis-\d+", name)), key=lambda name: int(name[5:]))
    if len(axes) < 2:
        raise InputError(
            f"{path.name} has the columns {', '.join(columns)}; axis-0 and axis-1 (row and column), or more axes, were "
            "expected: save the layer as CSV from napari."
        )
    return axes
