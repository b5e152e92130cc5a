"""Widgets of the Models dock: the list by family, and the question that is asked before something is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHeaderView,
    QLabel,
    QLineEdit,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_zeroseg._napari.layout import button, form, row
from napari_zeroseg._napari.widgets import TONES, keep_keys_free
from napari_zeroseg._napari.zoo import BRING, DOWNLOAD, READY

if TYPE_CHECKING:
    from napari_zeroseg._napari.keeper import Question
    from napari_zeroseg._napari.zoo import Entry, Errand, Fault

_KEY = Qt.ItemDataRole.UserRole
_COLOUR = Qt.ItemDataRole.UserRole + 1
_COLOURS = {READY: TONES["good"], DOWNLOAD: "#38bdf8", BRING: TONES["busy"]}


class ModelTree(QTreeWidget):
    """The models by family, each with its state in words and colour."""

    picked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._shown: list[Entry] = []
        self._items: dict[str, QTreeWidgetItem] = {}
        self._dots = {colour: _dot(colour) for colour in {*_COLOURS.values(), *TONES.values()}}
        self.setColumnCount(2)
        self.setHeaderHidden(True)
        self.setRootIsDecorated(False)
        self.setIndentation(12)
        self.setUniformRowHeights(True)
        self.setMinimumHeight(18 * (self.fontMetrics().lineSpacing() + 4))
        self.header().setStretchLastSection(False)
        self.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.currentItemChanged.connect(self._on_current)

    def show_models(self, entries: Iterable[Entry], key: str) -> None:
        """List these models, with that of `key` chosen; tells nobody."""
        self.blockSignals(True)
        listed = list(entries)
        if [entry.spec.key for entry in listed] != [entry.spec.key for entry in self._shown]:
            self._rebuild(listed)
        self._shown = listed
        for entry in listed:
            item = self._items[entry.spec.key]
            item.setText(0, entry.spec.title)
            item.setToolTip(0, entry.spec.description)
        if key in self._items:
            self.setCurrentItem(self._items[key])
        self.blockSignals(False)

    def show_states(self, errands: Mapping[str, Errand], faults: Mapping[str, Fault]) -> None:
        """Show each model's state, or in its place what is being done to it, or what went wrong with that."""
        for entry in self._shown:
            key, words, colour = entry.spec.key, entry.state, _COLOURS.get(entry.state, TONES["idle"])
            if key in errands:
                words, colour = errands[key].short, TONES["idle"]
            elif key in faults:
                words, colour = faults[key].words, TONES["warning"]
            item = self._items[key]
            if (item.text(1), item.data(0, _COLOUR)) != (words, colour):
                item.setText(1, words)
                item.setData(0, _COLOUR, colour)
                item.setIcon(0, self._dots[colour])

    def state_of(self, key: str) -> str:
        """What is read beside a model."""
        return str(self._items[key].text(1))

    def _rebuild(self, entries: list[Entry]) -> None:
        self.clear()
        self._items = {}
        for family in dict.fromkeys(entry.spec.family for entry in entries):
            heading = QTreeWidgetItem(self, [family])
            heading.setFlags(Qt.ItemFlag.ItemIsEnabled)
            font = heading.font(0)
            font.setBold(True)
            heading.setFont(0, font)
            for entry in (entry for entry in entries if entry.spec.family == family):
                item = QTreeWidgetItem(heading, [entry.spec.title])
                item.setData(0, _KEY, entry.spec.key)
                self._items[entry.spec.key] = item
        self.expandAll()

    def _on_current(self, item: QTreeWidgetItem | None, _: object = None) -> None:
        key = None if item is None else item.data(0, _KEY)
        if key:
            self.picked.emit(key)


class QuestionBox(QFrame):
    """Asks inside the dock rather than over the window, so that nothing else has to wait."""

    answered = Signal(bool, str, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("zeroseg_question")
        self._question: Question | None = None
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.choices = QComboBox()
        keep_keys_free(self.choices)
        self.name = QLineEdit()
        self.name.setPlaceholderText("letters, digits, - and _")
        self._choice_row, self._name_row = form(("It is", self.choices)), form(("Name", self.name))
        self.yes, self.no = button("", ""), button("Not now", "Do nothing")
        column = QVBoxLayout(self)
        for part in (self.text, self._choice_row, self._name_row, row(self.yes, self.no)):
            column.addWidget(part)
        self.yes.clicked.connect(lambda: self._answer(True))
        self.no.clicked.connect(lambda: self._answer(False))
        self.name.textChanged.connect(self._allow)
        self.choices.currentIndexChanged.connect(self._allow)
        self.hide()

    def show_question(self, question: Question | None) -> None:
        """Ask, or ask nothing."""
        if question is not self._question:
            self._question = question
            if question is not None:
                self._fill(question)
        self.setVisible(question is not None)

    def _fill(self, question: Question) -> None:
        self.text.setText(question.text)
        self.yes.setText(question.yes)
        self.choices.clear()
        for key, title in question.choices:
            self.choices.addItem(title, key)
        self.choices.setCurrentIndex(-1)
        self.choices.setPlaceholderText("choose")
        self._choice_row.setVisible(bool(question.choices))
        self.name.setText(question.name or "")
        self._name_row.setVisible(question.name is not None)
        self._allow()

    def _allow(self, _: object = None) -> None:
        question = self._question
        if question is not None:
            is_named = question.name is None or bool(self.name.text().strip())
            self.yes.setEnabled(is_named and (not question.choices or self.choices.currentIndex() >= 0))

    def _answer(self, yes: bool) -> None:
        self.answered.emit(yes, str(self.choices.currentData() or ""), self.name.text().strip())


def _dot(colour: str) -> QIcon:
    side = 32
    pixmap = QPixmap(side, side)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(colour))
    painter.drawEllipse(QRectF(8, 8, 16, 16))
    painter.end()
    return QIcon(pixmap)
