"""Turns: long work cut into short steps where it looks at its token, so that clicks go between two of them. No Qt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from napari_zeroseg.errors import CancelledError
from napari_zeroseg.jobs import CancelToken

T = TypeVar("T")

STEP = 0.1
"""Seconds that a step takes at least, if the work lasts: shorter ones would spend more on waiting for their turn."""


class Turns(Generic[T]):
    """Work that goes on while somebody is inside :meth:`step`, and stands still otherwise.

    The library's long functions are called once and look at a token between two windows or batches. Here they run in a
    thread of their own, which at such a look hands back to whoever waits in :meth:`step`, and goes on with the next
    call. Of the two threads only one ever runs, so what belongs to the inference thread may be used.

    Parameters
    ----------
    work : callable
        Called with a token to look at and a function that tells what was done.
    is_large : callable, optional
        Whether what was told is so much that the next look ends the step, however short: such as a plane of labels,
        which takes memory until it is taken, and time of whoever takes it.
    """

    def __init__(
        self, work: Callable[[CancelToken, Callable[[T], None]], None], is_large: Callable[[T], bool] = lambda _: False
    ) -> None:
        self.seconds = 0.0
        """That were worked; waiting between steps does not count."""
        self._work = work
        self._is_large = is_large
        self._token = _Token()
        self._told: list[T] = []
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._has_ended = False

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to do: it is done, failed or was cancelled."""
        return self._has_ended or self._token.cancelled

    def step(self) -> list[T]:
        """Work on for a step, and return what was told meanwhile; never in the window's thread.

        Raises
        ------
        Exception
            Whatever the work raised, but for being cancelled.
        """
        if self.has_ended:
            return []
        start = time.perf_counter()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="zeroseg-stack", daemon=True)
            self._token.begins()
            self._thread.start()
        else:
            self._token.go.release()
        self._token.handed_back.acquire()
        self.seconds += time.perf_counter() - start
        if self._error is not None:
            raise self._error
        told, self._told = self._told, []
        return told

    def cancel(self) -> None:
        """Stop at the next look at the token; returns at once, from any thread."""
        self._token.cancel()
        self._token.go.release()

    def _run(self) -> None:
        try:
            self._work(self._token, self._tell)
        except CancelledError:
            pass
        except Exception as error:
            self._error = error
        finally:
            self._has_ended = True
            self._token.handed_back.release()

    def _tell(self, one: T) -> None:
        self._told.append(one)
        if self._is_large(one):
            self._token.is_full = True


class _Token(CancelToken):
    """A look at it ends the step, if that was long enough, or enough was told."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Semaphore(0)
        self.handed_back = threading.Semaphore(0)
        self.is_full = False
        self._since = 0.0

    def begins(self) -> None:
        """Note that a step begins."""
        self.is_full = False
        self._since = time.perf_counter()

    def raise_if_cancelled(self) -> None:
        super().raise_if_cancelled()
        if not self.is_full and time.perf_counter() - self._since < STEP:
            return
        self.handed_back.release()
        self.go.acquire()
        self.begins()
        super().raise_if_cancelled()
