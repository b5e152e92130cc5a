"""The text part of the Segment dock: the line, the legend of its classes, the threshold and the heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QGridLayout, QLabel, QLineEdit, QPushButton, QSizePolicy, QSlider, QVBoxLayout, QWidget
from superqt import QElidingLabel

from napari_zeroseg._napari.detector_part import DetectorPart
from napari_zeroseg._napari.layout import button, form, row
from napari_zeroseg._napari.widgets import Folded, keep_keys_free

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_zeroseg._napari.detecting import Detecting
    from napari_zeroseg._napari.outlining import Outlining
    from napari_zeroseg._napari.wording import LegendRow, Wording

_LINE = (
    "What to find: phrases with commas between them, each a class of its own. Boxes restrict where. A minus before a "
    "phrase, as in -rib, says what is not wanted."
)
_ON_BOX = "Look for these words inside the selected boxes only (or in the newest one)"
_OUTLINE = "Put a box and clicks around each thing that was found, which a model that draws outlines"
_TAUGHT = "{title} reads no text, but finds words that were taught to it. Enter looks for one of: {words}"
_DETECTS = "What the detector below looks for: phrases or classes with commas between them; empty for all its classes"
_THRESHOLD = "How probable a pixel must be; acts at once, without running the model again"


class Legend(QWidget):
    """For each class its colour, number and phrase, what was found, and a button for its heat map."""

    def __init__(self, toggle_heat: Callable[[str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._toggle_heat = toggle_heat
        self._phrases: list[tuple[int, str]] = []
        self.figures: list[QLabel] = []
        self.heat: list[QPushButton] = []
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(1)
        self._grid.setColumnStretch(1, 1)

    def show_rows(self, rows: Sequence[LegendRow]) -> None:
        """Show these classes; tells nobody."""
        phrases = [(r.number, r.phrase) for r in rows]
        if phrases != self._phrases:
            self._phrases = phrases
            self._rebuild(rows)
        for r, figures, heat in zip(rows, self.figures, self.heat, strict=True):
            figures.setText("" if r.pixels is None else f"{r.score:.2f} · {r.pixels:,} px" if r.pixels else "nothing")
            heat.setEnabled(r.pixels is not None)
            heat.setChecked(r.has_heat)
        self.setVisible(bool(rows))

    def _rebuild(self, rows: Sequence[LegendRow]) -> None:
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.setParent(None)
                widget.deleteLater()
        self.figures, self.heat = [], []
        for i, r in enumerate(rows):
            swatch = QLabel()
            swatch.setPixmap(_swatch(r.colour))
            name = QElidingLabel(f"{r.number}  {r.phrase}")
            name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            name.setToolTip(f"Class {r.number} of the output: {r.phrase}")
            figures = QLabel()
            figures.setToolTip("Mean probability inside the mask, and its size")
            figures.setObjectName("zeroseg_figures")
            heat = button("Heat map", f"Show how probable “{r.phrase}” is at each pixel, as a layer")
            heat.setCheckable(True)
            heat.clicked.connect(lambda _=False, phrase=r.phrase: self._toggle_heat(phrase))
            # Figures below the phrase, so that a narrow dock leaves room for both.
            self._grid.addWidget(swatch, 2 * i, 0)
            self._grid.addWidget(name, 2 * i, 1)
            self._grid.addWidget(figures, 2 * i + 1, 1)
            self._grid.addWidget(heat, 2 * i, 2, 2, 1, Qt.AlignmentFlag.AlignVCenter)
            self.figures.append(figures)
            self.heat.append(heat)


class TextPart(QWidget):
    """What is looked for by words; shows a :class:`Wording` and passes on what the user does.

    Parameters
    ----------
    wording : Wording
    outlining : Outlining
    detecting : Detecting
    """

    def __init__(
        self, wording: Wording, outlining: Outlining, detecting: Detecting, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._wording = wording
        self._outlining = outlining
        self._detecting = detecting
        self.line = QLineEdit()
        self.line.setPlaceholderText("lung, heart")
        self.line.setClearButtonEnabled(True)
        # Typing begins with a click, never by itself: the keys belong to the canvas.
        self.line.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.on_box = button("On box", _ON_BOX)
        self.threshold = QSlider(Qt.Orientation.Horizontal)
        self.threshold.setRange(1, 99)
        self.threshold.setToolTip(_THRESHOLD)
        keep_keys_free(self.threshold)
        self.per_cent = QLabel()
        self.per_cent.setMinimumWidth(self.per_cent.fontMetrics().horizontalAdvance("0.00 "))
        self.outline = button("Outline each", _OUTLINE)
        self.legend = Legend(wording.toggle_heat)
        self._threshold_row = form(("Above", row(self.threshold, self.per_cent)), ("", self.outline))
        self.detector = DetectorPart(detecting, outlining, lambda: wording.enter(self.line.text()))
        self.folded = Folded("Detector", self.detector)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(5)
        for part in (form(("Text", row(self.line, self.on_box))), self.legend, self._threshold_row, self.folded):
            column.addWidget(part)
        self.line.textEdited.connect(wording.type)
        self.line.returnPressed.connect(self._on_return)
        self.on_box.clicked.connect(lambda: wording.write_on_boxes())
        self.threshold.valueChanged.connect(wording.cut_at)
        self.outline.clicked.connect(lambda: outlining.outline())

    def refresh(self, text: str, threshold: float, title: str) -> None:
        """Show the state of the session; tells nobody.

        Parameters
        ----------
        text : str
            The line.
        threshold : float
        title : str
            Name of the model in use.
        """
        reads, words = self._wording.takes_text, self._outlining.words
        why_not = "" if reads else f"{title} takes no text: choose a model that does"
        hint = _TAUGHT.format(title=title, words=", ".join(words)) if words and not reads else why_not or _LINE
        detects = bool(self._detecting.folder)
        if detects and not reads:
            hint = f"{hint}. {_DETECTS}" if words else _DETECTS
        self.line.setEnabled(reads or bool(words) or detects)
        self.line.setToolTip(hint)
        self.on_box.setEnabled(reads)
        self.on_box.setToolTip(why_not or _ON_BOX)
        if not self.line.hasFocus() and self.line.text() != text:
            self.line.setText(text)
            self.line.setCursorPosition(0)
        self.threshold.blockSignals(True)
        self.threshold.setValue(round(100 * threshold))
        self.threshold.blockSignals(False)
        self.per_cent.setText(f"{threshold:.2f}")
        found = self._wording.found
        self.legend.show_rows([] if why_not else self._wording.legend())
        self._threshold_row.setVisible(not why_not and found is not None)
        has = found is not None and found.has_probabilities
        self.threshold.setEnabled(has)
        self.threshold.setToolTip(_THRESHOLD if has else "This model gives masks without probabilities")
        self.outline.setEnabled(has and not self._outlining.is_busy)
        self.detector.refresh()

    def _on_return(self) -> None:
        line = self.line.text()
        self._wording.enter(line)
        if self._outlining.is_drawer and self._detecting.folder and not self._outlining.words:
            self._detecting.find()
        elif self._outlining.is_drawer and line.strip():
            self._outlining.find(line)
        self.line.clearFocus()
        self.line.setCursorPosition(0)


def _swatch(colour: str) -> QPixmap:
    pixmap = QPixmap(14, 14)
    pixmap.fill(QColor(colour))
    return QIcon(pixmap).pixmap(14, 14)
