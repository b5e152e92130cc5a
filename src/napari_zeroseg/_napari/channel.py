"""The channel: what a session sends to the inference thread and hears back from it in the window's thread. No Qt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from napari_zeroseg.errors import ZerosegError
from napari_zeroseg.jobs import CancelToken, InferenceQueue, Priority

if TYPE_CHECKING:
    from napari_zeroseg._napari.engine import Engine

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Status:
    """The status line: a sentence and its tone, "idle", "busy", "good" or "warning"."""

    text: str
    tone: str = "idle"
    yields: bool = False
    """Whether news of encoding ahead may take its place: an invitation does, what the user asked for does not."""


class Bridge(Protocol):
    """How a session reaches the window's thread and its user."""

    def post(self, call: Callable[[], None]) -> None:
        """Call in the window's thread soon; may be used from any thread."""
        ...

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call in the window's thread after that time, unless another call of that name takes its place."""
        ...

    def report(self, error: Exception) -> None:
        """Tell the user what is wrong."""
        ...

    def close(self) -> None:
        """Drop all calls that have not been made."""
        ...


class Channel:
    """One session's way to the inference thread and back; silent once it is closed.

    Parameters
    ----------
    bridge : Bridge
    queue : InferenceQueue
    engine : callable
        Gives the engine, which may be made only when it is first asked for.
    """

    def __init__(self, bridge: Bridge, queue: InferenceQueue, engine: Callable[[], Engine]) -> None:
        self.engine = engine
        """To be called in the inference thread only."""
        self._bridge = bridge
        self._queue = queue
        self.is_closed = False

    def submit(
        self,
        key: str,
        priority: Priority,
        work: Callable[[CancelToken], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Let the inference thread do `work`, in place of earlier work of that key, and hear of it in this thread."""
        bridge = self._bridge
        self._queue.submit(
            work,
            owner=self,
            key=key,
            priority=priority,
            done=lambda result: bridge.post(partial(self._hear, done, result)),
            failed=lambda error: bridge.post(partial(self._hear, failed, error)),
        )

    def cancel(self, key: str) -> None:
        """Forget the work of that key."""
        self._queue.cancel(self, key)

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call after that time, unless another call of that name takes its place."""
        self._bridge.later(name, seconds, call)

    def post(self, call: Callable[[], None]) -> None:
        """Call in the window's thread soon; may be used from any thread."""
        self._bridge.post(partial(self._hear, lambda _: call(), None))

    def report(self, error: Exception) -> str:
        """Tell the user what is wrong; return the sentence."""
        if not isinstance(error, ZerosegError):
            _log.error("Something unexpected went wrong.", exc_info=error)
        self._bridge.report(error)
        return sentence(error)

    def close(self) -> None:
        """Hear nothing any more."""
        self.is_closed = True
        self._queue.cancel(self)
        self._bridge.close()

    def _hear(self, call: Callable[[Any], None], what: Any) -> None:
        if not self.is_closed:
            call(what)


def sentence(error: Exception) -> str:
    """Say what is wrong, in words for a dock; errors from elsewhere may be without any."""
    said = error.in_dock if isinstance(error, ZerosegError) else ""
    return said or str(error) or type(error).__name__
