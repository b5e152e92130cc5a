"""The part of the Stack dock that is folded away: where it computes, and thresholds and limits of what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QLabel, QLineEdit, QVBoxLayout, QWidget

from napari_zeroseg._napari.computing import DEVICES, PRECISIONS
from napari_zeroseg._napari.layout import form, row
from napari_zeroseg._napari.numbers import fraction, number, show_number, whole_number
from napari_zeroseg._napari.widgets import Choice, LayerCombo
from napari_zeroseg.link import Branches

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_zeroseg._napari.stack_session import StackSession

_BRANCHES = (
    (Branches.JOIN, "join", "A section may go on in several: an object splits and merges"),
    (Branches.CUT, "cut", "Each section goes on in one only, that of the largest IoU; the others are objects"),
)


class MorePart(QWidget):
    """Chooses what most runs leave as it is.

    Parameters
    ----------
    session : StackSession
    maps : callable
        Labels layers that may be maps of classes.
    """

    def __init__(self, session: StackSession, maps: Callable[[], Iterable[Labels]]) -> None:
        super().__init__()
        self._session = session
        self._make(maps)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._laid_out())
        self._numbers = (
            (self.threshold, "threshold"),
            (self.least, "least_area"),
            (self.most, "most_area"),
            (self.gap, "gap"),
            (self.min_planes, "min_planes"),
            (self.specks, "specks"),
            (self.holes, "holes"),
            (self.room, "room"),
        )
        self._search = (
            (self.points, "points_per_side"),
            (self.iou, "pred_iou_thresh"),
            (self.stability, "stability_score_thresh"),
        )
        self._connect()

    def _make(self, maps: Callable[[], Iterable[Labels]]) -> None:
        self.device, self.precision = Choice(DEVICES), Choice(PRECISIONS)
        self.device.setToolTip("Where the model computes, from the next run on")
        self.precision.setToolTip("How exactly the model computes, from the next run on")
        self.threshold = fraction("Certainty below which a plane is flagged")
        self.points = whole_number(1, 128, "Clicks along each side of the grid")
        self.iou = fraction("IoU that the model must predict for a mask")
        self.stability = fraction("How little a mask may change when its threshold is moved")
        self.least = whole_number(0, 10**9, "Least area of a mask", " px")
        self.most = whole_number(0, 10**9, "Largest area of a mask", " px", "no limit")
        self.class_map, self.keep = LayerCombo(maps, "all"), QLineEdit()
        self.keep.setMaximumWidth(80)
        self.keep.setToolTip("Objects are kept whose pixels are mostly of these classes of the map, such as 1,3")
        self.branches = Choice(_BRANCHES)
        self.branches.setToolTip("What becomes of sections that could go on in several of the next plane")
        self.gap = whole_number(0, 20, "Planes that an object may be missing from between two of its sections")
        self.min_planes = whole_number(1, 10**6, "Objects on fewer planes are removed")
        self.specks = whole_number(0, 10**9, "Linked objects of fewer voxels are removed", " voxels")
        self.holes = whole_number(0, 10**9, "Holes of a plane up to this many pixels are filled", " px")
        self.room = number(0, 10**4, "Room that the embeddings of the planes may take", " GB", "all there is")

    def _laid_out(self) -> QWidget:
        return form(
            ("Runs on", row(self.device, self.precision)),
            ("", _heading("Propagate")),
            ("Flag below", self.threshold),
            ("", _heading("Segment everything")),
            ("Points a side", self.points),
            ("Predicted IoU", self.iou),
            ("Stability", self.stability),
            ("Area", row(self.least, self.most)),
            ("Keep class", row(self.class_map, self.keep)),
            ("", _heading("Link")),
            ("Branches", self.branches),
            ("Gap", self.gap),
            ("Planes at least", self.min_planes),
            ("Specks below", self.specks),
            ("Holes up to", self.holes),
            ("", _heading("Encode ahead")),
            ("Room", self.room),
        )

    def _connect(self) -> None:
        session = self._session
        self.device.picked.connect(lambda device: session.set_computing(device=device))
        self.precision.picked.connect(lambda precision: session.set_computing(precision=precision))
        self.class_map.picked.connect(lambda layer: session.set_choices(class_map=layer))
        self.keep.textChanged.connect(lambda line: session.set_choices(keep=line))
        self.branches.picked.connect(lambda branches: session.set_choices(branches=branches))
        for widget, name in self._numbers:
            widget.valueChanged.connect(lambda value, name=name: session.set_choices(**{name: value}))
        for widget, name in self._search:
            widget.valueChanged.connect(lambda value, name=name: session.set_search(**{name: value}))

    def refresh(self) -> None:
        """Show the state of the session; tells nobody."""
        choices = self._session.choices
        model = choices.model
        known = {name for name, _, _ in DEVICES}
        # the Segment dock, which this one begins with, may have found more
        others = () if model.device in known else ((model.device, model.device, "As in the Segment dock"),)
        self.device.offer((*DEVICES, *others))
        self.device.show_value(model.device)
        self.precision.show_value(model.precision)
        for widget, name in self._numbers:
            show_number(widget, getattr(choices, name))
        for widget, name in self._search:
            show_number(widget, getattr(choices.search, name) or 1)
        self.branches.show_value(choices.branches)
        self.class_map.show_layer(choices.class_map)
        self.keep.setEnabled(choices.class_map is not None)
        if self.keep.text() != choices.keep:
            self.keep.setText(choices.keep)


def _heading(text: str) -> QLabel:
    made = QLabel(text)
    made.setObjectName("zeroseg_heading")
    return made
