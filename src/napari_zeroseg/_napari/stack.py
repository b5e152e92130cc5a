"""The Stack dock: widgets that show a session and pass on what the user does; every callback is one call."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from napari.utils.theme import get_theme
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QLineEdit,
    QListWidget,
    QProgressBar,
    QWidget,
)

from napari_zeroseg._napari.curve import Curve, CurveData
from napari_zeroseg._napari.find_elsewhere import labels_for
from napari_zeroseg._napari.find_part import FindPart, ProposalsPart
from napari_zeroseg._napari.frame import Dock
from napari_zeroseg._napari.keys import FIND_KEYS, STACK_KEYS, bind_all
from napari_zeroseg._napari.layout import button, column, form, row
from napari_zeroseg._napari.numbers import fraction, show_number, whole_number
from napari_zeroseg._napari.preview import is_preview
from napari_zeroseg._napari.segment import SegmentDock
from napari_zeroseg._napari.stack_more import MorePart
from napari_zeroseg._napari.stack_run import flagged
from napari_zeroseg._napari.stack_session import StackSession
from napari_zeroseg._napari.stack_work import Surveyed
from napari_zeroseg._napari.widgets import (
    Choice,
    Folded,
    KeyTable,
    LayerCombo,
    ModelCombo,
    Segments,
    StatusLine,
    keep_keys_free,
)
from napari_zeroseg.propagation import Direction

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

_LOG_ROWS = 5
RANGES = (
    (True, "All", "All planes of the stack"),
    (False, "From – to", "Planes from the first to the second number, both included"),
)
SEEDS = (
    (False, "this plane's", "Objects of the plane on the screen are followed"),
    (True, "all planes'", "Objects of all labelled planes are followed, between two of them from both"),
)
DIRECTIONS = (
    (Direction.BOTH, "both ways", "From the outlined planes to both ends"),
    (Direction.FORWARDS, "forwards", "To higher planes"),
    (Direction.BACKWARDS, "backwards", "To lower planes"),
)
PLANES = (
    (False, "this plane", "Only the plane on the screen"),
    (True, "all of the range", "All planes of the range above; objects are numbered on from plane to plane"),
)
_TABLES = "Tables (*.csv)"


class StackDock(Dock):
    """Carries objects through the planes, segments everything, links planes, encodes ahead.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.session = StackSession(self.viewer, self.bridge)
        self._free_keys = bind_all(self.viewer, self.session, STACK_KEYS)
        self._shown_survey: Surveyed | None = None
        self._flagged: dict[int, tuple[str, float]] = {}
        self._build()
        self._style()
        self._connect()
        self._take_from_segment_dock()
        self._choose_layers()
        self._refresh()

    def _let_go(self) -> None:
        self._free_keys()
        self.session.close()

    # Layout

    def _build(self) -> None:
        self.finding, self.proposals = FindPart(self.session), ProposalsPart(self.session.finder)
        self.more = MorePart(self.session, partial(self._layers, Labels))
        parts = (
            self._build_source(),
            self._build_actions(),
            self._build_run(),
            self.proposals,
            self._build_found(),
            Folded("More", self.more),
            Folded("Keys", KeyTable((*STACK_KEYS, *FIND_KEYS))),
        )
        self._lay_out(parts, 314)  # with room for the scroll bar

    def _build_source(self) -> QWidget:
        self.image = LayerCombo(partial(self._layers, Image), "no image")
        self.labels = LayerCombo(partial(self._layers, Labels), "no labels")
        self.model = ModelCombo(self.session.zoo.refresh)
        self.whole = Segments(RANGES)
        self.first, self.last = whole_number(0, 0, "First plane"), whole_number(0, 0, "Last plane")
        self.ends = row(self.first, self.last)
        return form(
            ("Image", self.image),
            ("Labels", self.labels),
            ("Model", self.model),
            ("Planes", column(self.whole, self.ends)),
        )

    def _build_actions(self) -> QWidget:
        self.seeds, self.direction, self.on_range = Choice(SEEDS), Choice(DIRECTIONS), Choice(PLANES)
        self.seeds.setToolTip("Which objects are followed")
        self.direction.setToolTip("Where to go from there; what lies between two outlined planes is always done")
        self.on_range.setToolTip("Where everything is segmented")
        self.propagate = button("Propagate", "Follow the objects of the labels through the planes, into a new layer")
        self.propagate.setObjectName("zeroseg_accept")
        self.again = button("Propagate again", "Do again what depends on planes that you corrected in the result")
        self.everything = button("Segment everything", "All objects, without a prompt")
        self.vote = button("Vote by masks", "Give the classes of the labels the outlines of masks, into a new layer")
        self.link = button("Link planes into objects", "Give sections of one object one number, as one step of undo")
        self.encode = button("Encode ahead", "Encode the planes, that on the screen first, while you do not work")
        self.line = QLineEdit()
        self.line.setPlaceholderText("phrases, with commas between them")
        self.words = button("Words on all planes", "Look for the phrases on the planes of the range")
        self.probability = fraction("Probability above which a pixel belongs to a phrase")
        self.text = column(self.line, row(self.words, self.probability))
        return column(
            row(self.seeds, self.direction),
            row(self.propagate, self.again),
            row(self.everything, self.on_range),
            self.vote,
            self.text,
            self.finding,
            row(self.link, self.encode),
        )

    def _build_run(self) -> QWidget:
        self.status = StatusLine()
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setTextVisible(False)
        self.pause = button("Pause", "Stand still after the step that is being done")
        self.cancel = button("Cancel", "Stop; what was found so far stays")
        self.run = column(self.progress, row(self.pause, self.cancel))
        return column(self.status, self.run)

    def _build_found(self) -> QWidget:
        self.curve = Curve()
        self.back = button("◂ Flag", "The flagged plane before (Shift-G)")
        self.next = button("Flag ▸  G", "The next plane that somebody should look at (G)")
        self.take = button("Take over", "Write the result into the labels where they are empty, as one step of undo")
        self.save = button("Save table", "What segmenting everything has found, as CSV")
        self.log = QListWidget()
        self.log.setWordWrap(True)
        self.log.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.log.setAccessibleName("What was done")
        self.log.setFixedHeight(_LOG_ROWS * (self.log.fontMetrics().lineSpacing() + 6))
        keep_keys_free(self.log)
        return column(self.curve, row(self.back, self.next), row(self.take, self.save), self.log)

    def _style(self) -> None:
        super()._style()
        theme = get_theme(self.viewer.theme)
        self.curve.set_colours(str(theme.text), str(theme.secondary))

    # What the user does

    def _connect(self) -> None:
        session, runner = self.session, self.session.runner
        self.image.picked.connect(session.choose_image)
        self.labels.picked.connect(session.choose_labels)
        self.model.picked.connect(session.set_model)
        for widget, name in ((self.whole, "whole"), (self.seeds, "everywhere"), (self.direction, "direction")):
            widget.picked.connect(lambda value, name=name: session.set_choices(**{name: value}))
        self.line.textChanged.connect(lambda line: session.set_choices(line=line))
        self.on_range.picked.connect(lambda on: session.set_choices(on_range=on))
        for field, name in ((self.first, "first"), (self.last, "last"), (self.probability, "probability")):
            field.valueChanged.connect(lambda value, name=name: session.set_choices(**{name: value}))
        for one, call in (
            (self.propagate, session.propagate),
            (self.again, session.propagate_again),
            (self.everything, session.search),
            (self.words, session.look_for_words),
            (self.vote, session.vote),
            (self.link, session.link),
            (self.encode, session.encode_ahead),
            (self.pause, runner.pause),
            (self.cancel, runner.cancel),
            (self.back, partial(session.next_flag, -1)),
            (self.next, session.next_flag),
            (self.take, session.take_over),
            (self.save, self._save_table),
        ):
            one.clicked.connect(lambda _=False, call=call: call())
        self.curve.picked.connect(session.jump)
        session.changed.connect(self._refresh_soon)
        self.viewer.layers.events.inserted.connect(self._on_layers)
        self.viewer.layers.events.removed.connect(self._on_layers)
        self.viewer.events.theme.connect(self._style)
        # By then this object is half gone, so nothing of it may be asked.
        self.destroyed.connect(partial(_end, self.session, self._free_keys))

    def _save_table(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "The table of what was found", "objects.csv", _TABLES)
        if path:
            self.session.save_table(path)

    # Which layers

    def _layers(self, kind: type[Layer]) -> Iterator[Layer]:
        there = (layer for layer in reversed(self.viewer.layers) if isinstance(layer, kind))
        return (layer for layer in there if not is_preview(layer))

    def _take_from_segment_dock(self) -> None:
        """Begin with the model and the layers that the Segment dock of this viewer uses, if it is open."""
        for dock in self.viewer.window.dock_widgets.values():
            if isinstance(dock, SegmentDock):
                self.session.set_choices(model=dock.session.model)
                self.session.choose_image(dock.session.workspace.image)
                self.session.choose_labels(dock.session.workspace.labels)

    def _choose_layers(self) -> None:
        """Choose an image, and labels that go with it, where nothing is chosen."""
        session, active = self.session, self.viewer.layers.selection.active
        if session.image is None:
            session.choose_image(active if isinstance(active, Image) else next(self._layers(Image), None))
        image = session.image
        if image is not None and session.labels is None:
            own = [] if session.results is None else [session.results.layer]
            there = [one for one in self.viewer.layers[::-1] if isinstance(one, Labels) and not is_preview(one)]
            session.choose_labels(labels_for(self.viewer, image, (one for one in there if one not in own)))

    def _on_layers(self, event: Any) -> None:
        if event.type == "inserted":
            # Whoever makes a layer for results notes that first.
            self.bridge.later("layers", 0, self._choose_layers)
        self._refresh_soon()

    # What the session shows

    def _refresh_soon(self, event: Any = None) -> None:
        self.bridge.later("refresh", 0, self._refresh)

    def _refresh(self) -> None:
        session = self.session
        self.image.show_layer(session.image)
        self.labels.show_layer(session.labels)
        self.model.show_models(session.zoo.entries.values(), session.choices.model.key)
        self._refresh_choices()
        self._refresh_run()
        self.more.refresh()
        self.finding.refresh()
        self.proposals.refresh()
        self._refresh_curve()

    def _refresh_choices(self) -> None:
        choices, place = self.session.choices, self.session.place
        self.whole.show_value(choices.whole)
        self.ends.setVisible(not choices.whole)
        self.text.setVisible(self.session.takes_text)
        self.seeds.show_value(choices.everywhere)
        self.direction.show_value(choices.direction)
        self.on_range.show_value(choices.on_range)
        for field, value in ((self.first, choices.first), (self.last, choices.last)):
            show_number(field, value, None if place is None else place.count - 1)
        show_number(self.probability, choices.probability)

    def _refresh_run(self) -> None:
        session, runner = self.session, self.session.runner
        task, is_free = runner.task, not runner.is_busy
        self.status.show_status(runner.status.text, runner.status.tone)
        self.run.setVisible(task is not None)
        if task is not None:
            done, total = task.progress.done, task.progress.total
            self.progress.setRange(0, 1000 if total else 0)
            self.progress.setValue(round(1000 * done / total) if total else 0)
            self.pause.setText("Resume" if task.is_paused else "Pause")
        has_image, has_labels = session.image is not None, session.labels is not None
        for one, can in (
            (self.propagate, has_image and has_labels),
            (self.again, session.can_follow_again),
            (self.everything, has_image),
            (self.vote, has_image and has_labels),
            (self.words, has_image and bool(session.choices.line.strip())),
            (self.link, has_labels),
            (self.encode, has_image),
            (self.take, session.can_take_over),
        ):
            one.setEnabled(is_free and can)
        self.save.setEnabled(
            session.results is not None and bool(session.results.rows) and session.results.kind == "everything"
        )
        self.take.setText("Take over" if session.labels is None else f"Take over into {_short(session.labels.name)}")
        for text in runner.log[self.log.count() :]:
            self.log.addItem(text)
            self.log.scrollToBottom()

    def _refresh_curve(self) -> None:
        session, survey = self.session, self.session.runner.survey
        if survey is not self._shown_survey:
            self._shown_survey, self._flagged = survey, flagged(session.flags)
        outlined = tuple(survey.outlined) if survey is not None else ()
        data = CurveData(
            session.followed_planes, dict(session.runner.curve), self._flagged, outlined, session.choices.threshold
        )
        self.curve.show_data(data, session.followed_plane)
        for one in (self.back, self.next):
            one.setEnabled(bool(self._flagged))


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _end(session: StackSession, free_keys: Any, _: object = None) -> None:
    free_keys()
    session.close()
