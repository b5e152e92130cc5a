"""Small widgets that the docks are put together from; they know no session."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap, QPolygonF, QStandardItem, QStandardItemModel
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QSearchableComboBox

from napari_zeroseg._napari.keys import KEYS, Key

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_zeroseg._napari.zoo import Entry

TONES = {"idle": "#8b949e", "busy": "#f0b429", "good": "#2ecc71", "warning": "#ff7b54"}


def breakable(text: str) -> str:
    """Allow line breaks inside long paths and hashes, which would widen the dock."""
    return re.sub(r"\S{16,}", lambda word: "\u200b".join(re.findall(r".{1,8}", word[0])), text)


def keep_keys_free(widget: QWidget) -> None:
    """Let a click on `widget` leave the keyboard with the canvas; the tab key still reaches it."""
    widget.setFocusPolicy(Qt.FocusPolicy.TabFocus)


class LayerCombo(QComboBox):
    """Chooses one of the viewer's layers, or "new" where `empty` says what that means.

    Parameters
    ----------
    offered : callable
        The layers to choose from, asked again each time the list opens.
    empty : str
        What is read where no layer is chosen.
    """

    picked = Signal(object)

    def __init__(self, offered: Callable[[], Iterable[Layer]], empty: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._offered = offered
        self._empty = empty
        self._layers: list[Layer | None] = []
        self._current: Layer | None = None
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(10)
        keep_keys_free(self)
        self.activated.connect(lambda index: self.picked.emit(self._layers[index]))
        self.show_layer(None)

    def show_layer(self, current: Layer | None) -> None:
        """List what is there now, with `current` chosen; tells nobody."""
        self._current = current
        self._layers = [None, *self._offered()]
        names = [self._empty, *(layer.name for layer in self._layers if layer is not None)]
        if names != [self.itemText(i) for i in range(self.count())]:
            self.clear()
            self.addItems(names)
        self.setCurrentIndex(self._layers.index(current) if current in self._layers else 0)
        self.setToolTip(names[self.currentIndex()])

    def showPopup(self) -> None:  # noqa: N802
        """Open the list with the layers and names of this moment."""
        self.show_layer(self._current)
        super().showPopup()


class ModelCombo(QSearchableComboBox):
    """Chooses a model: searched by typing, grouped by family, with its state.

    Parameters
    ----------
    about_to_open : callable
        Called when the list opens.
    """

    picked = Signal(str)

    def __init__(self, about_to_open: Callable[[], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._about_to_open = about_to_open
        self._rows: dict[str, int] = {}
        self._shown: list[Entry] = []
        self.setMinimumContentsLength(10)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.activated.connect(self._on_activated)

    def show_models(self, entries: Iterable[Entry], key: str) -> None:
        """List these models, with that of `key` chosen; tells nobody."""
        listed = list(entries)
        if listed != self._shown:
            self._shown = listed
            self._rebuild(listed)
        row = self._rows.get(key, -1)
        self.setCurrentIndex(row)
        item = self.model().index(row, 0)
        self.setToolTip(str(item.data(Qt.ItemDataRole.ToolTipRole) or ""))

    def _rebuild(self, entries: list[Entry]) -> None:
        items = QStandardItemModel(self)
        self._rows = {}
        for family in dict.fromkeys(entry.spec.family for entry in entries):
            heading = QStandardItem(family)
            heading.setFlags(Qt.ItemFlag.NoItemFlags)
            items.appendRow(heading)
            for entry in (entry for entry in entries if entry.spec.family == family):
                spec = entry.spec
                item = QStandardItem(f"{spec.title} · {entry.state}" if entry.state else spec.title)
                item.setData(spec.key, Qt.ItemDataRole.UserRole)
                item.setToolTip(f"{spec.description}\nWeights: {spec.licence}")
                self._rows[spec.key] = items.rowCount()
                items.appendRow(item)
        # Qt deletes the one before it.
        self.setModel(items)

    def showPopup(self) -> None:  # noqa: N802
        """Open the list, and look whether it is still right."""
        self._about_to_open()
        super().showPopup()

    def _on_activated(self, index: int) -> None:
        key = self.itemData(index, Qt.ItemDataRole.UserRole)
        # Keys belong to the canvas again once a model is chosen.
        self.clearFocus()
        if key:
            self.picked.emit(key)


class Choice(QComboBox):
    """Chooses one of a few values, each with a name and an explanation."""

    picked = Signal(object)

    def __init__(self, values: Sequence[tuple[Any, str, str]], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values: list[Any] = []
        self.offer(values)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        # Short enough for two beside each other in the narrowest dock.
        self.setMinimumContentsLength(4)
        keep_keys_free(self)
        self.activated.connect(lambda index: self.picked.emit(self._values[index]))

    def offer(self, values: Sequence[tuple[Any, str, str]]) -> None:
        """Offer these values from now on."""
        offered = [value for value, _, _ in values]
        if offered == self._values:
            return
        self._values = offered
        self.clear()
        for i, (_, name, explanation) in enumerate(values):
            self.addItem(name)
            self.setItemData(i, explanation, Qt.ItemDataRole.ToolTipRole)

    def show_value(self, value: object) -> None:
        """Show `value` as the chosen one, or nothing if it is not offered; tells nobody."""
        self.setCurrentIndex(self._values.index(value) if value in self._values else -1)


class Segments(QWidget):
    """A row of buttons of which one is down, or none."""

    picked = Signal(object)

    def __init__(self, values: Sequence[tuple[Any, str, str]], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(2)
        self._group = QButtonGroup(self)
        self._group.setExclusive(False)
        self.buttons: dict[Any, QPushButton] = {}
        for value, name, explanation in values:
            button = QPushButton(name)
            button.setCheckable(True)
            button.setToolTip(explanation)
            button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            button.setObjectName("zeroseg_segment")
            keep_keys_free(button)
            button.clicked.connect(lambda _=False, value=value: self._on_clicked(value))
            self._group.addButton(button)
            row.addWidget(button)
            self.buttons[value] = button

    def show_value(self, value: object) -> None:
        """Let only the button of `value` be down; tells nobody."""
        for other, button in self.buttons.items():
            button.setChecked(other == value)

    def _on_clicked(self, value: object) -> None:
        self.show_value(value)
        self.picked.emit(value)


class StatusLine(QLabel):
    """A dot in the colour of the tone and a sentence of up to three lines."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        # Two lines always, so that the buttons below stay where the hand expects them.
        self.setMinimumHeight(2 * self.fontMetrics().lineSpacing() + 12)
        self.setObjectName("zeroseg_status")

    def show_status(self, text: str, tone: str) -> None:
        """Show a sentence."""
        plain = breakable(text).replace("&", "&amp;").replace("<", "&lt;")
        self.setText(f'<span style="color:{TONES[tone]}">●</span>&nbsp; {plain}')


class Candidates(QWidget):
    """Which candidate is shown, such as "candidate 1 of 3 (IoU 0.93)", and a button for the next."""

    stepped = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.text = QLabel()
        self.text.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        # A long text must not make the dock wider than the user has it, nor push the buttons below about.
        self.text.setWordWrap(True)
        self.text.setMinimumHeight(2 * self.text.fontMetrics().lineSpacing())
        self.text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.button = QPushButton("Next  M")
        self.button.setToolTip("Show the next mask that this click may mean (M)")
        keep_keys_free(self.button)
        self.button.clicked.connect(lambda: self.stepped.emit())
        row.addWidget(self.text, 1)
        row.addWidget(self.button)

    def show_candidate(self, number: int, count: int, score: float, of: str = "") -> None:
        """Show candidate `number` (from 1) of `count` and the IoU that the model predicts for it; `of` which object."""
        text = f"candidate {number} of {count} (IoU {score:.2f})" if count > 1 else f"predicted IoU {score:.2f}"
        self._show(f"{of}: {text}" if of else text)
        self.button.setEnabled(count > 1)

    def show_several(self, scores: Sequence[float]) -> None:
        """Show the predicted IoUs of several objects."""
        self._show(f"{len(scores)} objects (IoU {min(scores):.2f} to {max(scores):.2f})")
        self.button.setEnabled(False)

    def show_nothing(self) -> None:
        """Show that there is no preview."""
        self._show("no preview", there=False)
        self.button.setEnabled(False)

    def _show(self, text: str, *, there: bool = True) -> None:
        self.text.setText(text)
        self.text.setEnabled(there)


class Folded(QWidget):
    """A heading that unfolds what is below it."""

    def __init__(self, title: str, content: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.heading = QToolButton()
        self.heading.setText(title)
        self.heading.setCheckable(True)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        keep_keys_free(self.heading)
        self._content = content
        self.heading.toggled.connect(self._unfold)
        column.addWidget(self.heading)
        column.addWidget(content)
        self._unfold(False)

    def _unfold(self, open_: bool) -> None:
        self.heading.setArrowType(Qt.ArrowType.DownArrow if open_ else Qt.ArrowType.RightArrow)
        self._content.setVisible(open_)


class KeyTable(QWidget):
    """Keys and what they do."""

    def __init__(self, keys: Sequence[Key] = KEYS, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        grid = QGridLayout(self)
        grid.setContentsMargins(4, 0, 0, 0)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(1, 1)
        for row, key in enumerate(keys):
            name = QLabel(key.name)
            name.setObjectName("zeroseg_key")
            name.setAlignment(Qt.AlignmentFlag.AlignCenter)
            does = QLabel(key.does)
            does.setWordWrap(True)
            does.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
            grid.addWidget(name, row, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(does, row, 1, Qt.AlignmentFlag.AlignTop)


def icon(kind: str, colour: str) -> QIcon:
    """Draw the sign of a kind of prompt: points, box or mask."""
    side = 64
    pixmap = QPixmap(side, side)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    pen = QPen(QColor(colour), 6)
    painter.setPen(pen)
    if kind == "points":
        painter.drawEllipse(QRectF(16, 16, 32, 32))
        painter.setBrush(QColor(colour))
        painter.drawEllipse(QRectF(27, 27, 10, 10))
    elif kind == "box":
        painter.drawRect(QRectF(10, 14, 44, 36))
    else:
        outline = [(12, 38), (18, 16), (40, 10), (54, 26), (46, 40), (50, 54), (26, 52)]
        painter.drawPolygon(QPolygonF([QPointF(x, y) for x, y in outline]))
    painter.end()
    return QIcon(pixmap)


ICON_SIZE = QSize(16, 16)
