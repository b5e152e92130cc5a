"""Hints: what the status line says when nothing is under way: what to do next, and what to know first. No Qt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_zeroseg._napari.channel import Status
from napari_zeroseg._napari.layers import ShownPlane
from napari_zeroseg._napari.workspace import Workspace

if TYPE_CHECKING:
    from napari.layers import Image

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
