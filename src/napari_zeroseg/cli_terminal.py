"""``zeroseg`` and its terminal: a reader who may go away, and a request to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from napari_zeroseg.errors import WriteError


def nobody_reads() -> int:
    """Let go of an output that takes nothing any more, as in `zeroseg models | true`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def print_out(text: str) -> None:
    """Bring text to its reader now, where a failure can still be told."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        nobody_reads()
        raise WriteError(f"The output could not be written ({error.strerror}): send it to another place.") from error


@contextlib.contextmanager
def told_to_stop() -> Iterator[None]:
    """Stop as with Ctrl-C when a cluster's queue asks for it (SIGTERM), so that nothing half-written stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
