"""Parts of the Train dock: a row of layers to learn from, and the settings that one rarely needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QMouseEvent, QPixmap
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QLabel,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_zeroseg._napari.computing import DEVICES
from napari_zeroseg._napari.layout import button, form, row
from napari_zeroseg._napari.numbers import number, show_number, whole_number
from napari_zeroseg._napari.train_gather import PairChoice
from napari_zeroseg._napari.train_session import TrainChoices
from napari_zeroseg._napari.widgets import Choice, Folded, LayerCombo
from napari_zeroseg.training.card import KIND_WORDS
from napari_zeroseg.training.config import LOSSES, PROMPT_KINDS
from napari_zeroseg.training.estimate import PRESETS

if TYPE_CHECKING:
    from napari.layers import Layer

ROLES = (
    ("auto", "both", "A block of its planes is held back for validation"),
    ("train", "learn", "All of its planes are learnt from"),
    ("validation", "validate", "None of its planes is learnt from"),
)
LABELS_ARE = (
    ("auto", "auto", "Decided by the labels: numbers in several parts are classes"),
    ("instances", "objects", "Each number is one object"),
    ("classes", "classes", "Each number is a class, each connected part an object"),
)


def picture_in(png: bytes) -> QPixmap:
    """The picture of a file's bytes."""
    picture = QPixmap()
    picture.loadFromData(png)
    return picture


class Picture(QLabel):
    """A picture as wide as the dock; a click shows it as it is, in a window of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._whole = QPixmap()
        self.hide()

    def show_picture(self, picture: QPixmap, width: int, about: str) -> None:
        """Show a picture in that width; one that is empty hides this."""
        self._whole = picture
        self.setVisible(not picture.isNull())
        self.setToolTip(about)
        if not picture.isNull():
            self.setPixmap(picture.scaledToWidth(width, Qt.TransformationMode.SmoothTransformation))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Open the window."""
        window = QDialog(self.window())
        window.setWindowTitle(self.toolTip().partition(":")[0])
        window.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        whole, area = QLabel(), QScrollArea()
        whole.setPixmap(self._whole)
        area.setWidget(whole)
        layout = QVBoxLayout(window)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(area)
        window.resize(self._whole.width() + 24, min(self._whole.height() + 8, 900))
        window.show()
        super().mouseReleaseEvent(event)


class PairRow(QWidget):
    """Chooses an image, its labels, planes and what they are for.

    Parameters
    ----------
    pair : PairChoice
        What is chosen; written to.
    images, labels : callable
        Layers to choose from.
    """

    changed = Signal()
    removed = Signal(object)

    def __init__(
        self, pair: PairChoice, images: Callable[[], Iterable[Layer]], labels: Callable[[], Iterable[Layer]]
    ) -> None:
        super().__init__()
        self.pair = pair
        self.image, self.labels = LayerCombo(images, "no image"), LayerCombo(labels, "no labels")
        self.planes = QLineEdit(pair.planes)
        self.planes.setPlaceholderText("all with labels")
        self.planes.setToolTip("Planes to learn from, such as 0:12 or 1,4,7; one that is named may be empty")
        self.role = Choice(ROLES)
        self.role.setToolTip("Whether this picture is learnt from, validated on, or both")
        self.remove = button("✕", "Learn from this picture no more")
        self.remove.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addWidget(
            form(
                ("Image", self.image),
                ("Labels", self.labels),
                ("Planes", row(self.planes, self.role, self.remove)),
            )
        )
        self.image.picked.connect(partial(self._set, "image"))
        self.labels.picked.connect(partial(self._set, "labels"))
        self.planes.textChanged.connect(partial(self._set, "planes"))
        self.role.picked.connect(partial(self._set, "role"))
        self.remove.clicked.connect(lambda: self.removed.emit(self.pair))

    def _set(self, name: str, value: object) -> None:
        setattr(self.pair, name, value)
        self.changed.emit()

    def show_pair(self, *, can_go: bool) -> None:
        """Show what is chosen now."""
        self.image.show_layer(self.pair.image)
        self.labels.show_layer(self.pair.labels)
        self.role.show_value(self.pair.role)
        self.remove.setVisible(can_go)


class MoreChoices(QWidget):
    """Settings whose defaults work."""

    changed = Signal(str, object)
    """Name and value of a setting."""
    preset_picked = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        none = ("", "none", "The settings as they are here")
        self.preset = Choice([none, *((name, name, f"Settings for {name}") for name in PRESETS)])
        self.preset.setToolTip("Settings that should fit a device with so much memory")
        self.labels_are = Choice(LABELS_ARE)
        self.classes, self.ignore = QLineEdit(), QLineEdit()
        self.classes.setPlaceholderText("all")
        self.classes.setToolTip("Labels to learn, such as 1,3")
        self.ignore.setPlaceholderText("none")
        self.ignore.setToolTip("Label of pixels that count neither as object nor as background")
        self.min_pixels = whole_number(1, 1_000_000, "Smaller objects are left out", " pixels or more")
        self.validation = whole_number(1, 50, "Part of planes or pictures that is not learnt from, but judged by", " %")
        self.gap = whole_number(0, 1000, "Planes beside what is held back that are used for neither")
        self.gap.setPrefix("gap ")
        self.any_orientation = QCheckBox("Turn and flip windows")
        self.any_orientation.setToolTip("Off where left, right, up and down differ, as in people: turned by 10° only")
        self.device = Choice(DEVICES)
        self.device.setToolTip("Where the run computes")
        self.epochs = whole_number(0, 100_000, "How often every object is shown at most", nothing="automatic")
        self.loss = Choice([(loss, loss.replace("_", " + "), "") for loss in LOSSES])
        self.rate = number(1e-7, 1, "Learning rate of AdamW")
        self.rate.setDecimals(7)
        self.rate.setSingleStep(1e-5)
        self.patience = whole_number(
            *(0, 10, "Stop early when the held-back objects gain nothing; there are ten validations a run"),
            *(" validations without progress", "never"),
        )
        self.recompute = QCheckBox("Less memory, more time")
        self.recompute.setToolTip("Gradient checkpointing, where the encoder is trained")
        self.tensorboard = QCheckBox("Write for TensorBoard")
        self.tensorboard.setToolTip("The same figures as in metrics.csv, in the run's folder")
        self.seed = whole_number(0, 2**31 - 1, "Of everything random")
        self.processes = whole_number(1, 64, "How many GPUs share each step; more than one need the extra multi-gpu")
        self.prompts = {
            kind: number(0, 100, "How often it is simulated, relative to the others; 0 for never")
            for kind in PROMPT_KINDS
        }
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(
            form(
                ("Preset", self.preset),
                ("Labels are", self.labels_are),
                ("Classes", self.classes),
                ("Ignore", self.ignore),
                ("Objects of", self.min_pixels),
                ("Hold back", row(self.validation, self.gap)),
                ("Runs on", self.device),
                ("Epochs", self.epochs),
                ("Loss", self.loss),
                ("Rate", self.rate),
                ("Stop early", self.patience),
                ("Seed", self.seed),
                ("GPUs", self.processes),
                ("", self.any_orientation),
                ("", self.recompute),
                ("", self.tensorboard),
            )
        )
        rows = form(*((KIND_WORDS[kind], box) for kind, box in self.prompts.items()))
        layout.addWidget(Folded("Prompts to simulate", rows))
        self._connect()

    def _connect(self) -> None:
        self.preset.picked.connect(lambda name: self.preset_picked.emit(name))
        for widget, signal, name in (
            (self.labels_are, "picked", "labels_are"),
            (self.loss, "picked", "loss"),
            (self.classes, "textChanged", "classes"),
            (self.ignore, "textChanged", "ignore"),
            (self.rate, "valueChanged", "learning_rate"),
            (self.patience, "valueChanged", "patience"),
            (self.recompute, "toggled", "recompute"),
            (self.tensorboard, "toggled", "tensorboard"),
            (self.seed, "valueChanged", "seed"),
            (self.processes, "valueChanged", "processes"),
            (self.min_pixels, "valueChanged", "min_pixels"),
            (self.gap, "valueChanged", "gap"),
            (self.any_orientation, "toggled", "any_orientation"),
            (self.device, "picked", "device"),
            (self.epochs, "valueChanged", "epochs"),
        ):
            getattr(widget, signal).connect(partial(self.changed.emit, name))
        self.validation.valueChanged.connect(lambda percent: self.changed.emit("validation", percent / 100))
        for box in self.prompts.values():
            box.valueChanged.connect(
                lambda _: self.changed.emit("prompts", {kind: one.value() for kind, one in self.prompts.items()})
            )

    def show_choices(self, choices: TrainChoices) -> None:
        """Show what is chosen now; tells nobody."""
        self.preset.show_value(choices.preset)
        self.labels_are.show_value(choices.labels_are)
        self.loss.show_value(choices.loss)
        self.device.show_value(choices.device)
        for check, on in (
            (self.any_orientation, choices.any_orientation),
            (self.recompute, choices.recompute),
            (self.tensorboard, choices.tensorboard),
        ):
            check.blockSignals(True)
            check.setChecked(on)
            check.blockSignals(False)
        boxes: list[tuple[Any, float]] = [(self.rate, choices.learning_rate), (self.seed, choices.seed)]
        boxes += [(self.patience, choices.patience), (self.processes, choices.processes)]
        boxes += [(self.min_pixels, choices.min_pixels), (self.gap, choices.gap), (self.epochs, choices.epochs)]
        boxes += [(self.validation, round(100 * choices.validation))]
        boxes += [(box, choices.prompts.get(kind, 0)) for kind, box in self.prompts.items()]
        for box, value in boxes:
            show_number(box, value)
