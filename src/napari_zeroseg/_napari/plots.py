"""Small line plots: curves with a legend over one horizontal axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 18, 6
_MOST_POINTS = 400


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes
    ----------
    name : str
        In the legend; "" has no place there.
    points : sequence of (x, y)
        In ascending order of x.
    colour : str
    dashed : bool
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


class LinePlot(QWidget):
    """Draws lines, scaled to what there is.

    Parameters
    ----------
    title : str
        For screen readers.
    """

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.lines: tuple[Line, ...] = ()
        self._end = 1.0
        self._text, self._grid = QColor("#d0d0d0"), QColor("#555555")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(title)
        self.setToolTip(title)

    def sizeHint(self) -> QSize:  # noqa: N802
        """As wide as there is room."""
        return QSize(240, 92)

    def show_lines(self, lines: Sequence[Line], end: float) -> None:
        """Draw these lines, from 0 to `end`."""
        if (tuple(lines), end) != (self.lines, self._end):
            self.lines, self._end = tuple(lines), max(1.0, end)
            self.update()

    def set_colours(self, text: str, grid: str) -> None:
        """Take the colours of a theme."""
        self._text, self._grid = QColor(text), QColor(grid)
        self.update()

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value that is drawn, with a little room."""
        values = [y for line in self.lines for _, y in line.points if math.isfinite(y)]
        if not values:
            return 0.0, 1.0
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or 0.05
        return low - room, high + room

    def place_of(self, x: float, y: float) -> QPointF:
        """Where a point lies on this widget."""
        area = self._area()
        low, high = self.limits
        return QPointF(
            area.left() + x / self._end * area.width(), area.bottom() - (y - low) / (high - low) * area.height()
        )

    def _area(self) -> QRectF:
        return QRectF(_LEFT, _TOP, self.width() - _LEFT - _RIGHT, self.height() - _TOP - _BOTTOM)

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802
        """Draw axes, legend and lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._draw_axes(painter)
        left = float(_LEFT)
        for line in self.lines:
            pen = QPen(QColor(line.colour), 1.5)
            painter.setPen(pen)
            if line.name:
                width = painter.fontMetrics().horizontalAdvance(line.name) + 12
                painter.drawText(QRectF(left, 0, width, _TOP - 2), Qt.AlignmentFlag.AlignLeft, line.name)
                left += width
            if line.dashed:
                pen.setStyle(Qt.PenStyle.DashLine)
                painter.setPen(pen)
            places = [self.place_of(x, y) for x, y in _thinned(line.points) if math.isfinite(y)]
            painter.drawPolyline(QPolygonF(places))
            if len(places) <= 40 and not line.dashed:
                painter.setBrush(QColor(line.colour))
                for place in places:
                    painter.drawEllipse(place, 2.0, 2.0)
        painter.end()

    def _draw_axes(self, painter: QPainter) -> None:
        area = self._area()
        small = painter.font()
        small.setPointSizeF(max(6.0, small.pointSizeF() * 0.8))
        painter.setFont(small)
        painter.setPen(QPen(self._grid, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.drawLine(area.topLeft(), area.bottomLeft())
        if any(len(line.points) for line in self.lines):
            painter.setPen(self._text)
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            for value, y in zip(self.limits, (area.bottom() - 6, area.top() + 6), strict=True):
                painter.drawText(QRectF(0, y - 7, _LEFT - 3, 14), right, in_short(value))


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbouring points where there are more than can be told apart."""
    step = -(-len(points) // _MOST_POINTS)
    if step <= 1:
        return list(points)
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def in_two_rows(picture: QPixmap) -> QPixmap:
    """Square panels that lie beside one another, in two rows, so that they are larger in a narrow dock."""
    side, count = picture.height(), round(picture.width() / max(1, picture.height()))
    if count < 2:
        return picture
    columns = -(-count // 2)
    made = QPixmap(columns * side, 2 * side)
    made.fill(Qt.GlobalColor.transparent)
    painter = QPainter(made)
    painter.drawPixmap(0, 0, picture.copy(0, 0, columns * side, side))
    painter.drawPixmap(0, side, picture.copy(columns * side, 0, picture.width() - columns * side, side))
    painter.end()
    return made


def in_short(value: float) -> str:
    """A value for an axis: two digits behind the point, or the power of ten of what would be 0.00."""
    return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 0.005 else f"{value:.2f}"
