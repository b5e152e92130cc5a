"""The Models dock: what models there are, what each needs, and what can be done about it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QCheckBox, QFileDialog, QLabel, QProgressBar, QSizePolicy, QWidget

from napari_zeroseg._napari.channel import Channel
from napari_zeroseg._napari.engine import shared_engine
from napari_zeroseg._napari.frame import Dock
from napari_zeroseg._napari.keeper import ADDING, Keeper
from napari_zeroseg._napari.layout import button, column, row
from napari_zeroseg._napari.model_widgets import ModelTree, QuestionBox
from napari_zeroseg._napari.widgets import TONES, StatusLine, breakable, keep_keys_free
from napari_zeroseg._napari.zoo import BRING, DOWNLOAD, Entry, Fault, Zoo, shared_zoo
from napari_zeroseg.jobs import InferenceQueue, shared_queue
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.weights.folder import megabytes

if TYPE_CHECKING:
    from napari.viewer import Viewer

_LINK = "#58a6ff"
_POLL = 150
"""Milliseconds between two looks at how far errands have come."""
_FILES = "Weights (*.pth *.pt *.safetensors *.bin);;Exported models (*.zip);;All files (*)"


class ModelsDock(Dock):
    """Lists the models, downloads, verifies, removes and adds them.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.zoo: Zoo = shared_zoo()
        queue: InferenceQueue = shared_queue()
        self._channel = Channel(self.bridge, queue, lambda: shared_engine())
        self.keeper = Keeper(self.zoo, self._channel, queue)
        self._wanted = ""
        self._build()
        self._style()
        self._connect()
        self.zoo.refresh()
        self._refresh()

    def _let_go(self) -> None:
        # Downloads go on, and another dock shows them.
        self._channel.close()
        self.zoo.changed.disconnect(self._on_zoo, missing_ok=True)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Look whether the list is still right."""
        self.zoo.refresh()
        super().showEvent(event)

    # Layout

    def _build(self) -> None:
        self.tree = ModelTree()
        self._lay_out((self.tree, self._build_details(), self._build_errand(), self._build_general()), 310)

    def _build_details(self) -> QWidget:
        self.details = QLabel()
        self.details.setWordWrap(True)
        self.details.setTextFormat(Qt.TextFormat.RichText)
        self.details.setOpenExternalLinks(True)
        self.details.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.download = button("Download", "Shows size, place and licence first")
        self.accept = button("Accept the new file", "Says first what has changed, and what accepting means")
        self.bring = button("Add its file", "Choose the file that you got from its publisher")
        self.verify = button("Verify", "Hash the files anew and compare")
        self.export = button("Export", "Write the model with its card as one file, which others add as a checkpoint")
        self.remove = button("Remove", "Delete the weights from this machine")
        self.question = QuestionBox()
        actions = row(self.download, self.accept, self.bring, self.verify, self.export, self.remove)
        return column(self.details, actions, self.question)

    def _build_errand(self) -> QWidget:
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.stop = button("Stop", "What has come of a download is kept; of anything else nothing half made stays")
        self.stop.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.errand = row(self.progress, self.stop)
        return self.errand

    def _build_general(self) -> QWidget:
        self.status = StatusLine()
        self.add = button("Add a checkpoint", "A file of weights that you have: whose it is, is found out")
        self.unload = button("Unload", "Take all loaded models out of memory; the next prompt loads its model again")
        self.several = QCheckBox("Keep several large models in memory")
        self.several.setToolTip("Off: a large model that is loaded takes the place of another one")
        keep_keys_free(self.several)
        return column(self.status, row(self.add, self.unload), self.several)

    # What the user does

    def _connect(self) -> None:
        keeper = self.keeper
        self.tree.picked.connect(self.show_model)
        self.download.clicked.connect(lambda: keeper.offer(self.key))
        self.accept.clicked.connect(lambda: keeper.offer_change(self.key))
        self.verify.clicked.connect(lambda: keeper.verify(self.key))
        self.export.clicked.connect(lambda: self._choose_target(self.key))
        self.remove.clicked.connect(lambda: keeper.offer_removal(self.key))
        self.bring.clicked.connect(lambda: self._choose_file(self.key))
        self.add.clicked.connect(lambda: self._choose_file(""))
        self.unload.clicked.connect(lambda: keeper.unload())
        self.several.toggled.connect(keeper.keep_several)
        self.stop.clicked.connect(lambda: self._stop())
        self.question.answered.connect(self._on_answer)
        keeper.changed.connect(self._refresh)
        keeper.added.connect(self.show_model)
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL)
        self._timer.timeout.connect(self._refresh_errand)
        self.zoo.changed.connect(self._on_zoo)
        self.viewer.events.theme.connect(self._style)
        # By then this object is half gone, so nothing of it may be asked.
        self.destroyed.connect(lambda _=None, channel=self._channel: channel.close())

    def _choose_file(self, key: str) -> None:
        title = f"The weights of {self.zoo.entries[key].spec.title}" if key else "A checkpoint"
        path, _ = QFileDialog.getOpenFileName(self, title, "", _FILES)
        if path:
            self.keeper.add(path, key)

    def _choose_target(self, key: str) -> None:
        path, _ = QFileDialog.getSaveFileName(self, f"Export {key}", f"{key}.zip", "Model (*.zip)")
        if path:
            self.keeper.offer_export(key, path)

    def _stop(self) -> None:
        self.zoo.cancel(self._errand_key())
        self._refresh_errand()  # at once, whatever else waits for its turn

    def _on_answer(self, yes: bool, key: str, name: str) -> None:
        question = self.keeper.question
        if yes and question is not None and question.file and not key:
            name, _ = QFileDialog.getOpenFileName(self, question.file, "", _FILES)
            if not name:
                return
        self.keeper.answer(yes, key, name)

    def show_model(self, key: str) -> None:
        """Show what is known of a model."""
        if self.keeper.question is not None and key != self.key:
            self.keeper.answer(False)
        self._wanted = key
        self._refresh()

    # What there is to show

    @property
    def key(self) -> str:
        """The model at hand: the one chosen, unless it is not in the list, or not yet."""
        entries = self.zoo.entries
        return self._wanted if self._wanted in entries else next(iter(entries))

    def _on_zoo(self) -> None:
        self._channel.post(self._refresh)

    def _refresh(self) -> None:
        entries = self.zoo.entries
        # Another thread may renew the list at any moment.
        entry = entries.get(self.key) or next(iter(entries.values()))
        self.tree.show_models(entries.values(), entry.spec.key)
        fault = self.zoo.faults.get(entry.spec.key)
        self._refresh_details(entry, fault)
        self.status.show_status(self.keeper.status.text, self.keeper.status.tone)
        self.status.setVisible(bool(self.keeper.status.text))
        self.question.show_question(self.keeper.question)
        self._refresh_errand()

    def _refresh_details(self, entry: Entry, fault: Fault | None) -> None:
        # What the status line or the question says need not be said twice.
        is_said = self.keeper.question is not None or (fault is not None and fault.sentence == self.keeper.status.text)
        trouble = "" if fault is None or is_said else fault.sentence
        self.details.setText(_about(entry, trouble))
        is_busy = entry.spec.key in self.zoo.errands
        self.download.setVisible(entry.state == DOWNLOAD)
        self.download.setEnabled(not is_busy and self.keeper.question is None)
        self.accept.setVisible(fault is not None and bool(fault.change))
        self.accept.setEnabled(not is_busy and self.keeper.question is None)
        self.bring.setVisible(entry.state == BRING)
        self.bring.setEnabled(ADDING not in self.zoo.errands)
        self.verify.setVisible(entry.is_ready)
        self.verify.setEnabled(not is_busy)
        self.export.setVisible(entry.is_ready and entry.where == "models folder")
        self.export.setEnabled(not is_busy)
        self.remove.setVisible(entry.is_ready or entry.is_ours)
        self.remove.setEnabled(not is_busy and not _why_kept(entry))
        self.remove.setToolTip(_why_kept(entry) or "Delete the weights from this machine")
        self.add.setEnabled(ADDING not in self.zoo.errands)

    def _errand_key(self) -> str:
        """The errand to show: that of the model at hand, else an adding, else any."""
        errands = self.zoo.errands
        return next((key for key in (self.key, ADDING) if key in errands), next(iter(errands), ""))

    def _refresh_errand(self) -> None:
        errands = dict(self.zoo.errands)
        self.tree.show_states(errands, self.zoo.faults)
        key = self._errand_key()
        errand = errands.get(key)
        self.errand.setVisible(errand is not None)
        if errand is None:
            self._timer.stop()
            return
        self._timer.start()
        self.progress.setRange(0, 1000 if errand.total else 0)
        self.progress.setValue(round(1000 * errand.there / errand.total) if errand.total else 0)
        whose = "" if key in (self.key, ADDING) else f"{self.keeper.title(key)}: "
        # A style sheet gives a bar without an end no text, so the tool tip has it too.
        self.progress.setFormat(whose + errand.words)
        self.progress.setToolTip(whose + errand.words)
        self.stop.setEnabled(not errand.token.cancelled)


def _why_kept(entry: Entry) -> str:
    """Why a model's files cannot be removed here; "" if they can."""
    if entry.where == "package" and not entry.is_ours:
        return f"{entry.spec.title} is part of napari-zeroseg"
    return "" if entry.is_ours else f"It lies in a {entry.where}: remove it there"


def _about(entry: Entry, trouble: str) -> str:
    spec = entry.spec
    size = "unknown" if entry.size == "?" else entry.size
    facts = [
        ("Takes", ", ".join(kind for kind in PromptKind if kind in spec.accepts)),
        ("Licence", spec.licence + (f". {spec.licence_note}" if spec.licence_note else "")),
        ("Size", size),
    ]
    if entry.is_ready:
        facts.append(("Found in", "the package" if entry.where == "package" else f"the {entry.where}"))
    if entry.left:
        facts.append(("Left", f"{megabytes(entry.left)} in the models folder, damaged or half there"))
    if entry.state == BRING:
        facts.append(("File", spec.sources[0].name or "from its publisher"))
    rows = "".join(f"<tr><td>{name}&nbsp;&nbsp;</td><td>{escape(breakable(text))}</td></tr>" for name, text in facts)
    link = (
        f'<p><a style="color:{_LINK}" href="{escape(spec.homepage)}">{escape(breakable(spec.homepage))}</a></p>'
        if spec.homepage
        else ""
    )
    fault = f'<p style="color:{TONES["warning"]}">{escape(breakable(trouble))}</p>' if trouble else ""
    return (
        f'<p><b style="font-size:14px">{escape(spec.title)}</b> · {entry.state or "looking …"}</p>'
        f"<p>{escape(spec.description)}</p>{fault}<table>{rows}</table>{link}"
    )
