"""The Segment dock: widgets that show a session and pass on what the user does; every callback is one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Points, Shapes
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QLineEdit, QPushButton, QSpinBox, QWidget

from napari_zeroseg._napari.compare import CompareWindow
from napari_zeroseg._napari.computing import DEVICES, PRECISIONS
from napari_zeroseg._napari.engine import ModelChoice
from napari_zeroseg._napari.frame import Dock
from napari_zeroseg._napari.keys import Keys
from napari_zeroseg._napari.layout import button, column, form, icon_colour, row
from napari_zeroseg._napari.session import Session
from napari_zeroseg._napari.text import TextPart
from napari_zeroseg._napari.widgets import (
    ICON_SIZE,
    Candidates,
    Choice,
    Folded,
    KeyTable,
    LayerCombo,
    ModelCombo,
    Segments,
    StatusLine,
    icon,
    keep_keys_free,
)
from napari_zeroseg.instances import OverlapPolicy
from napari_zeroseg.prompts import PromptKind

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

KINDS = (
    ("points", "Points", "Click on the object; T for clicks on background"),
    ("box", "Box", "Draw a rectangle around the object"),
    ("mask", "Outline", "Draw roughly around the object; the model refines it"),
)
PLURALS = {"points": "points", "box": "boxes", "mask": "outlines"}
OVERLAPS = (
    (OverlapPolicy.KEEP, "Keep others", "Pixels of other objects stay theirs"),
    (OverlapPolicy.REPLACE, "Replace", "The new object takes all of its pixels"),
    (OverlapPolicy.EMPTY, "Only empty", "Only pixels without any label are written"),
)
FIELDS = (
    ("auto", "auto", "Chosen by the size of the object: near for small ones"),
    ("plane", "whole plane", "The whole plane at once: for large objects"),
    (512, "512 px", "A window of 512 pixels around the prompt: for small objects"),
)
MODES = (
    (False, "Instances", "Each accepted object gets its own number"),
    (True, "Semantic", "Accepted objects get the number of their class"),
)


class SegmentDock(Dock):
    """Segments the plane on the screen by clicks, boxes and outlines.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.session = Session(self.viewer, self.bridge)
        self.keys = Keys(self.viewer, self.session)
        self._compare: CompareWindow | None = None
        self._build()
        self._style()
        self._connect()
        self._choose_first_image()
        self._refresh()

    def _let_go(self) -> None:
        _end(self.session, self.keys)

    # Layout

    def _build(self) -> None:
        self.text = TextPart(self.session.wording, self.session.outlining, self.session.detecting)
        more, keys = Folded("More", self._build_more()), Folded("Keys", KeyTable())
        source, prompts, output = self._build_source(), self._build_prompts(), self._build_output()
        self._lay_out((source, prompts, self.text, output, self._build_result(), more, keys), 290)

    def _build_source(self) -> QWidget:
        self.image = LayerCombo(partial(self._layers, Image), "no image")
        self.model = ModelCombo(self.session.models.zoo.refresh)
        self.device, self.precision = Choice(DEVICES), Choice(PRECISIONS)
        self.device.setToolTip("Where the model computes")
        self.precision.setToolTip("How exactly the model computes")
        for one in (self.device, self.precision):
            one.setMinimumWidth(80)  # both beside each other, however narrow the dock is
        return form(("Image", self.image), ("Model", self.model), ("Runs on", row(self.device, self.precision)))

    def _build_prompts(self) -> QWidget:
        self.kinds = Segments(KINDS)
        self.sign = QPushButton()
        self.sign.setToolTip("Whether the next point is on the object or on background (T)")
        self.sign.setFixedWidth(30)
        keep_keys_free(self.sign)
        return row(self.kinds, self.sign)

    def _build_output(self) -> QWidget:
        self.labels = LayerCombo(partial(self._layers, Labels), "new Labels layer")
        self.mode = Segments(MODES)
        self.class_id = QSpinBox()
        self.class_id.setRange(1, 65535)
        self.class_id.setKeyboardTracking(False)
        self.class_id.setToolTip("Number of the class that accepted objects get")
        self.overlap = Choice(OVERLAPS)
        self.overlap.setToolTip("What happens to pixels that belong to another object")
        return form(("Output", self.labels), ("As", row(self.mode, self.class_id)), ("Overlap", self.overlap))

    def _build_result(self) -> QWidget:
        self.status, self.candidates = StatusLine(), Candidates()
        self.live = QCheckBox("Live")
        self.live.setToolTip("Preview after every change of a prompt")
        self.predict = button("Predict", "Ask the model about the prompts on this plane")
        self.accept = button("Accept  ⏎", "Write the preview into the Labels layer (Enter)")
        self.accept.setObjectName("zeroseg_accept")
        self.discard = button("Discard", "Drop the preview and its prompts (Escape)")
        self.next = button("Next object", "Leave this object in the preview and begin another (N)")
        self.undo = button("Undo", "Take back the last accept or discard (Ctrl-Z)")
        self.refine = button("Refine label", "Pick up the selected label of the output on this plane and improve it")
        keep_keys_free(self.live)
        return column(
            self.status,
            self.candidates,
            self.accept,
            row(self.discard, self.next),
            row(self.undo, self.refine),
            row(self.live, self.predict),
        )

    def _build_more(self) -> QWidget:
        self.batched = QCheckBox("Every box and point is an object")
        self.batched.setToolTip("Off: all prompts describe one object. On: each is its own, all answered at once.")
        keep_keys_free(self.batched)
        self.field = Choice(FIELDS)
        self.field.setToolTip("How much of the plane the model looks at")
        self.templates = QLineEdit()
        self.templates.setPlaceholderText("{}")
        self.templates.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.templates.setToolTip("Sentences that phrases are put into, such as: a photo of a {}; an X-ray of the {}")
        self.points = LayerCombo(partial(self._layers, Points), "new Points layer")
        self.shapes = LayerCombo(partial(self._layers, Shapes), "new Shapes layer")
        self.compare = button("Compare models", "Ask several models the same, and pick the best answer")
        self.manage = button("Manage models", "Download, add, verify and remove models")
        return form(
            ("", self.batched),
            ("Field of view", self.field),
            ("Templates", self.templates),
            ("Points", self.points),
            ("Shapes", self.shapes),
            ("", row(self.compare, self.manage)),
        )

    def _style(self) -> None:
        super()._style()
        colour = icon_colour(self.viewer.theme)
        for kind, one in self.kinds.buttons.items():
            one.setIcon(icon(kind, colour))
            one.setIconSize(ICON_SIZE)

    # What the user does

    def _connect(self) -> None:
        session, workspace = self.session, self.session.workspace
        self.image.picked.connect(workspace.choose_image)
        self.labels.picked.connect(workspace.choose_labels)
        self.points.picked.connect(workspace.choose_points)
        self.shapes.picked.connect(workspace.choose_shapes)
        self.model.picked.connect(lambda key: session.set_model(ModelChoice(key, *self._computing())))
        self.device.picked.connect(lambda device: session.set_model(self._choice(device=device)))
        self.precision.picked.connect(lambda precision: session.set_model(self._choice(precision=precision)))
        self.kinds.picked.connect(session.begin)
        self.sign.clicked.connect(lambda: session.toggle_sign())
        self.mode.picked.connect(lambda semantic: session.set_options(semantic=semantic))
        self.class_id.valueChanged.connect(lambda number: session.set_options(class_id=number))
        self.overlap.picked.connect(lambda policy: session.set_options(policy=policy))
        self.field.picked.connect(lambda field: session.set_options(field=field))
        self.templates.editingFinished.connect(lambda: session.wording.put_into(self.templates.text()))
        self.live.toggled.connect(lambda on: session.set_options(live=on))
        self.batched.toggled.connect(lambda on: session.set_options(batched=on))
        self.candidates.stepped.connect(session.next_candidate)
        calls: tuple[tuple[QPushButton, Callable[[], None]], ...] = (
            (self.predict, session.predict),
            (self.accept, session.accept),
            (self.discard, session.discard),
            (self.next, session.next_object),
            (self.undo, session.undo),
            (self.refine, session.refine),
            (self.compare, self.open_compare),
            (self.manage, self.open_models),
        )
        for one, call in calls:
            one.clicked.connect(lambda _=False, call=call: call())
        session.changed.connect(self._refresh_soon)
        session.models.wanted.connect(self.open_models)
        self.viewer.layers.events.inserted.connect(self._on_layers)
        self.viewer.layers.events.removed.connect(self._on_layers)
        self.viewer.layers.selection.events.active.connect(self._refresh_soon)
        self.viewer.events.theme.connect(self._style)
        # By then this object is half gone, so nothing of it may be asked.
        self.destroyed.connect(partial(_end, self.session, self.keys))

    def _computing(self) -> tuple[str, str]:
        return self.session.model.device, self.session.model.precision

    def _devices(self) -> tuple[tuple[str, str, str], ...]:
        """What there is to compute on: known in full once torch is there."""
        known, chosen = self.session.models.devices, (self.session.loading or self.session.model).device
        if known is None:
            return DEVICES
        found = (*DEVICES[:2], *((name, name, about) for name, about in known))
        return (*found, *(choice for choice in DEVICES[2:] if choice[0] == chosen and chosen not in dict(known)))

    def _choice(self, device: str | None = None, precision: str | None = None) -> ModelChoice:
        now = self.session.loading or self.session.model
        return ModelChoice(now.key, device or now.device, precision or now.precision)

    def _layers(self, kind: type[Layer]) -> Iterator[Layer]:
        preview = self.session.preview.layer
        return (layer for layer in reversed(self.viewer.layers) if isinstance(layer, kind) and layer is not preview)

    def _choose_first_image(self) -> None:
        active = self.viewer.layers.selection.active
        first = active if isinstance(active, Image) else next(self._layers(Image), None)
        if first is not None and self.session.workspace.image is None:
            self.session.workspace.choose_image(first)

    def _on_layers(self, event: Any) -> None:
        if event.type == "inserted":
            self._choose_first_image()
        self._refresh_soon()

    def open_models(self, key: str = "") -> None:
        """Open the Models dock, at a model if one is named."""
        _, dock = self.viewer.window.add_plugin_dock_widget("napari-zeroseg", "Models", tabify=True)
        dock.parent().show()
        dock.parent().raise_()
        if key:
            dock.show_model(key)

    def open_compare(self) -> None:
        """Open the window that compares models."""
        if self._compare is None:
            self._compare = CompareWindow(self.session, self)
        self._compare.show()
        self._compare.raise_()

    # What the session shows

    def _refresh_soon(self, event: Any = None) -> None:
        self.bridge.later("refresh", 0, self._refresh)

    def _refresh(self) -> None:
        session, workspace, options = self.session, self.session.workspace, self.session.options
        choice = session.loading or session.model
        for combo, layer in (
            (self.image, workspace.image),
            (self.labels, workspace.labels),
            (self.points, workspace.points),
            (self.shapes, workspace.shapes),
        ):
            combo.show_layer(layer)
        self.model.show_models(session.models.zoo.entries.values(), choice.key)
        self.device.offer(self._devices())
        self.device.show_value(choice.device)
        self.precision.show_value(choice.precision)
        self._refresh_prompts()
        self._refresh_output()
        self.overlap.show_value(options.policy)
        self.field.show_value(options.field)
        self.templates.setEnabled(session.wording.takes_text)
        self.live.setChecked(options.live)
        self.batched.setChecked(options.batched)
        self._refresh_result()

    def _refresh_prompts(self) -> None:
        session, workspace = self.session, self.session.workspace
        accepts = session.spec.accepts
        flat = workspace.image is not None and self.viewer.dims.ndisplay == 2
        for kind, _, explanation in KINDS:
            one = self.kinds.buttons[kind]
            takes = PromptKind(kind) in accepts
            one.setEnabled(flat and takes)
            one.setToolTip(explanation if takes else f"{session.spec.title} takes no {PLURALS[kind]}")
        self.kinds.show_value(self._kind_in_use())
        self.sign.setEnabled(flat and PromptKind.POINTS in accepts)
        self.text.setVisible(session.models.zoo.knows_text)
        self.text.refresh(session.options.text, session.options.threshold, session.spec.title)
        self.sign.setText("+" if session.is_positive else "−")
        colour = "#2ecc71" if session.is_positive else "#ff4d4d"
        look = "QPushButton { font-weight: bold; font-size: 15px; padding: 2px; }"
        self.sign.setStyleSheet(f"{look} QPushButton:enabled {{ color: {colour}; }}")

    def _refresh_output(self) -> None:
        options, by_words = self.session.options, self.session.wording.is_in_use
        self.mode.show_value(options.semantic or by_words)
        for _, one in self.mode.buttons.items():
            one.setEnabled(not by_words)
        self.class_id.blockSignals(True)
        self.class_id.setValue(options.class_id)
        self.class_id.blockSignals(False)
        self.class_id.setVisible(options.semantic and not by_words)

    def _kind_in_use(self) -> str | None:
        active, workspace = self.viewer.layers.selection.active, self.session.workspace
        if active is None:
            return None
        mode = str(active.mode)
        if active is workspace.points and mode == "add":
            return "points"
        if active is workspace.shapes and mode.startswith("add_"):
            return "box" if mode == "add_rectangle" else "mask"
        return None

    def _refresh_result(self) -> None:
        session = self.session
        self.status.show_status(session.status.text, session.status.tone)
        self._refresh_candidates()
        self.accept.setEnabled(session.can_accept)
        self.predict.setVisible(not session.options.live)
        self.predict.setEnabled(session.asking.is_pending)
        self.undo.setEnabled(bool(session.ledger.steps))
        self.refine.setEnabled(session.workspace.labels is not None)

    def _refresh_candidates(self) -> None:
        asking = self.session.asking
        current, scores = asking.current, asking.scores
        self.candidates.setVisible(not self.session.wording.is_in_use)
        if current is None:
            self.candidates.show_nothing()
        elif len(scores) > 1 and len(current[0].scores) == 1:
            self.candidates.show_several(scores)
        else:
            one, shown = current
            score = min(1.0, one.scores[shown])
            self.candidates.show_candidate(shown + 1, len(one.scores), score, asking.current_name)


def _end(session: Session, keys: Keys, _: object = None) -> None:
    keys.close()
    session.close()
