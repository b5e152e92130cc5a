"""The detector of the Segment dock: its folder, the least score, and the button that looks for boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDoubleSpinBox, QFileDialog, QSizePolicy, QVBoxLayout, QWidget
from superqt import QElidingLabel

from napari_zeroseg._napari.layout import button, form, row

if TYPE_CHECKING:
    from napari_zeroseg._napari.detecting import Detecting
    from napari_zeroseg._napari.outlining import Outlining

_FIND = (
    "Put a box, with its class and score, around each thing that the detector finds on this plane: what the text line "
    "names, or all its classes where that is empty"
)


class DetectorPart(QWidget):
    """Shows a :class:`Detecting` and passes on what the user does.

    Parameters
    ----------
    detecting : Detecting
    outlining : Outlining
        That is busy while the detector looks.
    enter : callable
        Takes over what stands in the text line.
    """

    def __init__(
        self,
        detecting: Detecting,
        outlining: Outlining,
        enter: Callable[[], None],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._detecting = detecting
        self._outlining = outlining
        self._enter = enter
        self.name = QElidingLabel("")
        self.name.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.choose = button("Choose …", "Choose a detector: a folder that transformers saved")
        self.least = QDoubleSpinBox()
        self.least.setRange(0, 0.99)
        self.least.setSingleStep(0.05)
        self.least.setKeyboardTracking(False)
        self.least.setValue(detecting.least_score)
        self.least.setToolTip("Boxes of a lower score are left out")
        self.find_boxes = button("Find boxes", _FIND)
        self.stop = button("Stop", "Give up what is being looked for")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        folder, doing = row(self.name, self.choose), row(self.find_boxes, self.stop)
        layout.addWidget(form(("Folder", folder), ("Score from", self.least), ("", doing)))
        self.choose.clicked.connect(lambda: self._choose())
        self.least.valueChanged.connect(self._set_least)
        self.find_boxes.clicked.connect(lambda: self._find())
        self.stop.clicked.connect(lambda: outlining.stop())

    def refresh(self) -> None:
        """Show the state of the session; tells nobody."""
        folder = self._detecting.folder
        self.name.setText(Path(folder).name if folder else "none")
        self.name.setToolTip(folder or "Any that transformers offers for object detection, with classes or for phrases")
        self.find_boxes.setEnabled(bool(folder) and not self._outlining.is_busy)
        self.stop.setEnabled(self._outlining.is_busy)

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of a detector", self._detecting.folder)
        if folder:
            self._detecting.choose(folder)

    def _find(self) -> None:
        self._enter()  # what was just typed waits for the keyboard to rest
        self._detecting.find()

    def _set_least(self, score: float) -> None:
        self._detecting.least_score = score
