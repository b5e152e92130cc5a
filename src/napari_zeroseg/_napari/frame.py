"""The frame that docks share: one column to scroll, napari's theme, and the end when napari takes the dock away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from napari_zeroseg._napari.bridge import QtBridge
from napari_zeroseg._napari.layout import style_of

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Dock(QWidget):
    """A dock in a viewer.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        # napari hands plugins a proxy that wraps whatever is asked of it anew each time, so that no layer would be
        # the same object twice.
        self.viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.bridge = QtBridge(self)
        self._was_docked = False

    def event(self, event: QEvent) -> bool:
        """Let go when napari takes the dock away; it leaves this widget alive and without a parent."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._was_docked = True
            elif self._was_docked:
                self._let_go()
        return bool(super().event(event))

    def _let_go(self) -> None:
        """Stop following the viewer."""
        raise NotImplementedError

    def _lay_out(self, parts: Iterable[QWidget], width: int) -> None:
        """Put the parts below one another; the dock is never narrower than `width`, and lower parts are scrolled to."""
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(7)
        for part in parts:
            column.addWidget(part)
        column.addStretch(1)
        area = QScrollArea(self)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(content)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self.setMinimumWidth(width)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

    def _style(self) -> None:
        """Take the colours of napari's theme."""
        self.setStyleSheet(style_of(self.viewer.theme))
