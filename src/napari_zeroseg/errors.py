"""What can go wrong, in sentences for the user.

Every error raised on purpose is a :class:`ZerosegError`, and each kind is also the builtin that a
caller without knowledge of this package would catch. A message says what was expected and what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self


class ZerosegError(Exception):
    """Base of all errors that this package raises on purpose."""

    in_dock: str = ""
    """The sentence for a dock, where what to do is another thing there than in a terminal; "" for the same."""

    def said_in_dock(self, sentence: str) -> Self:
        """Return this error, of which a dock says `sentence` instead."""
        self.in_dock = sentence
        return self


class InputError(ZerosegError, ValueError):
    """A picture, prompt or option has a value that cannot be worked with."""


class UnknownAxesError(InputError):
    """A file does not say what its axes are; `file` is which one, where that is known."""

    file: Path | None = None


class InputTypeError(ZerosegError, TypeError):
    """A picture or prompt is of a kind (complex, bool, text) that cannot be worked with."""


class ReadError(ZerosegError, OSError):
    """A file is missing, empty, truncated or not what its name says."""


class WriteError(ZerosegError, OSError):
    """A result could not be written; what was there before stays."""


class WeightsError(ZerosegError, RuntimeError):
    """Weights are missing, damaged, unsafe or of another model."""


class ChangedWeightsError(WeightsError):
    """A place gives other weights than the first time, and no published hash says which are right.

    Parameters
    ----------
    change : str
        The difference; kept by itself, since what to do about it is another thing in a terminal than in a dock.
    remedy : str
        What to do.
    sha256 : str
        Of the file that came: what accepting it names.
    """

    def __init__(self, change: str, remedy: str = "", sha256: str = "") -> None:
        super().__init__(f"{change} {remedy}".strip())
        self.change = change
        self.sha256 = sha256


class DownloadError(ZerosegError, ConnectionError):
    """A file could not be fetched; what has come of it is kept for the next try."""


class LicenceError(ZerosegError, PermissionError):
    """A model's licence has not been accepted yet."""


class UnknownModelError(ZerosegError, LookupError):
    """No model of that name is registered."""


class BrokenModelError(ZerosegError, RuntimeError):
    """A model of another package cannot be built."""


class DeviceError(ZerosegError, RuntimeError):
    """A device or precision is not available here."""


class DeviceMemoryError(ZerosegError, MemoryError):
    """The device's memory is not enough, even after the smaller ways were tried."""


class ClusterError(ZerosegError, ConnectionError):
    """The scheduler or the workers of a cluster are missing or gone; planes that are done are kept."""


class CancelledError(ZerosegError):
    """The work was cancelled by the user; nothing is wrong."""
