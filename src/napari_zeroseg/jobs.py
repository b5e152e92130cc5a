"""One thread for everything that a model computes: priorities, newest wins, cancellation. No Qt, no torch."""

from __future__ import annotations

import atexit
import itertools
import logging
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Any, TypeVar

from napari_zeroseg.errors import CancelledError

_log = logging.getLogger(__name__)

T = TypeVar("T")


class CancelToken:
    """A flag that one thread raises and another looks at between two steps of its work."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next step; may be called from any thread and more than once."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether the work should stop."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Leave the work if it should stop.

        Raises
        ------
        CancelledError
            If :meth:`cancel` was called.
        """
        if self.cancelled:
            raise CancelledError("The work was cancelled.")


class Priority(IntEnum):
    """What goes first; lower numbers do."""

    CLICK = 0
    """Someone waits for it."""
    LOAD = 1
    """Someone will soon wait for it."""
    AHEAD = 2
    """It may be of use."""


@dataclass(order=True)
class _Job:
    priority: Priority
    number: int
    owner: int = field(compare=False)
    key: Hashable = field(compare=False)
    work: Callable[[CancelToken], Any] = field(compare=False)
    done: Callable[[Any], None] = field(compare=False)
    failed: Callable[[Exception], None] = field(compare=False)
    token: CancelToken = field(compare=False, default_factory=CancelToken)

    def run(self) -> None:
        """Do the work and report; what was cancelled meanwhile reports nothing."""
        try:
            self.token.raise_if_cancelled()
            result = self.work(self.token)
        except CancelledError:
            return
        except Exception as error:
            if not self.token.cancelled:
                self.failed(error)
            return
        if not self.token.cancelled:
            self.done(result)


class InferenceQueue:
    """Runs jobs one after another in one daemon thread, which starts with the first job.

    Of jobs with the same owner and key only the newest counts: an older one that waits is dropped, one that runs is
    cancelled and its result is not reported.
    """

    def __init__(self, name: str = "zeroseg-inference") -> None:
        self._name = name
        self._condition = threading.Condition()
        self._waiting: list[_Job] = []
        self._running: _Job | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._numbers = itertools.count()

    def submit(
        self,
        work: Callable[[CancelToken], T],
        *,
        owner: object,
        key: Hashable,
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
        priority: Priority = Priority.CLICK,
    ) -> CancelToken:
        """Add a job; any thread may do so.

        Parameters
        ----------
        work : callable
            Called in the inference thread with the job's token, at which it should look between steps.
        owner : object
            Who asks; only its identity is kept.
        key : hashable
            What is asked for: a newer job of this owner and key takes the place of an older one.
        done, failed : callable
            Called in the inference thread with the result or the error; neither after a cancellation.
        priority : Priority
            Among equals, who came first goes first.

        Returns
        -------
        CancelToken
        """
        with self._condition:
            job = _Job(priority, next(self._numbers), id(owner), key, work, done, failed)
            self._drop(job.owner, key)
            self._waiting.append(job)
            self._closing = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._condition.notify_all()
        return job.token

    def cancel(self, owner: object, key: Hashable | None = None) -> None:
        """Cancel the owner's jobs of that key, or all of them if None."""
        with self._condition:
            self._drop(id(owner), key)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        with self._condition:
            return not self._waiting and self._running is None

    def close(self, timeout: float | None = 0.0) -> None:
        """Cancel everything and let the thread end; a later job starts a new one.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the step that is being computed; None waits for as long as it takes.
        """
        with self._condition:
            self._closing = True
            for job in self._waiting:
                job.token.cancel()
            self._waiting.clear()
            if self._running is not None:
                self._running.token.cancel()
            thread = self._thread
            self._condition.notify_all()
        if thread is not None and thread is not threading.current_thread() and timeout != 0:
            thread.join(timeout)

    def _drop(self, owner: int, key: Hashable | None) -> None:
        def is_meant(job: _Job) -> bool:
            return job.owner == owner and (key is None or job.key == key)

        for job in [job for job in self._waiting if is_meant(job)]:
            job.token.cancel()
            self._waiting.remove(job)
        if self._running is not None and is_meant(self._running):
            self._running.token.cancel()

    def _next(self) -> _Job | None:
        with self._condition:
            self._running = None
            while not self._waiting:
                if self._closing:
                    # Under the same lock as submit's look at it, so that there is never a second thread.
                    self._thread = None
                    return None
                self._condition.wait()
            job = min(self._waiting)
            self._waiting.remove(job)
            self._running = job
            return job

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.run()
            except Exception:
                # A report that fails must not take the thread away from everybody else.
                _log.exception("The result of a job could not be delivered.")
            del job


@cache
def shared_queue() -> InferenceQueue:
    """Return the queue that all windows of this process share, so that there is one inference thread."""
    queue = InferenceQueue()
    # A thread inside torch while the interpreter goes away can crash the process: give the last step a moment.
    atexit.register(queue.close, 10.0)
    return queue
