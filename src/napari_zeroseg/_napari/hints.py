"""Hints: what the status line says of the plane, of what was found, and of what to do next. No Qt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_zeroseg._napari.channel import Status
from napari_zeroseg._napari.layers import ShownPlane
from napari_zeroseg._napari.marks import needs_words
from napari_zeroseg._napari.workspace import Workspace
from napari_zeroseg.prompts import PromptKind

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_zeroseg._napari.engine import Answer
    from napari_zeroseg.catalogue import ModelSpec

READER = "napari-zeroseg"
_DICOM = (".dcm", ".dicom")
_LISTED = 3
"""Planes that are named; of more only the first are."""


class Hints:
    """Finds the hint for the plane on the screen; each image's own is given once."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._noted: set[object] = set()

    def on(self, plane: ShownPlane) -> Status:
        """Say what to do on a plane."""
        workspace, image = self._workspace, self._workspace.image
        if image is not None and image.unique_id not in self._noted:
            self._noted.add(image.unique_id)
            note = reader_note(image)
            if note:
                return Status(note, "warning")
        places = [] if workspace.drawn(plane) else sorted(workspace.elsewhere(plane))
        if places:
            return Status(prompts_elsewhere(places), "warning")
        if not workspace.has_prompt_layers:
            return Status("Choose a kind of prompt to begin", yields=True)
        return Status("Click on an object, or draw a box around it", yields=True)


def prompts_elsewhere(places: list[tuple[int, ...]]) -> str:
    """Say on which planes the prompts are, since there are none on the plane on the screen."""
    names = [" / ".join(map(str, place)) for place in places[:_LISTED]]
    listed = ", ".join(names) + (", …" if len(places) > _LISTED else "")
    where = "The prompts are on plane" if len(places) == 1 else "The prompts are on planes"
    return f"{where} {listed}: go there, or click here"


def reader_note(image: Image) -> str:
    """Say what is missing from a DICOM picture that another reader opened; empty if nothing is."""
    path, reader = image.source.path, image.source.reader_plugin
    if not path or Path(str(path)).suffix.lower() not in _DICOM or reader in (None, READER):
        return ""
    return (
        f"'{image.name}' was read by {reader}, so its pixel size may be missing and MONOCHROME1 shown negative: "
        "open it again with ZeroSeg as reader"
    )


def why_nothing(spec: ModelSpec) -> tuple[str, str]:
    """Say why a model cannot be asked with what is marked, and in which tone."""
    accepts = spec.accepts
    if needs_words(accepts):
        return "Type what to find, such as: lung, heart", "idle"
    if PromptKind.POINTS in accepts:
        return "Only background is marked: add a point on the object (T)", "warning"
    what = "draw a box" if PromptKind.BOX in accepts else "choose another model"
    return f"{spec.title} takes no points, which stay for other models: {what}", "warning"


def what_was_found(answer: Answer, pixels: int, *, batched: bool) -> tuple[str, str]:
    """Say how large what is shown of an answer is, and in which tone."""
    if not pixels and answer.phrases is not None:
        return "Nothing is as probable as that: lower the threshold, or try other words", "warning"
    if not pixels:
        return "Nothing was found there: click elsewhere, or draw a box", "warning"
    hint = "; N: next object" if _is_first_click(answer) and not batched else ""
    return f"{pixels:,} pixels, {answer.seconds:.2g} s, {answer.device}{hint}", "good"


def _is_first_click(answer: Answer) -> bool:
    """Whether a second click far away would be taken for a part of the same object."""
    if answer.phrases is not None or len(answer.objects) != 1:
        return False
    one = answer.objects[0].marks
    return one.picked is None and [d.kind for d in one.drawn] == ["point"]
