"""Who works on a model's folder: one process at a time."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_zeroseg.errors import WriteError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.locks import take
from napari_zeroseg.weights.cards import LOCK

_log = logging.getLogger(__name__)

_PAUSE = 0.05
"""Seconds between two looks at a folder that another process holds."""


@contextmanager
def one_at_a_time(folder: Path, cancel: CancelToken) -> Iterator[None]:
    """Hold a model's folder, which is made where there is none; wait while another process does, unless cancelled.

    A folder that is empty afterwards goes.

    Raises
    ------
    CancelledError
        If `cancel` was raised while waiting.
    WriteError
        If the folder cannot be locked.
    """
    is_waiting = False
    while (handle := _taken(folder)) is None:
        cancel.raise_if_cancelled()
        if not is_waiting:
            _log.info("Another process is working on %s: waiting for it.", folder)
            is_waiting = True
        time.sleep(_PAUSE)
    with _let_go(folder, handle):
        yield


@contextmanager
def if_free(folder: Path) -> Iterator[bool]:
    """Hold a model's folder, as :func:`one_at_a_time` does, or give False at once if another process does.

    Raises
    ------
    WriteError
        If the folder cannot be locked.
    """
    handle = _taken(folder)
    if handle is None:
        yield False
        return
    with _let_go(folder, handle):
        yield True


def _taken(folder: Path) -> int | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return take(folder / LOCK, strict=True)
    except FileNotFoundError:  # whoever held it has just removed it
        return None
    except OSError as error:
        raise WriteError(
            f"{folder} cannot be locked ({error.strerror}): permit it, or set ZEROSEG_DATA_DIR to a local disk."
        ) from error


@contextmanager
def _let_go(folder: Path, handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        # While the lock is still ours, so that it is never another's that goes; Windows can only do it afterwards.
        _tidy(folder)
        os.close(handle)
        if sys.platform == "win32":
            _tidy(folder)


def _tidy(folder: Path) -> None:
    """Remove a folder in which there is nothing but its lock."""
    with suppress(OSError):
        if all(path.name == LOCK for path in folder.iterdir()):
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
