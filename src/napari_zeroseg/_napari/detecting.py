"""Detecting: a detector that the user brings gives boxes, which become those of the layers as words do. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from psygnal import Signal

from napari_zeroseg._napari.outlining import Drawing, Outline, is_labelled
from napari_zeroseg._napari.remembered import recall, remember
from napari_zeroseg.cascade.detectors import Detections, Detector, load_detector
from napari_zeroseg.cascade.text import checked_phrases
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.phrases import parted
from napari_zeroseg.prompts import Prompt, PromptKind

if TYPE_CHECKING:
    from napari_zeroseg._napari.asking import Asking
    from napari_zeroseg._napari.channel import Channel
    from napari_zeroseg._napari.marks import Box
    from napari_zeroseg._napari.outlining import Outlining
    from napari_zeroseg.jobs import CancelToken
    from napari_zeroseg.view import View

_FOLDER = "detector"


class Detecting:
    """Boxes of a detector, with their classes and scores.

    Parameters
    ----------
    outlining : Outlining
        Puts them into the layers.
    asking : Asking
        Whose text line says what is looked for.
    channel : Channel
    """

    changed = Signal()

    def __init__(self, outlining: Outlining, asking: Asking, channel: Channel) -> None:
        self.folder = recall(_FOLDER)
        """Where transformers saved the detector; "" until the user has chosen one."""
        self.least_score = 0.3
        self._outlining = outlining
        self._asking = asking
        self._channel = channel
        self._loaded: tuple[object, Detector] | None = None

    def choose(self, folder: str) -> None:
        """Use the detector of that folder, now and the next time."""
        self.folder = folder
        remember(_FOLDER, folder)
        self.changed.emit()

    def find(self) -> None:
        """Look for the phrases of the text line, or for all that the detector knows where it is empty."""
        try:
            if not self.folder:
                raise InputError("There is no detector yet: choose the folder of one that transformers saved.")
            phrases, unwanted = parted(checked_phrases(self._asking.options.text, may_be_none=True))
            if unwanted:
                raise InputError(f"A detector looks for nothing that is not wanted: leave '-{unwanted[0]}' out.")
        except ZerosegError as error:
            self._channel.report(error)
            return
        folder, least, device = self.folder, self.least_score, self._asking.model.device

        def draw(view: View, labels: NDArray[Any] | None, token: CancelToken) -> Drawing:
            detector = self._detector(folder, device)
            token.raise_if_cancelled()
            found = detector.detect(view.picture, phrases, least)
            token.raise_if_cancelled()
            if not len(found.boxes):
                raise InputError(_nothing(detector, phrases, least))
            return Drawing(_new(view, found, labels, token), 0, list(dict.fromkeys(found.names)))

        doing = f"{Path(folder).name} looks for {', '.join(phrases) or 'all that it knows'} …"
        self._outlining.begin(phrases, self._outlining.drawer(PromptKind.BOX), draw, doing)

    def _detector(self, folder: str, device: str) -> Detector:
        """The detector of a folder; called in the inference thread only, where the last one is kept."""
        files = [path for path in sorted(Path(folder).glob("*")) if path.is_file()]
        key = (folder, device, tuple((path.name, path.stat().st_mtime_ns) for path in files))
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            self._loaded = (key, load_detector(folder, device=device))
        return self._loaded[1]


def _nothing(detector: Detector, phrases: Sequence[str], least: float) -> str:
    what = f" of {', '.join(phrases)}" if phrases else ""
    return (
        f"{detector.title} found nothing{what} with a score of {least:g} or more on this plane: lower the least score, "
        "or look for something else."
    )


def _new(view: View, found: Detections, labels: NDArray[Any] | None, cancel: CancelToken) -> list[Outline]:
    """Boxes of what is not labelled yet."""
    boxes: list[Box] = [(float(r0), float(c0), float(r1), float(c1)) for r0, c0, r1, c1 in found.boxes]
    kept = list(range(len(boxes)))
    if labels is not None and labels.any():
        answers = view.predict([Prompt(box=box) for box in boxes], cancel=cancel)
        kept = [i for i in kept if not is_labelled(answers[i].patch(), labels)]
    return [Outline.boxed(found.names[i], found.classes[i], boxes[i], found.scores[i]) for i in kept]
