"""What a run tells while it goes, one line of JSON an event, and how it is told to pause or stop. Imports no torch."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

Listener = Callable[[dict[str, Any]], None]

COMMANDS = ("pause", "resume", "stop")
"""What a run understands, as a line on its standard input or as the content of the file "control" in its folder."""

_POLL_SECONDS = 0.2


class Events:
    """Sends each event to a file of lines and to listeners.

    An event is a table with "event" (its kind), "time" (seconds since 1970) and what belongs to its kind.

    Parameters
    ----------
    path : Path
        File that lines are added to.
    listeners : callables
        Called with each event, in the run's own thread.
    """

    def __init__(self, path: Path, *listeners: Listener) -> None:
        self._path = path
        self._listeners = listeners

    def __call__(self, event: str, **values: Any) -> None:
        """Send an event."""
        told = {"event": event, "time": round(time.time(), 3), **plain(values)}
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            # a disk that is full must not end the run here: what has to be kept says so itself
            file.write(json.dumps(told) + "\n")
        for listener in self._listeners:
            listener(told)


class Unheard(Events):
    """Sends nothing: for the processes of a run that are not the one that tells."""

    def __init__(self) -> None: ...

    def __call__(self, event: str, **values: Any) -> None:
        """Send nothing."""


def plain(value: Any) -> Any:
    """Values as JSON knows them: no NaN, no NumPy, keys of text."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


class Control:
    """Pause, resume and stop: from the standard input, from a file in the run's folder, or by a call.

    Parameters
    ----------
    file : Path
        Looked at between two steps; what stood in it before the run began is forgotten.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._command = "resume"
        self._lock = threading.Lock()
        file.unlink(missing_ok=True)
        self._seen = 0

    def tell(self, command: str) -> None:
        """Take a command; unknown words are left out of account. A stop cannot be taken back."""
        command = command.strip().lower()
        with self._lock:
            if command in COMMANDS and self._command != "stop":
                self._command = command

    def listen(self, stream: TextIO) -> None:
        """Read commands, a line each, in a thread of its own that ends with the stream or the process."""

        def read() -> None:
            with suppress(OSError, ValueError):  # whoever told it things has gone
                for line in stream:
                    self.tell(line)

        threading.Thread(target=read, name="training commands", daemon=True).start()

    @property
    def stopped(self) -> bool:
        """Whether the run is to end at its next step."""
        self._look()
        return self._command == "stop"

    def wait(self, changed: Callable[[str], None], ends: Callable[[], bool] = lambda: False) -> None:
        """Return at once, or when a pause ends, also by `ends`; `changed` hears "paused" and "resumed"."""
        self._look()
        if self._command != "pause":
            return
        changed("paused")
        while self._command == "pause" and not ends():
            time.sleep(_POLL_SECONDS)
            self._look()
        changed("resumed")

    def _look(self) -> None:
        try:
            stamp = self._file.stat().st_mtime_ns
            if stamp != self._seen:
                self._seen = stamp
                self.tell(self._file.read_text(encoding="utf-8"))
        except OSError:
            return
