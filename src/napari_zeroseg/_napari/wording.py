"""Wording: the text line of a session, its classes, threshold and heat maps. No Qt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from numpy.typing import NDArray
from psygnal import Signal

from napari_zeroseg._napari import prompt_layers
from napari_zeroseg._napari.heat import HeatMaps
from napari_zeroseg._napari.marks import needs_words
from napari_zeroseg._napari.phrase_map import phrase_marks
from napari_zeroseg._napari.preview import colour_of
from napari_zeroseg.errors import InputError
from napari_zeroseg.jobs import Priority
from napari_zeroseg.prompts import PromptKind

if TYPE_CHECKING:
    import numpy as np

    from napari_zeroseg._napari.asking import Asking
    from napari_zeroseg._napari.channel import Channel
    from napari_zeroseg._napari.engine import Answer
    from napari_zeroseg._napari.phrase_map import PhraseMap
    from napari_zeroseg._napari.preview import Preview
    from napari_zeroseg._napari.workspace import Workspace

_AFTER_TYPING = 0.5
"""Seconds for which the keyboard must rest before a line that is being typed is asked."""


@dataclass(frozen=True)
class LegendRow:
    """A class as the legend shows it.

    Attributes
    ----------
    number : int
        What is written into the output.
    phrase, colour : str
    pixels : int or None
        None while there is no answer.
    score : float
        Mean probability inside the mask.
    has_heat : bool
        Whether its heat map is on the screen.
    """

    number: int
    phrase: str
    colour: str
    pixels: int | None = None
    score: float = 0.0
    has_heat: bool = False


class Wording:
    """What is looked for by words.

    Parameters
    ----------
    workspace : Workspace
    preview : Preview
    asking : Asking
    channel : Channel
    """

    changed = Signal()
    """The legend, the line or a heat map is different."""

    def __init__(self, workspace: Workspace, preview: Preview, asking: Asking, channel: Channel) -> None:
        self.heat = HeatMaps(workspace.viewer, preview)
        self._workspace = workspace
        self._asking = asking
        self._channel = channel
        self._of: Answer | None = None

    @property
    def takes_text(self) -> bool:
        """Whether the model in use does."""
        return PromptKind.TEXT in self._asking.spec.accepts

    @property
    def is_in_use(self) -> bool:
        """Whether words are what the model is asked about, rather than what is drawn."""
        return needs_words(self._asking.spec.accepts) or bool(self.legend())

    @property
    def found(self) -> PhraseMap | None:
        """The answer, where it is one to phrases."""
        answer = self._asking.answer
        return None if answer is None else answer.phrases

    def legend(self) -> list[LegendRow]:
        """The classes, in the order of the line; with figures once there is an answer."""
        if not self.takes_text:
            return []
        found = self.found
        if found is not None:
            threshold = self._asking.options.threshold
            figures = zip(found.phrases, found.pixels(threshold), found.scores(threshold), strict=True)
            return [
                LegendRow(k, phrase, colour_of(k), pixels, score, self.heat.is_shown(phrase))
                for k, (phrase, pixels, score) in enumerate(figures, start=1)
            ]
        plane = self._asking.plane
        drawn = [] if plane is None else self._workspace.drawn(plane)
        try:
            marks = phrase_marks(self._asking.options.text, drawn)
        except InputError:
            return []  # which look() has told already
        phrases = dict.fromkeys((m.object_id, m.phrase) for m in marks if not m.is_unwanted)
        return [LegendRow(k, phrase, colour_of(k)) for k, phrase in phrases]

    def type(self, line: str) -> None:
        """Look for what the line says, once the keyboard rests."""
        self._channel.later("text", _AFTER_TYPING, lambda: self.enter(line))

    def enter(self, line: str) -> None:
        """Look for what the line says, now."""
        if line != self._asking.options.text:
            self._asking.options = replace(self._asking.options, text=line)
            self._asking.look_soon()
            self.changed.emit()

    def put_into(self, line: str) -> None:
        """Ask for phrases in sentences such as "a photo of a {}", with semicolons between several."""
        templates = tuple(part.strip() for part in line.split(";") if part.strip()) or ("{}",)
        if templates != self._asking.options.templates:
            self._asking.options = replace(self._asking.options, templates=templates)
            self._asking.look_soon()
            self.changed.emit()

    def cut_at(self, per_cent: int) -> None:
        """Take what is more probable than that many per cent; the model does not run."""
        self._asking.set_threshold(per_cent / 100)
        self.changed.emit()

    def write_on_boxes(self) -> None:
        """Make the line the text of the selected boxes, or of the newest: what is looked for inside them only."""
        shapes = self._workspace.shapes
        count = 0 if shapes is None else prompt_layers.set_text(shapes, self._asking.options.text)
        if not count:
            self._channel.report(InputError("There is no box to write on: draw one, or select some of the shapes."))

    def toggle_heat(self, phrase: str) -> None:
        """Show a phrase's heat map, or take it away."""
        if self.heat.is_shown(phrase):
            self.heat.hide(phrase)
            self.changed.emit()
        else:
            self._draw_heat([phrase])

    def renew_heat(self) -> None:
        """Draw the heat maps that are on the screen for the newest answer."""
        found = self.found
        if found is not None and self._asking.answer is not self._of:
            self._draw_heat([phrase for phrase in found.phrases if self.heat.is_shown(phrase)])

    def on_model(self) -> None:
        """Take all heat maps away from a model that takes no text."""
        if not self.takes_text:
            for phrase in list(self.heat.layers):
                self.heat.hide(phrase)

    def _draw_heat(self, phrases: list[str]) -> None:
        answer, found, plane = self._asking.answer, self.found, self._asking.plane
        if found is None or plane is None or not phrases:
            return
        self._of = answer

        def show(maps: dict[str, NDArray[np.float32]]) -> None:
            image = self._workspace.image
            if image is not None and self._asking.answer is answer:
                for phrase, probabilities in maps.items():
                    self.heat.show(image, plane, phrase, probabilities)
                self.changed.emit()

        self._channel.submit(
            "heat",
            Priority.CLICK,
            lambda _: {phrase: found.heat(phrase) for phrase in phrases},
            show,
            self._on_error,
        )

    def _on_error(self, error: Exception) -> None:
        self._channel.report(error)
