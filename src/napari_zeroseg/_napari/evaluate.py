"""The Evaluate dock: a labels layer against a true one; rows of the table lead to the place."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QHeaderView,
    QLabel,
    QLineEdit,
    QProgressBar,
    QTableView,
    QWidget,
)

from napari_zeroseg._napari.channel import sentence
from napari_zeroseg._napari.evaluate_rows import KINDS, RowTable, rows_of_kind
from napari_zeroseg._napari.frame import Dock
from napari_zeroseg._napari.layers import camera_of, data_shape, world_matrix
from napari_zeroseg._napari.layout import button, column, form, row
from napari_zeroseg._napari.preview import is_preview
from napari_zeroseg._napari.widgets import Choice, Folded, LayerCombo, Segments, StatusLine, keep_keys_free
from napari_zeroseg.errors import CancelledError, InputError, ZerosegError
from napari_zeroseg.evaluation.evaluate import evaluate
from napari_zeroseg.evaluation.report import Report, Row
from napari_zeroseg.jobs import CancelToken

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

MODES = (
    ("auto", "auto", "Masks of one label are a class, everything else is objects"),
    ("instances", "objects", "A label is an object; its number is arbitrary, objects are matched by their overlap"),
    ("semantic", "classes", "A label is a class; its number means the same in both layers"),
)
EXTENTS = (
    (False, "all planes", "The whole layers"),
    (True, "this plane", "Only the plane on the screen"),
)
_TABLE_ROWS = 12


class EvaluateDock(Dock):
    """Compares two labels layers and shows figures, and where the prediction is wrong.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.report: Report | None = None
        self._token: CancelToken | None = None
        self._tokens: list[CancelToken] = []
        self._compared: weakref.ref[Labels] | None = None
        self._prediction: Labels | None = None
        self._truth: Labels | None = None
        self._build()
        self._style()
        self._connect()
        self._choose_layers()
        self._say("Choose a prediction and the truth, then press Evaluate.", "idle")

    def _let_go(self) -> None:
        self._stop()
        self.bridge.close()

    # Layout

    def _build(self) -> None:
        self.prediction = LayerCombo(self._layers, "no prediction")
        self.truth = LayerCombo(self._layers, "no truth")
        self.mode, self.extent = Choice(MODES), Segments(EXTENTS)
        self.mode.show_value("auto")
        self.extent.show_value(False)
        self.run = button("Evaluate", "Compare both layers; you can go on working meanwhile")
        self.run.setObjectName("zeroseg_accept")
        self.cancel = button("Cancel", "Stop comparing")
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.status = StatusLine()
        chosen = form(
            ("Prediction", self.prediction), ("Truth", self.truth), ("Labels are", self.mode), ("Compare", self.extent)
        )
        self.under_way = row(self.progress, self.cancel)
        parts = (chosen, Folded("More", self._build_more()), self.run, self.under_way, self.status, self._build_found())
        self._lay_out(parts, 310)
        self.under_way.hide()

    def _build_more(self) -> QWidget:
        self.per_plane = QCheckBox("Each plane for itself")
        self.per_plane.setToolTip("Labels are objects of their plane only, and distances end with it")
        self.boundaries = QCheckBox("Distances of boundaries")
        self.boundaries.setToolTip("ASSD, HD95 and NSD: they take half of the time, and memory for each boundary pixel")
        self.boundaries.setChecked(True)
        self.ignore = QLineEdit()
        self.ignore.setPlaceholderText("none")
        self.ignore.setToolTip("Value of the truth that says that a pixel is not known: it counts nowhere")
        self.tolerance = QDoubleSpinBox()
        self.tolerance.setRange(0, 1e9)
        self.tolerance.setDecimals(4)
        self.tolerance.setSpecialValueText("one pixel")
        self.tolerance.setToolTip("Distance of boundaries that still counts as agreement (NSD), in the layer's unit")
        for check in (self.per_plane, self.boundaries):
            keep_keys_free(check)
        return form(("", self.per_plane), ("", self.boundaries), ("Ignore", self.ignore), ("Tolerance", self.tolerance))

    def _build_found(self) -> QWidget:
        self.figures = QLabel()
        self.figures.setWordWrap(True)
        self.figures.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.kind = Segments(KINDS)
        self.rows = RowTable(self)
        self.table = QTableView()
        self.table.setModel(self.rows)
        self.table.setSortingEnabled(True)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setAccessibleName("Figures; a click on a row goes there")
        self.table.verticalHeader().hide()
        # Fitted to the rows in sight only: a volume may have a hundred thousand objects.
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setResizeContentsPrecision(0)
        self.table.setFixedHeight(_TABLE_ROWS * (self.table.fontMetrics().lineSpacing() + 10))
        self.save = button("Save CSV", "All rows: foreground, classes, planes, objects")
        self.found = column(self.figures, self.kind, self.table, self.save)
        self.found.hide()
        return self.found

    # What the user does

    def _connect(self) -> None:
        self.prediction.picked.connect(partial(self._pick, "_prediction"))
        self.truth.picked.connect(partial(self._pick, "_truth"))
        self.run.clicked.connect(lambda: self.start())
        self.cancel.clicked.connect(lambda: self._stop())
        self.kind.picked.connect(self._show_kind)
        self.table.clicked.connect(lambda index: self.jump(self.rows.row_at(index.row())))
        self.save.clicked.connect(lambda: self._save())
        for events in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            events.connect(self._on_layers)
        self.viewer.events.theme.connect(self._style)
        # By then this object is half gone, so nothing of it may be asked.
        self.destroyed.connect(lambda _=None, tokens=self._tokens: [token.cancel() for token in tokens])

    def _layers(self) -> Iterator[Layer]:
        there = (layer for layer in reversed(self.viewer.layers) if isinstance(layer, Labels))
        return (layer for layer in there if not is_preview(layer))

    def _on_layers(self, _: Any = None) -> None:
        self.bridge.later("layers", 0, self._choose_layers)

    def _pick(self, name: str, layer: Labels | None) -> None:
        setattr(self, name, layer)
        self._choose_layers()

    def _choose_layers(self) -> None:
        """Keep what was chosen and is still there; of two fitting layers, what is called truth is taken for it."""
        there = list(self._layers())
        if self._truth not in there:
            self._truth = next((one for one in there if "truth" in one.name.lower() and one != self._prediction), None)
        if self._prediction not in there:
            shape = None if self._truth is None else data_shape(self._truth)
            others = [one for one in there if one is not self._truth]
            self._prediction = next((one for one in others if shape in (None, data_shape(one))), None)
        self.prediction.show_layer(self._prediction)
        self.truth.show_layer(self._truth)
        self._refresh()

    def start(self) -> None:
        """Compare the chosen layers in a thread of its own."""
        try:
            prediction, truth, options = self._asked()
        except ZerosegError as error:
            self._fail(error)
            return
        self._token = token = CancelToken()
        self._tokens[:] = [token]
        self._compared = weakref.ref(truth)
        self.progress.setRange(0, 0)
        self._say(f"Comparing {prediction.name} with {truth.name} …", "busy")
        data = _data_of(prediction), _data_of(truth)

        def work() -> None:
            try:
                report = evaluate(
                    *data, **options, cancel=token, progress=lambda *far: self.bridge.post(partial(self._go_on, *far))
                )
            except Exception as error:
                self.bridge.post(partial(self._hear, token, error))
            else:
                self.bridge.post(partial(self._hear, token, report))

        # A daemon: napari may close while it reads; nothing is lost with it.
        threading.Thread(target=work, name="zeroseg-evaluate", daemon=True).start()

    def _asked(self) -> tuple[Labels, Labels, dict[str, Any]]:
        prediction, truth = self._prediction, self._truth
        if prediction is None or truth is None:
            raise InputError("Two labels layers are needed: choose the prediction and the truth.")
        if prediction is truth:
            raise InputError("Prediction and truth are the same layer: choose another one for one of them.")
        spacing, unit = _spacing(truth)
        text = self.ignore.text().strip()
        if text and not text.lstrip("-").isdigit():
            raise InputError(f"The value to ignore is a whole number, not {text!r}: leave it empty for none.")
        options: dict[str, Any] = {
            "spacing": spacing,
            "unit": unit,
            "mode": MODES[self.mode.currentIndex()][0],
            "per_plane": self.per_plane.isChecked(),
            "boundaries": self.boundaries.isChecked(),
            "ignore": int(text) if text else None,
            "tolerance": self.tolerance.value() or None,
        }
        if self.extent.buttons[True].isChecked() and len(spacing) == 3:
            options["planes"] = [self._plane_here(truth)]
        return prediction, truth, options

    def _plane_here(self, layer: Labels) -> int:
        point = np.asarray(self.viewer.dims.point, float)[-layer.ndim :]
        own = np.linalg.inv(world_matrix(layer, self.viewer.dims)) @ [*point, 1]
        plane = int(np.floor(own[layer.ndim - 3] + 0.5))
        if not 0 <= plane < data_shape(layer)[-3]:
            raise InputError(f"{layer.name} has no plane here: move the slider until it is seen.")
        return plane

    def _stop(self) -> None:
        if self._token is not None:
            self._token.cancel()

    def _save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Figures as a table", "evaluation.csv", "Tables (*.csv)")
        if path and self.report is not None:
            try:
                written = self.report.to_csv(path)
            except ZerosegError as error:
                self._fail(error)
            else:
                self._say(f"The table is in {written}.", "good")

    def jump(self, where: Row) -> None:
        """Show the plane and the place of a row, if it has one."""
        layer = None if self._compared is None else self._compared()
        if layer is None or layer not in self.viewer.layers:
            self._say("The truth that was compared is no layer any more: evaluate again to jump to places.", "warning")
            return
        dims = self.viewer.dims
        shape = data_shape(layer)
        place = np.array([*(n // 2 for n in shape), 1], float)
        place[: max(0, layer.ndim - 3)] = 0
        if where.plane is not None and layer.ndim >= 3:
            place[layer.ndim - 3] = where.plane
        if where.row is not None and where.column is not None:
            place[layer.ndim - 2 : layer.ndim] = where.row, where.column
        world = (world_matrix(layer, dims) @ place)[: layer.ndim]
        first = dims.ndim - layer.ndim
        if where.plane is not None:
            for axis in dims.not_displayed:
                if axis >= first:
                    dims.set_point(axis, world[axis - first])
        if where.row is not None:
            camera = camera_of(self.viewer)
            shown = [world[axis - first] for axis in dims.displayed if axis >= first]
            camera.center = (*camera.center[: 3 - len(shown)], *shown)

    # What came of it

    def _go_on(self, done: int, total: int) -> None:
        self.progress.setRange(0, total)
        self.progress.setValue(done)

    def _hear(self, token: CancelToken, outcome: Report | Exception) -> None:
        if token is not self._token:
            return
        self._token = None
        if isinstance(outcome, CancelledError):
            self._say("Cancelled.", "idle")
        elif isinstance(outcome, Exception):
            self._fail(outcome)
        else:
            self._show(outcome)

    def _show(self, report: Report) -> None:
        self.report = report
        lines = [_distances(report), *report.notes]
        self.figures.setText("\n".join(line for line in lines if line))
        for kind, shown in self.kind.buttons.items():
            shown.setVisible(bool(rows_of_kind(report, kind)))
        first = next((kind for kind, _, _ in KINDS if rows_of_kind(report, kind)), "plane")
        self.kind.show_value(first)
        self._show_kind(first)
        self.found.show()
        self._say(report.summary, "good")

    def _show_kind(self, kind: str) -> None:
        assert self.report is not None
        self.rows.show_rows(rows_of_kind(self.report, kind), self.report.unit)
        # The worst first: that is what one wants to look at.
        self.table.sortByColumn(RowTable.IOU, Qt.SortOrder.AscendingOrder)

    def _fail(self, error: Exception) -> None:
        self.bridge.report(error)
        self._say(sentence(error), "warning")

    def _say(self, text: str, tone: str) -> None:
        self.status.show_status(text, tone)
        self._refresh()

    def _refresh(self) -> None:
        self.under_way.setVisible(self._token is not None)
        self.run.setEnabled(self._token is None and self._prediction is not None and self._truth is not None)


def _data_of(layer: Labels) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _spacing(layer: Labels) -> tuple[tuple[float, ...], str]:
    """Distance of neighbours along the axes that are compared, and its unit: that of the columns."""
    shape = data_shape(layer)
    spare = 0
    while len(shape) - spare > 2 and shape[spare] == 1:
        spare += 1
    unit = layer.units[-1]
    steps = [
        abs(float(step)) * float((1 * own).to(unit).magnitude) if own != unit else abs(float(step))
        for step, own in zip(layer.scale, layer.units, strict=True)
    ]
    name = f"{unit:~}" if str(unit) not in ("pixel", "dimensionless") else "px"
    return tuple(steps[spare:]), name


def _distances(report: Report) -> str:
    whole = report.foreground
    told = f"Precision {whole.precision:.3f}, recall {whole.recall:.3f}."
    if np.isfinite(whole.assd):
        told += (
            f" Boundaries: ASSD {whole.assd:.3g} {report.unit}, HD95 {whole.hd95:.3g} {report.unit}, "
            f"NSD {whole.nsd:.3f} within {report.tolerance:.3g} {report.unit}."
        )
    if report.instances is not None:
        told += f" AP at 0.5 {report.instances.thresholds[0].ap:.3f}, mean AP {report.instances.mean_ap:.3f}."
    return told
