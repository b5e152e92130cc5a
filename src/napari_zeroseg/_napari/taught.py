"""Word that goes round when a word was taught, from the dock that teaches to all that look for words. No Qt."""

from __future__ import annotations

from functools import cache

from psygnal import Signal


class Taught:
    """Tells, in the window's thread, that there are other taught words than before."""

    changed = Signal()


@cache
def shared_taught() -> Taught:
    """Return that of the process."""
    return Taught()
