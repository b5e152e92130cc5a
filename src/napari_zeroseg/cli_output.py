"""What ``zeroseg`` writes to its reader, who may go away."""

from __future__ import annotations

import os
import sys

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
