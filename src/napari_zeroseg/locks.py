"""One run at a time on one output, one process at a time on a folder; the lock of a killed one is free again."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_zeroseg.errors import WriteError

_log = logging.getLogger(__name__)

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@contextmanager
def only_run_on(out: Path) -> Iterator[None]:
    """Hold `out` for this process until the block ends.

    The system itself forgets the lock of a process that has ended, however it ended. On a file system without locks
    the block runs all the same.

    Raises
    ------
    WriteError
        If another run holds it, or nothing can be written beside it.
    """
    path = out.with_name(f".{out.name}.lock")
    try:
        handle = take(path)
    except OSError as error:
        raise WriteError(
            f"Nothing can be written beside {out} ({error.strerror}): make room, or choose another folder."
        ) from error
    if handle is None:
        raise WriteError(f"Another run is writing {out}: wait until it is done, or choose another name for this one.")
    try:
        yield
    finally:
        # Removed while it is still ours, so that it is never another's; Windows can only do it afterwards.
        with suppress(OSError):
            path.unlink()
        os.close(handle)
        if sys.platform == "win32":
            with suppress(OSError):
                path.unlink()


def take(path: Path, *, strict: bool = False) -> int | None:
    """Lock a file, which is made where there is none, until the handle is closed or this process ends.

    Parameters
    ----------
    path : Path
        It may be removed while it is locked: whoever waits for it then takes a new one.
    strict : bool
        Whether to raise on a file system without locks, where otherwise everybody gets one.

    Returns
    -------
    int or None
        A handle for :func:`os.close`; None while another one holds the file.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
            if _is_still(path, handle):
                return handle
        except OSError as error:
            if error.errno not in _TAKEN and not strict:
                _log.debug("%s cannot be locked (%s); its owner goes on without.", path, error)
                return handle
            os.close(handle)
            if error.errno in _TAKEN:
                return None
            raise
        os.close(handle)  # its owner removed the file between our opening and locking it


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
