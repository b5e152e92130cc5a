"""The Train dock: widgets that show a training session and pass on what the user does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from napari.utils.theme import get_theme
from qtpy.QtCore import QTimer
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QComboBox, QLabel, QLineEdit, QProgressBar, QSizePolicy, QTextBrowser, QVBoxLayout, QWidget

from napari_zeroseg._napari.frame import Dock
from napari_zeroseg._napari.layers import data_shape
from napari_zeroseg._napari.layout import button, column, form, row
from napari_zeroseg._napari.model_widgets import QuestionBox
from napari_zeroseg._napari.numbers import number
from napari_zeroseg._napari.plots import Line, LinePlot, in_two_rows
from napari_zeroseg._napari.preview import is_preview
from napari_zeroseg._napari.train_gather import PairChoice
from napari_zeroseg._napari.train_session import TrainingSession
from napari_zeroseg._napari.train_watch import RunWatch
from napari_zeroseg._napari.train_widgets import MoreChoices, PairRow, Picture, picture_in
from napari_zeroseg._napari.widgets import Choice, Folded, ModelCombo, Segments, StatusLine, keep_keys_free
from napari_zeroseg._napari.zoo import shared_zoo
from napari_zeroseg.errors import ZerosegError
from napari_zeroseg.training import card as cards

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

_POLL = 300
"""Milliseconds between two looks into the run's folder."""
WHAT = (
    ("decoder", "mask decoder", "Least time and memory: the encoder runs once on each window"),
    ("class", "class, no prompts", "A decoder that finds all objects of the class by itself"),
    ("decoder+class", "decoder and class", "Both of these"),
    (
        "class+all",
        "class, own encoder",
        "The class and a copy of the encoder for it: finds best, takes an hour or a GPU",
    ),
    ("class+blocks", "class, last blocks", "The class and the last blocks of a copy of the encoder for it"),
    ("class+lora", "class, LoRA", "The class and small matrices in a copy of the encoder for it"),
    ("adapter", "decoder and adapter", "PA-SAM's adapter, which looks at the picture's details again, and the decoder"),
    ("lora", "encoder (LoRA)", "Small matrices in the encoder, and the decoder: for a GPU, or patience"),
    ("blocks", "last blocks", "The encoder's last blocks, and the decoder: for a GPU, or patience"),
    ("all", "everything", "All but the prompt encoder: takes most"),
)
_LOSS, _RATE = "#8b949e", "#a371f7"
_KINDS = ("#38bdf8", "#faaa28", "#3fb950", "#f778ba", "#79c0ff", "#d29922")
"""Colours of kinds of prompt, in turn."""

_SHORT = {"centre": "click", "correction": "correction", "box": "box"}
"""What a curve is called where there is little room."""

MEASURES = (
    ("iou", "Held-back IoU", "Mean IoU on held-back objects, by kind of prompt; of the base with dashes"),
    ("dice", "Dice", "Mean Dice on held-back objects, by kind of prompt; of the base with dashes"),
)


class TrainDock(Dock):
    """Trains a model on labelled layers, in a process of its own, and shows how it does.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        viewer = self.viewer
        self.session = TrainingSession(shared_zoo(), self.bridge, lambda: viewer.dims)
        self.pair_rows: list[PairRow] = []
        self._card_of: Path | None = None
        self._picture_of: Path | bytes | None = None
        self._build()
        self._style()
        self._connect()
        self.session.zoo.refresh()
        self._choose_layers()
        self.session.find()
        self._refresh()

    def _let_go(self) -> None:
        # The run goes on, and the next dock finds it.
        self._timer.stop()
        self.session.close()

    # Layout

    def _build(self) -> None:
        parts = (
            self._build_data(),
            self._build_what(),
            Folded("More", self._build_more()),
            self._build_actions(),
            self._build_run(),
            self._build_curves(),
        )
        self._lay_out(parts, 320)

    def _build_data(self) -> QWidget:
        self._pairs = QVBoxLayout()
        self._pairs.setContentsMargins(0, 0, 0, 0)
        holder = QWidget()
        holder.setLayout(self._pairs)
        self.add = button("Add a picture", "Learn from another image with its labels as well")
        return column(holder, self.add)

    def _build_what(self) -> QWidget:
        self.base = ModelCombo(self.session.zoo.refresh)
        self.name = QLineEdit()
        self.name.setToolTip("Under which the result is listed: letters, digits, '_', '-' and '.'")
        self.what = Choice(WHAT)
        self.minutes = number(0, 100_000, "How long to train; automatic: some 300 steps", " min", "automatic")
        self.words = QLineEdit()
        self.words.setPlaceholderText("mitochondrion, or lung=1, heart=2")
        self.words.setToolTip("What the labels are called: one phrase for all of them, or phrases with their numbers")
        self.words_part = form(("Words", self.words))
        rest = form(("Train", self.what), ("Time", self.minutes))
        return column(form(("Base", self.base), ("Name", self.name)), self.words_part, rest)

    def _build_more(self) -> QWidget:
        self.more = MoreChoices()
        return self.more

    def _build_actions(self) -> QWidget:
        self.fits = button("What fits", "Measure, before the start, how long it will take and in how much memory")
        self.sees = button(
            "What it sees", "Draw, before the start, windows, their variants and prompts as the network will see them"
        )
        self.estimate = QLabel()
        self.estimate.setWordWrap(True)
        self.train = button("Train", "Start, in a process of its own: it goes on when napari is closed")
        self.train.setObjectName("zeroseg_accept")
        return column(self.train, row(self.fits, self.sees), self.estimate)

    def _build_run(self) -> QWidget:
        self.runs = QComboBox()
        self.runs.setToolTip("Runs that are under way or were made before; choose one to see it or to go on with it")
        self.runs.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.runs.setMinimumContentsLength(10)
        keep_keys_free(self.runs)
        self.go_on = button("Go on", "Go on with this run from what was saved last")
        self.remove_run = button("✕", "Remove this run from the disk; a model that it made stays")
        self.remove_run.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.question = QuestionBox()
        self.status = StatusLine()
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.pause = button("Pause", "Stand still after the step that is being done")
        self.stop = button("Stop", "End after the step that is being done; what was learnt is kept")
        self.under_way = column(self.progress, row(self.pause, self.stop))
        self.use_model = button("Use it", "Segment with the trained model from now on")
        self.use_base = button(
            "Use the base", "Segment with the model that it was trained from: it did as well or better"
        )
        self.use = row(self.use_model, self.use_base)
        runs = form(("Run", row(self.runs, self.go_on, self.remove_run)))
        return column(runs, self.question, self.status, self.under_way, self.use)

    def _build_curves(self) -> QWidget:
        self.loss = LinePlot("Loss by step")
        self.rate = LinePlot("Learning rate by step")
        self.score = LinePlot("IoU or Dice on held-back objects by step, and that of the base")
        self.measure = Segments(MEASURES)
        self._measure = "iou"
        self.figures = QLabel()
        self.figures.setWordWrap(True)
        self.figures.setObjectName("zeroseg_figures")
        self.picture = Picture()
        self.card = QTextBrowser()
        self.card.setMinimumHeight(220)
        self.card_part = Folded("Card of the result", self.card)
        self.curves = column(self.loss, self.measure, self.score, self.rate, self.figures)
        return column(self.curves, self.picture, self.card_part)

    def _style(self) -> None:
        super()._style()
        theme = get_theme(self.viewer.theme)
        for plot in (self.loss, self.score, self.rate):
            plot.set_colours(str(theme.text), str(theme.secondary))

    # What the user does

    def _connect(self) -> None:
        session = self.session
        self.measure.picked.connect(self._show_measure)
        self.add.clicked.connect(lambda: self._add_pair())
        self.base.picked.connect(lambda key: session.set_choices(base=key))
        self.name.textChanged.connect(lambda text: session.set_choices(name=text))
        self.what.picked.connect(lambda what: session.set_choices(what=what))
        self.words.textChanged.connect(lambda text: session.set_choices(words=text))
        self.minutes.valueChanged.connect(lambda minutes: session.set_choices(minutes=minutes))
        self.more.changed.connect(lambda name, value: session.set_choices(**{name: value}))
        self.more.preset_picked.connect(session.set_preset)
        self.runs.activated.connect(lambda index: session.show_run(self.runs.itemData(index)))
        for one, call in (
            (self.fits, self._measure_or_stop),
            (self.sees, self._draw_or_stop),
            (self.train, self._train_or_stop),
            (self.go_on, session.go_on),
            (self.pause, self._pause_or_resume),
            (self.remove_run, session.ask_to_remove),
            (self.stop, partial(session.tell, "stop")),
            (self.use_model, self._use_model),
            (self.use_base, self._use_base),
        ):
            one.clicked.connect(lambda _=False, call=call: call())
        self.question.answered.connect(lambda yes, *_: session.answer(yes))
        session.changed.connect(self._refresh_soon)
        session.zoo.changed.connect(self._on_zoo)
        for events in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            events.connect(self._on_layers)
        self.viewer.events.theme.connect(self._style)
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL)
        self._timer.timeout.connect(session.look)
        self._timer.start()
        # By then this object is half gone, so nothing of it may be asked.
        self.destroyed.connect(lambda _=None, session=session: session.close())

    def _train_or_stop(self) -> None:
        if self.session.is_gathering:
            self.session.cancel()
        else:
            self.session.train()

    def _measure_or_stop(self) -> None:
        if self.session.is_measuring:
            self.session.cancel()
        else:
            self.session.ask_what_fits()

    def _draw_or_stop(self) -> None:
        if self.session.is_looking:
            self.session.cancel()
        else:
            self.session.ask_what_it_sees()

    def _use_model(self) -> None:
        if self.session.watch is not None:
            self._segment_with(self.session.watch.name)

    def _use_base(self) -> None:
        if self.session.watch is not None:
            self._segment_with(self.session.watch.base)

    def _segment_with(self, key: str) -> None:
        """Open the Segment dock, if it is not, and let it use a model."""
        _, dock = self.viewer.window.add_plugin_dock_widget("napari-zeroseg", "Segment", tabify=True)
        dock.parent().show()
        dock.parent().raise_()
        dock.session.set_model(replace(dock.session.model, key=key))

    def _pause_or_resume(self) -> None:
        watch = self.session.watch
        if watch is not None:
            self.session.tell("resume" if watch.state == "paused" or watch.wanted == "pause" else "pause")

    # Which layers

    def _layers(self, kind: type[Layer]) -> Iterator[Layer]:
        there = (layer for layer in reversed(self.viewer.layers) if isinstance(layer, kind))
        return (layer for layer in there if not is_preview(layer))

    def _on_layers(self, _: Any = None) -> None:
        self.bridge.later("layers", 0, self._choose_layers)

    def _add_pair(self) -> None:
        self.session.pairs.append(PairChoice())
        self._choose_layers()

    def _remove_pair(self, pair: PairChoice) -> None:
        self.session.pairs.remove(pair)
        self._choose_layers()

    def _choose_layers(self) -> None:
        """Forget layers that are gone; the first row begins with labels and the image that they fit."""
        images, labels = list(self._layers(Image)), list(self._layers(Labels))
        for pair in self.session.pairs:
            pair.image = pair.image if pair.image in images else None
            pair.labels = pair.labels if pair.labels in labels else None
        first = self.session.pairs[0]
        both = [(one, other) for one in labels for other in images if data_shape(one) == data_shape(other)]
        fitting = [(one, other) for one, other in both if first.labels in (None, one) and first.image in (None, other)]
        if fitting and (first.labels is None or first.image is None):
            first.labels, first.image = fitting[0]
        self._show_pairs()
        self._refresh_soon()

    def _show_pairs(self) -> None:
        if [one.pair for one in self.pair_rows] != self.session.pairs:
            for old in self.pair_rows:
                old.setParent(None)
                old.deleteLater()
            self.pair_rows = [
                PairRow(pair, partial(self._layers, Image), partial(self._layers, Labels))
                for pair in self.session.pairs
            ]
            for new in self.pair_rows:
                self._pairs.addWidget(new)
                new.changed.connect(self._refresh_soon)
                new.removed.connect(self._remove_pair)
        for one in self.pair_rows:
            one.show_pair(can_go=len(self.pair_rows) > 1)

    # What the session shows

    def _on_zoo(self) -> None:
        # In whichever thread noticed.
        self.bridge.post(self._refresh_soon)

    def _refresh_soon(self, _: Any = None) -> None:
        self.bridge.later("refresh", 0, self._refresh)

    def _refresh(self) -> None:
        session, choices = self.session, self.session.choices
        self.base.show_models(session.bases, choices.base)
        self.name.setPlaceholderText(session.name)
        self.what.offer([way for way in WHAT if way[0] in (session.ways or (choices.what,))])
        self.what.show_value(choices.what)
        self.words_part.setVisible(session.asks_words)
        self.minutes.blockSignals(True)
        self.minutes.setValue(choices.minutes)
        self.minutes.blockSignals(False)
        self.more.show_choices(choices)
        self.estimate.setText(session.estimate)
        self.estimate.setVisible(bool(session.estimate))
        self.status.show_status(session.status.text, session.status.tone)
        self._refresh_runs()
        watch = session.watch
        is_live = watch is not None and watch.is_live
        has_layers = all(pair.image is not None and pair.labels is not None for pair in session.pairs)
        self.train.setText("Stop gathering" if session.is_gathering else "Train")
        self.train.setEnabled(session.is_gathering or (has_layers and not is_live and not session.is_preparing))
        self.fits.setText("Stop measuring" if session.is_measuring else "What fits")
        self.fits.setEnabled(session.is_measuring or (has_layers and not session.is_preparing))
        self.sees.setText("Stop drawing" if session.is_looking else "What it sees")
        self.sees.setEnabled(session.is_looking or (has_layers and not session.is_preparing))
        self.go_on.setVisible(watch is not None and watch.can_go_on)
        self.remove_run.setVisible(watch is not None and not is_live)
        self.question.show_question(session.question)
        self.under_way.setVisible(is_live)
        offers = () if watch is None else watch.offers
        self.use.setVisible(bool(offers))
        self.use_model.setVisible(watch is not None and watch.name in offers)
        self.use_base.setVisible(watch is not None and watch.base in offers)
        self._refresh_curves()
        self._refresh_picture()
        self._refresh_card()

    def _refresh_runs(self) -> None:
        session = self.session
        listed = [(None, "new run"), *((folder, f"{name} · {state}") for folder, state, name in session.runs)]
        if [text for _, text in listed] != [self.runs.itemText(i) for i in range(self.runs.count())]:
            self.runs.clear()
            for folder, text in listed:
                self.runs.addItem(text, folder)
        watched = None if session.watch is None else session.watch.folder
        folders = [folder for folder, _ in listed]
        self.runs.setCurrentIndex(folders.index(watched) if watched in folders else 0)

    def _refresh_curves(self) -> None:
        watch = self.session.watch
        self.curves.setVisible(watch is not None)
        if watch is None:
            return
        self.progress.setRange(0, watch.steps)
        self.progress.setValue(watch.step)
        is_paused = watch.state == "paused" or watch.wanted == "pause"
        self.pause.setText("Resume" if is_paused else "Pause")
        for one in (self.pause, self.stop):
            one.setEnabled(watch.wanted != "stop")
        self.loss.show_lines((Line("loss", tuple(watch.losses), _LOSS),), watch.steps)
        self.rate.show_lines((Line("learning rate", tuple(watch.rates), _RATE),), watch.steps)
        self.measure.show_value(self._measure)
        self.score.show_lines(_by_kind(watch, self._measure), watch.steps)
        self.figures.setText(watch.figures)

    def _show_measure(self, measure: str) -> None:
        self._measure = measure
        self._refresh_curves()

    def _refresh_picture(self) -> None:
        """The sheet that was asked for last, or the held-back objects of the run."""
        watch, sheet = self.session.watch, self.session.sheet
        path = watch.folder.previews / Path(watch.picture).name if watch is not None and watch.picture else None
        shown = sheet or path
        if shown == self._picture_of and shown is not None:
            return
        self._picture_of = shown
        width = max(200, self.minimumWidth() - 30)
        if sheet:
            self.picture.show_picture(picture_in(sheet), width, "What the network will see: click to enlarge")
        else:
            picture = QPixmap() if path is None else in_two_rows(QPixmap(str(path)))
            self.picture.show_picture(picture, width, "Held back: truth green, base orange, present blue")

    def _refresh_card(self) -> None:
        watch = self.session.watch
        if watch is None or watch.state != "done":
            self.card_part.hide()
            self._card_of = None
        elif self._card_of != watch.folder.path:
            self._card_of = watch.folder.path
            try:
                self.card.setMarkdown(cards.as_text(cards.read(watch.name)))
                self.card_part.show()
            except ZerosegError:  # the model was removed since
                self.card_part.hide()


def _by_kind(watch: RunWatch, measure: str) -> list[Line]:
    """A curve for each kind of prompt, and with dashes what the base reaches."""
    curves, bases = watch.scores.get(measure, {}), watch.bases.get(measure, {})
    lines, end = [], max(1, watch.steps)
    for place, kind in enumerate(dict.fromkeys([*bases, *curves])):
        colour = _KINDS[place % len(_KINDS)]
        lines.append(Line(_SHORT.get(kind, kind.replace("_", " ")), tuple(curves.get(kind, ())), colour))
        if kind in bases:
            lines.append(Line("", ((0, bases[kind]), (end, bases[kind])), colour, dashed=True))
    return [*lines, Line("- - base", (), _LOSS)] if bases else lines
