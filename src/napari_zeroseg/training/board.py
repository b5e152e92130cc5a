"""A run for TensorBoard: the same figures as in metrics.csv, each step's losses, and the pictures."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from napari_zeroseg.errors import InputError

FOLDER = "tensorboard"
"""In a run's folder."""


def check_available() -> None:
    """Raise before anything is computed if TensorBoard is not installed.

    Raises
    ------
    InputError
    """
    if find_spec("tensorboard") is None:
        raise InputError(
            "TensorBoard is not installed: pip install 'napari-zeroseg[tensorboard]', or train without it; metrics.csv "
            "in the run's folder holds the same figures."
        )


class Board:
    """Hears a run's events and writes them down for TensorBoard.

    Parameters
    ----------
    folder : Path
        Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._writer: Any = None
        self._block = ""

    def __call__(self, event: dict[str, Any]) -> None:
        """Write what an event says, if it is one of figures."""
        hear = {"step": self._step, "validation": self._validation, "resumed": self._resumed}.get(event["event"])
        if hear is not None and "step" in event:
            self._block = f"block {event['block']}/" if "block" in event else ""
            hear(event)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, purge: int | None = None) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=purge)
        return self._writer

    def _resumed(self, event: dict[str, Any]) -> None:
        """What a killed run had written behind the state that was kept is done anew, and so drawn anew."""
        self._open(event["step"] + 1)

    def _step(self, event: dict[str, Any]) -> None:
        writer = self._open()
        for name, value in {"loss": event["loss"], "learning rate": event["rate"], "norm": event["norm"]}.items():
            if value is not None:
                writer.add_scalar(f"{self._block}steps/{name}", value, event["step"])

    def _validation(self, event: dict[str, Any]) -> None:
        writer = self._open()
        for name, value in event.items():
            measure, _, kind = name.removeprefix("base_").partition("_")
            if measure in ("iou", "dice") and value is not None:
                whose = " of the base" if name.startswith("base_") else ""
                writer.add_scalar(f"{self._block}{measure}{whose}/{kind}", value, event["step"])
        if event.get("picture"):
            with suppress(OSError):
                import numpy as np
                from PIL import Image

                with Image.open(event["picture"]) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                writer.add_image("held-back objects", pixels, event["step"], dataformats="HWC")
        writer.flush()
