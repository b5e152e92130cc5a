"""Tasks on the cluster, as whoever started a run sees them: blocks of planes, what comes back, what goes wrong."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from napari_zeroseg.errors import ClusterError, ZerosegError

if TYPE_CHECKING:
    from distributed import Client, Future

_LARGEST = 16
"""Planes of a block at most: what is told at once, and what another worker takes up when one dies."""

_BLOCKS_EACH = 4
"""Blocks for each worker at least, so that none waits long for the slowest at the end."""

RETRIES = 2
"""How often a block that failed is tried again: shared disks have their moments."""

T = TypeVar("T")


class Tasks:
    """Tasks on the cluster; leaving early stops them."""

    def __init__(self, client: Client, stop: str) -> None:
        from distributed import as_completed

        self._client = client
        self._stop = stop
        self._functions: dict[str, Callable[..., Any]] = {}
        self._futures = as_completed(loop=client.loop)

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or self._client.status != "running":  # or the scheduler is gone
            return
        from distributed import Event

        with suppress(Exception):  # what stopped the run is told, not this
            Event(self._stop, self._client).set()  # what is being computed stops at the next window
            self._client.cancel(list(self._futures.futures), force=True)

    def add(self, function: Callable[..., Any], *arguments: object, priority: int = 0) -> None:
        """Have a function called on some worker."""
        key = f"{function.__name__}-{uuid.uuid4().hex}"
        self._functions[key] = function
        self._futures.add(
            self._client.submit(function, *arguments, key=key, retries=RETRIES, priority=priority, pure=False)
        )

    def __iter__(self) -> Iterator[tuple[Callable[..., Any], Any]]:
        """Functions and what they returned, as they are done."""
        for future in self._futures:
            result = result_of(future)
            function = self._functions.pop(future.key)
            future.release()
            yield function, result


def blocks_of(planes: Sequence[int], workers: int) -> list[list[int]]:
    """Cut planes into blocks for so many workers."""
    size = min(_LARGEST, max(1, len(planes) // (_BLOCKS_EACH * workers)))
    return [list(planes[start : start + size]) for start in range(0, len(planes), size)]


def result_of(future: Future[T]) -> T:
    """What a task returned; what went wrong on the way to it, in a sentence."""
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        return future.result()
    except ZerosegError:
        raise
    except KilledWorker as error:
        raise ClusterError(
            "A block of planes was given up because the workers that had it died, which is mostly for want of memory: "
            "start fewer of them, or give each more. Planes that are done are kept."
        ) from error
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"The workers do not have {error.name}: install the same napari-zeroseg where they run."
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise ClusterError(
            "The scheduler is gone. Planes that are done are kept: start it and its workers again, and the same "
            "command goes on from there."
        ) from error
