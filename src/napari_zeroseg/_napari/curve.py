"""The curve of certainty: one point a plane, those to look at marked; a click goes there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QHelpEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_zeroseg._napari.widgets import TONES

_LEFT, _RIGHT, _TOP, _BOTTOM = 26, 8, 8, 18
_LINE, _HERE = "#38bdf8", "#ffd21f"


@dataclass(frozen=True)
class CurveData:
    """What is drawn.

    Attributes
    ----------
    planes : range
        From left to right.
    certainty : mapping of int to float
        Mean of the objects by plane, 0 to 1.
    flagged : mapping of int to (str, float)
        Planes to look at: why, and the certainty of the object that it is about.
    outlined : collection of int
        Planes on which objects were outlined.
    threshold : float
        Below it a plane is flagged.
    """

    planes: range = range(0)
    certainty: Mapping[int, float] = field(default_factory=dict)
    flagged: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    outlined: Collection[int] = ()
    threshold: float = 0.8


class Curve(QWidget):
    """Certainty by plane.

    Parameters
    ----------
    parent : QWidget, optional
    """

    picked = Signal(int)
    """A plane was clicked on."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.data = CurveData()
        self._here: int | None = None
        self._text, self._grid = QColor("#d0d0d0"), QColor("#555555")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Certainty by plane")
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def sizeHint(self) -> QSize:  # noqa: N802
        """As wide as there is room, and high enough to tell 0.8 from 0.9."""
        return QSize(240, 110)

    def show_data(self, data: CurveData, here: int | None) -> None:
        """Draw this, with the plane `here` on the screen."""
        if (data, here) != (self.data, self._here):
            self.data, self._here = data, here
            self.update()

    def set_colours(self, text: str, grid: str) -> None:
        """Take the colours of a theme."""
        self._text, self._grid = QColor(text), QColor(grid)
        self.update()

    # Where things are

    def _area(self) -> QRectF:
        return QRectF(_LEFT, _TOP, self.width() - _LEFT - _RIGHT, self.height() - _TOP - _BOTTOM)

    def place_of(self, plane: int, certainty: float) -> QPointF:
        """Where a plane's point lies on this widget."""
        area, planes = self._area(), self.data.planes
        part = (plane - planes.start + 0.5) / max(1, len(planes))
        return QPointF(area.left() + part * area.width(), area.bottom() - certainty * area.height())

    def plane_at(self, x: float) -> int | None:
        """The plane at that distance from the left edge; None where there is none."""
        area, planes = self._area(), self.data.planes
        if not len(planes):
            return None
        number = int((x - area.left()) / area.width() * len(planes))
        return planes[min(max(number, 0), len(planes) - 1)]

    # Drawing

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802
        """Draw axes, curve and marks."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._draw_axes(painter)
        if len(self.data.planes):
            self._draw_here(painter)
            self._draw_line(painter)
            self._draw_marks(painter)
        painter.end()

    def _draw_axes(self, painter: QPainter) -> None:
        area, planes = self._area(), self.data.planes
        small = painter.font()
        small.setPointSizeF(max(6.0, small.pointSizeF() * 0.8))
        painter.setFont(small)
        painter.setPen(QPen(self._grid, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.drawLine(area.topLeft(), area.bottomLeft())
        painter.setPen(QPen(self._grid, 1, Qt.PenStyle.DashLine))
        y = area.bottom() - self.data.threshold * area.height()
        painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
        painter.setPen(self._text)
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for value in (0.0, self.data.threshold, 1.0):
            middle = area.bottom() - value * area.height()
            painter.drawText(QRectF(0, middle - 7, _LEFT - 4, 14), right, f"{value:g}")
        below = QRectF(area.left(), area.bottom() + 2, area.width(), _BOTTOM - 2)
        if len(planes):
            painter.drawText(below, Qt.AlignmentFlag.AlignLeft, str(planes[0]))
            painter.drawText(below, Qt.AlignmentFlag.AlignRight, str(planes[-1]))
        words = "plane" if len(planes) else "certainty by plane, once objects are propagated"
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, words)

    def _draw_here(self, painter: QPainter) -> None:
        if self._here in self.data.planes:
            assert self._here is not None
            painter.setPen(QPen(QColor(_HERE), 1))
            painter.drawLine(self.place_of(self._here, 0), self.place_of(self._here, 1))

    def _draw_line(self, painter: QPainter) -> None:
        known = {**self.data.certainty, **dict.fromkeys(self.data.outlined, 1.0)}
        painter.setPen(QPen(QColor(_LINE), 1.5))
        run: list[QPointF] = []
        for plane in [*self.data.planes, self.data.planes.stop]:
            if plane in known:
                run.append(self.place_of(plane, known[plane]))
                continue
            painter.drawPolyline(QPolygonF(run))
            run = []

    def _draw_marks(self, painter: QPainter) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        radius = 3.0 if len(self.data.planes) <= 60 else 1.5
        for plane in self.data.planes:
            value = 1.0 if plane in self.data.outlined else self.data.certainty.get(plane)
            if value is not None:
                painter.setBrush(QColor(TONES["good"] if plane in self.data.outlined else _LINE))
                painter.drawEllipse(self.place_of(plane, value), radius, radius)
        painter.setBrush(QColor(TONES["warning"]))
        for plane, (_, lowest) in self.data.flagged.items():
            # On the mean of many objects the one that it is about would not be seen.
            painter.drawEllipse(self.place_of(plane, lowest), 4.0, 4.0)

    # What the user does

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Go to the plane that was clicked on."""
        plane = self.plane_at(event.position().x())
        if plane is not None:
            self.picked.emit(plane)

    def event(self, event: QEvent) -> bool:
        """Tell of the plane below the pointer."""
        if isinstance(event, QHelpEvent):
            plane = self.plane_at(event.pos().x())
            QToolTip.showText(event.globalPos(), "" if plane is None else self.words_of(plane), self)
            return True
        return bool(super().event(event))

    def words_of(self, plane: int) -> str:
        """What is known of a plane."""
        told = f"plane {plane}"
        if plane in self.data.outlined:
            told += ": outlined"
        elif plane in self.data.certainty:
            told += f": certainty {self.data.certainty[plane]:.2f}"
        return f"{told}; look at it: {self.data.flagged[plane][0]}" if plane in self.data.flagged else told
