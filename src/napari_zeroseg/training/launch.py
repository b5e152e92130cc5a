"""A run on several processes: checked, started through accelerate's launcher, heard and steered. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any

from napari_zeroseg.errors import InputError, WriteError, ZerosegError
from napari_zeroseg.training import card as cards
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.events import Control, Listener
from napari_zeroseg.training.folder import RunFolder
from napari_zeroseg.training.processes import LostError, error_of, shares_processor
from napari_zeroseg.training.result import TrainedModel

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken

_POLL_SECONDS = 0.2
_FAREWELL_SECONDS = 30
"""For the processes to end once they have told that the run has."""


def check_devices(config: TrainingConfig) -> None:
    """Raise before anything is started if the processes of a run cannot be had here.

    Raises
    ------
    InputError, DeviceError
        If accelerate is missing, or there are fewer devices than processes.
    """
    wanted = config.processes
    if find_spec("accelerate") is None:
        raise InputError(
            f"{wanted} processes need accelerate, which is not installed: pip install 'napari-zeroseg[multi-gpu]', or "
            "train with one process."
        )
    import torch

    from napari_zeroseg.devices import resolve_device

    resolve_device(config.device)
    if shares_processor(config.device):
        cores = os.cpu_count() or 1
        if wanted > cores:
            raise InputError(f"{wanted} processes want a core each, and there are {cores} here: ask for fewer.")
        return
    if ":" in config.device:
        raise InputError(
            f"{wanted} processes take a GPU each, and {config.device!r} names one: choose cuda, or one process."
        )
    found = torch.cuda.device_count()
    if found < wanted:
        there = "no CUDA GPU" if not found else "one CUDA GPU" if found == 1 else f"{found} CUDA GPUs"
        raise InputError(
            f"{wanted} processes take a GPU each, and torch finds {there} here: ask for {max(1, found)}, or choose cpu "
            "as device to let the processes share the processor."
        )


class Launch:
    """The processes of one run, seen from the one that started them.

    Parameters
    ----------
    folder : RunFolder
    config : TrainingConfig
    listener, control, cancel
        As for :func:`napari_zeroseg.train`.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: TrainingConfig,
        listener: Listener | None,
        control: Callable[[Control], None] | None,
        cancel: CancelToken | None,
    ) -> None:
        self.folder = folder
        self.config = config
        self._listener = listener
        self._control = control
        self._cancel = cancel
        self.has_begun = False
        """Whether the processes found data and base good, and work began."""

    def go(self) -> TrainedModel:
        """Start them, pass on what they tell, and return or raise what they came to.

        Raises
        ------
        StoppedError
            If the run was stopped.
        ZerosegError
            What they failed with; or, if they ended without a word, where to look.
        """
        try:
            check_devices(self.config)
        except ZerosegError as error:
            self.folder.write_status("failed", name=self.config.name, message=str(error))
            raise
        with self._started() as child:
            assert child.stdin is not None
            steering = _Steering(child.stdin)
            if self._control is not None:
                self._control(steering)
            last = self._hear(child, steering)
        if last.get("event") == "done":
            return TrainedModel(self.config.name, cards.read(self.config.name), bool(last["better"]), self.folder.path)
        if last.get("event") in ("stopped", "failed"):
            raise error_of(str(last["kind"]), str(last["message"]))
        raise LostError(self._last_words())

    def _hear(self, child: subprocess.Popen[str], steering: Control) -> dict[str, Any]:
        """Pass events on until the processes have ended; returns the last one."""
        last: dict[str, Any] = {}
        for event in _events_of(child):
            if self._cancel is not None and self._cancel.cancelled:
                steering.tell("stop")
            if event is None:
                continue
            last = event
            self.has_begun = self.has_begun or event["event"] == "started"
            if self._listener is not None:
                self._listener(event)
        return last

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[str]]:
        """The launcher, which is ended with all that it started if this block is left early."""
        environment = dict(os.environ)
        if shares_processor(self.config.device):
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.config.processes)))
        try:
            with self.folder.log.open("wb") as log:
                child = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for this process, which tells them to stop after their step
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            raise WriteError(
                f"The processes of the run cannot be started in {self.folder.path} ({error}): make room, or permit it."
            ) from error
        try:
            yield child
            with suppress(subprocess.TimeoutExpired):
                child.wait(_FAREWELL_SECONDS)
        finally:
            _end(child)

    def _command(self) -> list[str]:
        options = {
            "--num_processes": self.config.processes,
            "--num_machines": 1,
            "--machine_rank": 0,
            "--main_process_port": 0,  # any that is free
            "--gpu_ids": "all",
            "--mixed_precision": "no",  # the model's own precision is in the settings
            "--dynamo_backend": "no",
        }
        words = [str(word) for pair in options.items() for word in pair]
        # what the launcher calls multi_gpu is: so many processes; on which devices they are, each says itself
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *words]
        return [*launcher, "-m", "napari_zeroseg.training.member", str(self.folder.path)]

    def _last_words(self) -> str:
        try:
            lines = self.folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        mark = "zeroseg: "
        told = [line.partition(mark)[2] for line in lines if mark in line]
        if told:
            return told[-1]
        return (
            f"The processes of the run ended without a word: one was killed, or memory ran out. {self.folder.log} has "
            "what they wrote; --resume goes on from what was saved last."
        )


class _Steering(Control):
    """Passes commands on to the processes."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def tell(self, command: str) -> None:
        """Take a command."""
        with suppress(OSError, ValueError):  # they have ended
            self._stream.write(command.strip() + "\n")
            self._stream.flush()


def _events_of(child: subprocess.Popen[str]) -> Iterator[dict[str, Any] | None]:
    """Yield events as they come, and None now and then while there are none."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        with suppress(OSError, ValueError):
            for line in child.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="training events", daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            if child.poll() is not None:
                return  # its output is held open by one that it left behind
            yield None
            continue
        if line is None:
            return
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def _end(child: subprocess.Popen[str]) -> None:
    """End the launcher and what it started, if they have not ended; the first process hears the end of its input."""
    with suppress(OSError, ValueError):
        if child.stdin is not None:
            child.stdin.close()
    if child.poll() is None:
        with suppress(OSError):
            if sys.platform == "win32":
                child.terminate()
            else:
                os.killpg(child.pid, signal.SIGTERM)  # the launcher ends its processes
        with suppress(subprocess.TimeoutExpired):
            child.wait(_FAREWELL_SECONDS)
        child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
