"""Where a model is made before it is whole, and how what a killed process left there goes."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from napari_zeroseg.errors import WriteError
from napari_zeroseg.locks import take
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights.cards import LOCK
from napari_zeroseg.weights.holding import if_free

_log = logging.getLogger(__name__)

JOINING, IMPORTING, TRAINING = ".joining-", ".importing-", ".training-"
"""What the names of such folders begin with."""

ABANDONED_SECONDS = 3600.0
"""Age from which what nobody holds counts as left behind; what is younger may be held in a moment."""


@contextmanager
def workplace(kind: str) -> Iterator[Path]:
    """Give a folder inside the models folder for as long as the block lasts.

    It is held meanwhile, so that :func:`sweep` tells it from one whose owner was killed.

    Parameters
    ----------
    kind : str
        :data:`JOINING`, :data:`IMPORTING` or :data:`TRAINING`.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    home = Settings.from_environment().models_dir
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home, prefix=kind) as made:
        handle = take(Path(made) / LOCK)
        try:
            yield Path(made)
        finally:
            if handle is not None:
                os.close(handle)


def sweep() -> None:
    """Remove what killed processes left half made in the models folder; what is in use, or young, stays.

    Downloads are left alone, for they go on from there.
    """
    home = Settings.from_environment().models_dir
    with suppress(OSError):  # who cannot look there hears so from what is done next
        for kind in (JOINING, IMPORTING, TRAINING):
            for place in home.glob(f"{kind}*"):
                _sweep_place(place)
        for copy in home.glob("*/.*.tmp"):
            _sweep_copy(copy)


def _sweep_place(place: Path) -> None:
    with suppress(OSError):
        if not _is_old(place):
            return
        handle = take(place / LOCK, strict=True)
        if handle is None:
            return
        os.close(handle)
        _log.info("%s was left by a process that was killed, and is removed.", place)
        shutil.rmtree(place)


def _sweep_copy(copy: Path) -> None:
    with suppress(OSError, WriteError):
        if not _is_old(copy):
            return
        with if_free(copy.parent) as is_free:
            if is_free:
                _log.info("%s was left by a process that was killed, and is removed.", copy)
                copy.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
