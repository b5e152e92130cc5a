"""The way to a scheduler, or to worker processes of this machine's own."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from napari_zeroseg.errors import ClusterError, InputError

if TYPE_CHECKING:
    from distributed import Client

_log = logging.getLogger(__name__)

_PATIENCE = 60
"""Seconds to wait for the first worker of a scheduler that has none yet."""


@contextmanager
def connected(scheduler: str | None = None, workers: int | None = None) -> Iterator[Client]:
    """Connect to a scheduler, or start worker processes here and stop them at the end.

    Parameters
    ----------
    scheduler : str, optional
        Its address, such as "tcp://10.0.0.1:8786".
    workers : int, optional
        Number of processes of this machine, in place of a scheduler.

    Raises
    ------
    ClusterError
        If dask.distributed is not installed, the scheduler does not answer, or it has no workers.
    InputError
        If neither or both are given, or there should be less than one process.
    """
    if (scheduler is None) is (workers is None):
        raise InputError("Give the address of a scheduler or a number of worker processes, and not both.")
    if workers is not None and workers < 1:
        raise InputError(f"At least 1 worker process is needed; got {workers}.")
    if importlib.util.find_spec("distributed") is None:
        raise ClusterError(
            "Runs on several processes need dask.distributed, which is not installed: "
            "pip install 'napari-zeroseg[cluster]'."
        )
    with ExitStack() as stack:
        yield _started(workers, stack) if workers is not None else _found(str(scheduler), stack)


def threads_of(workers: int) -> int:
    """How many threads each of so many processes may compute with, so that together they fill this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // workers)


def _started(workers: int, stack: ExitStack) -> Client:
    from distributed import Client, LocalCluster

    cluster = stack.enter_context(
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,  # a model is asked one thing at a time; its own threads compute it
            processes=True,
            dashboard_address=":0",  # any free port: several runs may be on one machine
            silence_logs=logging.CRITICAL,
        )
    )
    client: Client = stack.enter_context(Client(cluster, set_as_default=False))
    if importlib.util.find_spec("bokeh") is not None:
        _log.info("The dashboard of this run: %s", client.dashboard_link)
    return client


def _found(scheduler: str, stack: ExitStack) -> Client:
    from distributed import Client

    try:
        client: Client = stack.enter_context(Client(scheduler, set_as_default=False))
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No scheduler answers at {scheduler}: check the address, and that `dask scheduler` runs there."
        ) from error
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError as error:
        raise ClusterError(
            f"The scheduler at {scheduler} has no workers: start some by `dask worker {scheduler} --nthreads 1`."
        ) from error
    return client
