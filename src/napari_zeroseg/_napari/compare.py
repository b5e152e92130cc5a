"""The window that compares models: a choice of models, their answers side by side, how far they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QCloseEvent, QImage, QPixmap
from qtpy.QtWidgets import (
    QDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_zeroseg._napari.layout import button, row, style_of
from napari_zeroseg.prompts import PromptKind

if TYPE_CHECKING:
    from napari_zeroseg._napari.comparing import Candidate
    from napari_zeroseg._napari.session import Session

SIDE = 220
"""Pixels of a thumbnail."""
_TINT = np.array([255, 210, 31], np.float32)
_OPACITY = 0.45
_LIST_ROWS = 6


class CompareWindow(QDialog):
    """Shows a :class:`Comparing` and passes on what the user does.

    Parameters
    ----------
    session : Session
    parent : QWidget
        With which it goes away.
    """

    def __init__(self, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self._session = session
        self._comparing = session.comparing
        self._shown: list[Candidate] = []
        self.picks: list[QWidget] = []
        self.setWindowTitle("Compare models")
        self.setStyleSheet(style_of(session.viewer.theme))
        self.resize(760, 680)
        self._build()
        self._comparing.changed.connect(self._refresh)
        session.models.changed.connect(self._refresh_models)
        self.destroyed.connect(lambda _=None, comparing=self._comparing: comparing.cancel())
        self._refresh_models()
        self._refresh()

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        """Ask no further models when the user is done."""
        self._comparing.cancel()
        super().closeEvent(event)

    def _build(self) -> None:
        heading = QLabel("Asks each model what is marked for the object at hand, or the words of the text line.")
        heading.setWordWrap(True)
        self.models = QListWidget()
        self.models.setFixedHeight(_LIST_ROWS * (self.models.fontMetrics().lineSpacing() + 2))
        self.run = button("Compare", "Ask the chosen models one after another")
        self.stop = button("Stop", "Ask no further models; the answers that are there stay")
        self.status = QLabel()
        self._cards = QWidget()
        self._cards_row = QHBoxLayout(self._cards)
        self._cards_row.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setWidget(self._cards)
        self._table = QWidget()
        self._grid = QGridLayout(self._table)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(14)
        self._grid.setAlignment(Qt.AlignmentFlag.AlignLeft)
        column = QVBoxLayout(self)
        column.addWidget(heading)
        column.addWidget(self.models)
        column.addWidget(row(self.run, self.stop, self.status))
        column.addWidget(area, 1)
        column.addWidget(self._table)
        self.run.clicked.connect(lambda: self._comparing.start(self.chosen))
        self.stop.clicked.connect(lambda: self._comparing.cancel())

    @property
    def chosen(self) -> list[str]:
        """Keys of the models that are ticked."""
        items = [self.models.item(i) for i in range(self.models.count())]
        return [item.data(Qt.ItemDataRole.UserRole) for item in items if item.checkState() == Qt.CheckState.Checked]

    def choose(self, keys: list[str]) -> None:
        """Tick these models and no others."""
        for i in range(self.models.count()):
            item = self.models.item(i)
            there = item.data(Qt.ItemDataRole.UserRole) in keys
            item.setCheckState(Qt.CheckState.Checked if there else Qt.CheckState.Unchecked)

    def _refresh_models(self) -> None:
        ready = [entry.spec for entry in self._session.models.zoo.entries.values() if entry.is_ready]
        listed = [self.models.item(i).data(Qt.ItemDataRole.UserRole) for i in range(self.models.count())]
        if [spec.key for spec in ready] == listed:
            return
        ticked = self.chosen if listed else [spec.key for spec in ready][:4]
        self.models.clear()
        for spec in ready:
            item = QListWidgetItem(f"{spec.title}  ({', '.join(kind for kind in PromptKind if kind in spec.accepts)})")
            item.setData(Qt.ItemDataRole.UserRole, spec.key)
            self.models.addItem(item)
        self.choose(ticked)

    def _refresh(self) -> None:
        comparing = self._comparing
        self.run.setEnabled(not comparing.is_running)
        self.stop.setEnabled(comparing.is_running)
        if comparing.is_running:
            self.status.setText(f"Asking {self._session.models.spec_of(comparing.waiting[0].key).title} …")
        else:
            self.status.setText("" if comparing.candidates else "Mark an object on the plane, then compare.")
        if comparing.candidates != self._shown:
            self._shown = list(comparing.candidates)
            self._show_cards()
            self._show_table()

    def _show_cards(self) -> None:
        _empty(self._cards_row)
        window = self._comparing.window()
        self.picks = []
        for candidate in self._shown:
            card = QWidget()
            card.setFixedWidth(SIDE + 10)
            column = QVBoxLayout(card)
            column.setContentsMargins(0, 0, 0, 0)
            title = QLabel(candidate.title)
            title.setObjectName("zeroseg_title")
            column.addWidget(title)
            if candidate.answer is None or candidate.picture is None or candidate.mask is None:
                problem = QLabel(candidate.problem)
                problem.setWordWrap(True)
                column.addWidget(problem)
            else:
                picture = QLabel()
                picture.setPixmap(thumbnail(candidate.picture[window], candidate.mask[window]))
                column.addWidget(picture)
                column.addWidget(QLabel(f"score {candidate.score:.2f} · {candidate.pixels:,} px"))
                column.addWidget(QLabel(f"{candidate.answer.seconds:.2g} s on {candidate.answer.device}"))
                pick = button("Use this", f"Make this the preview, and {candidate.title} the model in use")
                pick.clicked.connect(lambda _=False, candidate=candidate: self._comparing.pick(candidate))
                column.addWidget(pick)
                self.picks.append(pick)
            column.addStretch(1)
            self._cards_row.addWidget(card)

    def _show_table(self) -> None:
        _empty(self._grid)
        answered = [i for i, candidate in enumerate(self._shown) if candidate.mask is not None]
        if len(answered) < 2:
            return
        agreement = self._comparing.agreement()
        self._grid.addWidget(QLabel("Agreement (IoU)"), 0, 0)
        for place, i in enumerate(answered, start=1):
            for name, where in ((self._shown[i].title, (0, place)), (self._shown[i].title, (place, 0))):
                self._grid.addWidget(QLabel(name), *where)
            for other, j in enumerate(answered, start=1):
                if i != j:
                    value = agreement[i, j]
                    text = "–" if np.isnan(value) else f"{value:.2f}"
                    self._grid.addWidget(QLabel(text), place, other, Qt.AlignmentFlag.AlignCenter)


def thumbnail(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> QPixmap:
    """Draw a picture (h, w) or (h, w, 3) with a mask over it, as large as a thumbnail may be."""
    step = max(1, max(mask.shape) // (2 * SIDE))
    picture, mask = picture[::step, ::step], mask[::step, ::step]
    colours = (picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)).astype(np.float32)
    colours[mask] = (1 - _OPACITY) * colours[mask] + _OPACITY * _TINT
    data = np.ascontiguousarray(colours.astype(np.uint8))
    height, width = mask.shape
    image = QImage(data.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    smooth = Qt.TransformationMode.SmoothTransformation
    return QPixmap.fromImage(image).scaled(SIDE, SIDE, Qt.AspectRatioMode.KeepAspectRatio, smooth)


def _empty(layout: QHBoxLayout | QGridLayout) -> None:
    while (item := layout.takeAt(0)) is not None:
        widget = item.widget()
        if widget is not None:
            widget.setParent(None)
            widget.deleteLater()
