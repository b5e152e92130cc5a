"""A run for TensorBoard: the same figures as in metrics.csv, each step's losses, and the pictures."""

from __future__ import annotations

import logging
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from napari_zeroseg.errors import InputError

_log = logging.getLogger(__name__)

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
    """Hears a run's events and writes them down for TensorBoard, each block that is held back in turn by itself.

    What goes wrong here, such as a full disk, is told once and does not end the run.

    Parameters
    ----------
    folder : Path
        Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._writers: dict[str, Any] = {}
        self._has_failed = False

    def __call__(self, event: dict[str, Any]) -> None:
        """Write what an event says, if it is one of figures."""
        hear = {"step": self._step, "validation": self._validation, "resumed": self._resumed}.get(event["event"])
        if hear is None or "step" not in event or self._has_failed:
            return
        try:
            hear(event)
        except Exception as error:  # a disk that is full, or whatever TensorBoard says
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        try:
            while self._writers:
                self._writers.popitem()[1].close()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._has_failed = True
        self._writers.clear()
        _log.warning("Nothing more is written for TensorBoard (%s); metrics.csv goes on.", error)

    def _writer(self, event: dict[str, Any], purge: int | None = None) -> Any:
        """That of the event's block; what is behind `purge` in its files is not shown any more."""
        block = f"block{event['block']}" if "block" in event else ""
        if block not in self._writers or purge is not None:
            from torch.utils.tensorboard import SummaryWriter

            old = self._writers.pop(block, None)
            if old is not None:
                old.close()
            self._writers[block] = SummaryWriter(str(self._folder / (block or "run")), purge_step=purge)
        return self._writers[block]

    def _resumed(self, event: dict[str, Any]) -> None:
        """What a killed run had written behind the state that was kept is done anew, and so drawn anew."""
        self._writer(event, event["step"] + 1)

    def _step(self, event: dict[str, Any]) -> None:
        writer = self._writer(event)
        for name, value in {"loss": event["loss"], "learning rate": event["rate"], "norm": event["norm"]}.items():
            if value is not None:
                writer.add_scalar(f"steps/{name}", value, event["step"])

    def _validation(self, event: dict[str, Any]) -> None:
        writer = self._writer(event)
        for name, value in event.items():
            measure, _, kind = name.removeprefix("base_").partition("_")
            if measure in ("iou", "dice") and value is not None:
                whose = " of the base" if name.startswith("base_") else ""
                writer.add_scalar(f"{measure}{whose}/{kind}", value, event["step"])
        if event.get("picture"):
            with suppress(OSError):
                import numpy as np
                from PIL import Image

                with Image.open(event["picture"]) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                writer.add_image("held-back objects", pixels, event["step"], dataformats="HWC")
        writer.flush()
