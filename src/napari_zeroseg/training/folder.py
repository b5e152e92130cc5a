"""A run's folder: what lies in it, its state, and how another process finds and steers it. Imports no torch."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from napari_zeroseg.errors import InputError, ReadError, WriteError
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.planes import Planes
from napari_zeroseg.settings import Settings
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.data import origin_of
from napari_zeroseg.training.events import COMMANDS, plain
from napari_zeroseg.weights.cards import CLASS_HEAD

_PATTERNS = (
    *("block*.json", "metrics_block*.csv", "last_block*.pt"),
    *("previews/step*.png", "previews/block*_step*.png", "snapshot/*.npy", "tensorboard/**/events.out.tfevents.*"),
    *("process.log", CLASS_HEAD, ".*.tmp"),
)
"""What a run writes besides: of blocks that are held back in turn, pictures, copies, for TensorBoard, halves."""

_T = TypeVar("_T")

QUIET_SECONDS = 3600.0
"""A run on another machine that has written nothing for so long is taken for dead."""

_SAME_BIRTH_SECONDS = 10.0
"""The clock that births are told by may be set while a process lives."""

_TRIES = 20
"""Windows replaces no file while another process reads it: tried so often, a twentieth of a second apart."""

SNAPSHOT = "snapshot"
"""Where in the folder arrays lie that were no files."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes
    ----------
    path : Path
        ``run.toml`` (settings), ``snapshot/`` (arrays that were no files), ``events.jsonl``, ``metrics.csv``,
        ``previews/``, ``last.pt`` (state to go on from), ``best.safetensors`` (weights that differ from the base's),
        ``status.json``, ``control``, of the blocks of a small set ``block1.json``, ``metrics_block1.csv``,
        ``last_block1.pt`` and so on, and, of a run on several processes, ``processes.log``. ``id``
        tells the run from all others wherever its folder
        lies. ``error.txt`` is there only where it failed unexpectedly.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Settings."""
        return self.path / "run.toml"

    @property
    def identity(self) -> str:
        """What the run is known by wherever its folder lies; the folder's path where an earlier version made it."""
        try:
            return self._id.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return str(self.path)

    @property
    def _id(self) -> Path:
        return self.path / "id"

    def settings(self, config: TrainingConfig) -> dict[str, Any]:
        """The table of a configuration, with files that lie in the folder named from there: the same after a move."""
        table = config.table()
        for pair in table["pairs"]:
            for name in ("image", "labels"):
                path = Path(pair[name])
                pair[name] = path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else pair[name]
        return table

    @property
    def events(self) -> Path:
        """One line of JSON an event."""
        return self.path / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """One line a validation."""
        return self.path / "metrics.csv"

    def metrics_of(self, block: int | None) -> Path:
        """The same, of the training for a block that is held back in turn where one is named, counted from 0."""
        return self.metrics if block is None else self.path / f"metrics_block{block + 1}.csv"

    @property
    def last(self) -> Path:
        """State to go on from."""
        return self.path / "last.pt"

    def last_of(self, block: int | None) -> Path:
        """The same, of the training for a block that is held back in turn where one is named, counted from 0."""
        return self.last if block is None else self.path / f"last_block{block + 1}.pt"

    @property
    def best(self) -> Path:
        """Best weights so far."""
        return self.path / "best.safetensors"

    def block(self, number: int) -> Path:
        """Figures of a block that was held back in turn, once they are known."""
        return self.path / f"block{number + 1}.json"

    @property
    def log(self) -> Path:
        """What the processes of a run on several wrote to the standard error."""
        return self.path / "processes.log"

    @property
    def error(self) -> Path:
        """Where in the code a run ended that failed unexpectedly."""
        return self.path / "error.txt"

    @property
    def control(self) -> Path:
        """Where another process writes a command."""
        return self.path / "control"

    @property
    def previews(self) -> Path:
        """Pictures of held-out objects."""
        return self.path / "previews"

    def previews_of(self, block: int | None) -> list[Path]:
        """The pictures that there are, in the order of the steps, of the model or of a block counted from 0."""
        return sorted(self.previews.glob("step*.png" if block is None else f"block{block + 1}_step*.png"))

    def tell(self, command: str) -> None:
        """Tell the process of this run to pause, resume or stop.

        Raises
        ------
        InputError, WriteError
            If there is no such command, or it cannot be written.
        """
        if command not in COMMANDS:
            raise InputError(f"A run can be told {', '.join(COMMANDS)}, not {command!r}.")
        write_whole(self.control, command + "\n")

    def status(self) -> dict[str, Any]:
        """What is known of the run: "state" is "running", "paused", "stopped", "failed", "done" or "killed"."""
        try:
            text = _patiently(lambda: (self.path / "status.json").read_text(encoding="utf-8"))
            status: dict[str, Any] = json.loads(text)
        except FileNotFoundError:
            return {"state": "new"}
        except (OSError, ValueError) as error:
            raise ReadError(f"The state of the run in {self.path} cannot be read ({error}): start it anew.") from error
        if status.get("state") in ("running", "paused") and not self._is_worked_on(status):
            status["state"] = "killed"
        return status

    def write_status(self, state: str, **values: Any) -> None:
        """Note the run's state for others."""
        process = {"pid": os.getpid(), "born": round(_born(os.getpid()), 3), "host": platform.node()}
        told = {"state": state, **process, "time": round(time.time(), 3), **plain(values)}
        write_whole(self.path / "status.json", json.dumps(told, indent=2) + "\n")

    def _is_worked_on(self, status: dict[str, Any]) -> bool:
        """Whether the process that wrote a state is still there; of one elsewhere, whether it has written lately."""
        if status.get("host", platform.node()) != platform.node():
            if status["state"] == "paused":
                return True
            written = [path.stat().st_mtime for path in (self.events, self.path / "status.json") if path.exists()]
            return time.time() - max(written, default=0.0) < QUIET_SECONDS
        born = _born(int(status.get("pid", 0)))
        # another process may have got the number since, after the machine was started anew
        return born > 0 and abs(born - float(status.get("born", born))) < _SAME_BIRTH_SECONDS

    def read_events(self) -> list[dict[str, Any]]:
        """All events so far; a last line that was cut off by a kill is left out."""
        found = []
        try:
            lines = self.events.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    @property
    def _small(self) -> tuple[Path, ...]:
        return (self.config, self._id, self.events, self.control, self.log, self.error, self.path / "status.json")

    @property
    def names(self) -> tuple[Path, ...]:
        """What a run writes, from its beginning to its end."""
        rest = (self.metrics, self.best, self.last, self.previews, self.path / SNAPSHOT)
        return (*self._small, *rest)

    def _written(self) -> list[Path]:
        """Files that the run has written, of all that may lie in the folder."""
        files = (path for path in self.names if path.is_file())
        return [*files, *sorted({path for pattern in _PATTERNS for path in self.path.glob(pattern) if path.is_file()})]

    def size(self) -> int:
        """Bytes that :meth:`remove` would free."""
        return sum(path.stat().st_size for path in self._written())

    def remove(self) -> None:
        """Remove what the run wrote, and the folder if nothing else is in it; the model that it made stays.

        Raises
        ------
        WriteError
            If a process is at work on it, or something cannot be removed.
        """
        with only_run_on(self.path):
            try:
                # the settings last: as long as they are there, what is left is listed and can be removed
                for path in sorted(self._written(), key=lambda path: path == self.config):
                    path.unlink()
            except OSError as error:
                raise WriteError(f"{error.filename or self.path} cannot be removed: {error.strerror}.") from error
        folders = sorted((path for path in self.path.rglob("*") if path.is_dir()), reverse=True)
        for folder in (*folders, self.path):
            with suppress(OSError):  # something of the user's is in it
                folder.rmdir()

    def forget(self) -> None:
        """Remove what a run that never began has written, and the folder if nothing else is in it."""
        for path in self._small:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.path / SNAPSHOT, ignore_errors=True)
        for path in (self.previews, self.path):
            with suppress(OSError):  # something of the user's is in it
                path.rmdir()


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    WriteError
        If the disk is full or read-only; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        _patiently(lambda: temporary.replace(path))
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WriteError(f"{path} cannot be written ({error.strerror}): make room, or permit it.") from error


def _patiently(use: Callable[[], _T]) -> _T:
    """Use a file that another process may hold for a moment, which only Windows minds."""
    for _ in range(_TRIES if os.name == "nt" else 0):
        try:
            return use()
        except PermissionError:
            time.sleep(0.05)
    return use()


def runs_home() -> Path:
    """Where runs lie unless another folder is named."""
    return Settings.from_environment().data_dir / "training"


def find_runs() -> Iterator[RunFolder]:
    """Yield the runs in :func:`runs_home`, the latest first."""
    found = [path.parent for path in runs_home().glob("*/run.toml")]
    for path in sorted(found, key=lambda folder: folder.name, reverse=True):
        yield RunFolder(path)


def new_run(config: TrainingConfig, path: str | Path | None = None) -> RunFolder:
    """Make a run's folder: settings, and copies of what is no file.

    Parameters
    ----------
    config : TrainingConfig
    path : path, optional
        The folder; left out, one in :func:`runs_home` with day and time in its name.

    Raises
    ------
    InputError
        If there is a run in that folder already.
    WriteError
        If it cannot be written.
    """
    if path is None:
        path = runs_home() / f"{datetime.now():%Y%m%d-%H%M%S}-{config.name}"
    folder = RunFolder(Path(path).expanduser().absolute())
    if folder.config.exists():
        raise InputError(f"{folder.path} holds a run already: go on with it (--resume), or name another folder.")
    taken = [path.name for path in folder.names if path.exists()]
    if taken:  # they would be written over, or removed with a run that is refused
        raise InputError(
            f"{folder.path} holds {', '.join(taken)}, as a run calls what it writes, and no run: name another folder."
        )
    try:
        folder.previews.mkdir(parents=True, exist_ok=True)
        folder._id.write_text(f"{uuid.uuid4().hex}\n", encoding="utf-8")
        pairs = [_as_files(folder, number, pair) for number, pair in enumerate(config.pairs)]
        config.with_files(pairs).write(folder.config)
    except OSError as error:
        with suppress(OSError):
            folder.forget()  # half a copy would only take room
        raise WriteError(f"{folder.path} cannot be written ({error}): make room, or name another folder.") from error
    return folder


def open_run(path: str | Path) -> tuple[RunFolder, TrainingConfig]:
    """Open a run's folder, or its run.toml.

    Raises
    ------
    ReadError
        If there is no run.
    """
    path = Path(path).expanduser().absolute()
    folder = RunFolder(path.parent if path.is_file() else path)
    if not folder.config.is_file():
        raise ReadError(f"There is no run in {folder.path} (no run.toml): it may have been moved; give its new place.")
    return folder, TrainingConfig.read(folder.config)


def _as_files(folder: RunFolder, number: int, pair: TrainingPair) -> TrainingPair:
    """Copy arrays into the folder; files are named by their whole path."""
    from dataclasses import replace

    def place(value: Any, what: str) -> str:
        if isinstance(value, (str, Path)):
            return str(Path(value).expanduser().absolute())
        snapshot = folder.path / SNAPSHOT
        snapshot.mkdir(exist_ok=True)
        file = snapshot / f"{what}{number}.npy"
        np.save(file, np.asarray(value), allow_pickle=False)
        return file.relative_to(folder.path).as_posix()  # so that the folder can be moved

    origin = pair.origin
    if not origin and not isinstance(pair.image, (str, Path)):
        planes = Planes.of(pair.image)
        origin = origin_of(len(planes), planes.plane_shape, planes.read)
    return replace(pair, image=place(pair.image, "image"), labels=place(pair.labels, "labels"), origin=origin)


def _born(pid: int) -> float:
    """When a process of this machine began, in seconds since 1970; 0 if there is none, or only what is left of one."""
    import psutil

    if pid <= 0:
        return 0.0
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return 0.0
