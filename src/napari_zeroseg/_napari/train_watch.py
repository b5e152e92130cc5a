"""A training run as its folder tells it, whoever started it, and its process. No Qt.

The process writes to its folder and to nothing of napari's, so that closing napari cannot end it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from napari_zeroseg._napari.channel import Status
from napari_zeroseg.errors import WriteError, ZerosegError
from napari_zeroseg.training.card import KIND_WORDS
from napari_zeroseg.training.folder import RunFolder

LIVE = ("running", "paused")
"""States in which a process is at work on a run."""

UNFINISHED = ("stopped", "killed", "failed", "new")
"""States from which a run can go on."""

LOG = "process.log"
"""In a run's folder: what its process wrote to the standard error."""

_children: list[subprocess.Popen[bytes]] = []
"""Processes started here: kept, since one that is let go of is complained about while it runs."""


def start_process(folder: RunFolder) -> subprocess.Popen[bytes]:
    """Start, or go on with, the run of a folder in a process that outlives this one.

    Raises
    ------
    WriteError
        If the folder cannot be written, or no process can be started.
    """
    command = [sys.executable, "-m", "napari_zeroseg", "train", str(folder.path), "--resume", "--quiet"]
    try:
        with (folder.path / LOG).open("wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
    except OSError as error:
        raise WriteError(
            f"The training process cannot be started in {folder.path} ({error}): make room, or permit it."
        ) from error
    _children[:] = [other for other in _children if other.poll() is None]
    _children.append(child)
    return child


class RunWatch:
    """What is known of one run; :meth:`look` reads on.

    Parameters
    ----------
    folder : RunFolder
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.state = "new"
        self.told: dict[str, Any] = {}
        """The run's state with what belongs to it: its name, a message, the verdict."""
        self.process: subprocess.Popen[bytes] | None = None
        self.losses: list[tuple[float, float]] = []
        self.rates: list[tuple[float, float]] = []
        """(step, learning rate)."""
        self.scores: dict[str, dict[str, list[tuple[float, float]]]] = {}
        """By measure ("iou" or "dice") and kind of prompt: (step, mean over held-back objects)."""
        self.bases: dict[str, dict[str, float]] = {}
        """The same means of the base."""
        self.kinds: dict[str, tuple[float, float | None, float | None]] = {}
        """IoU, that of the base and Dice, by kind of prompt."""
        self.step = self.steps = 0
        self.seconds_left: float | None = None
        self.rate: float | None = None
        self.picture = ""
        self.doing = "Starting …"
        self.warnings: list[str] = []
        self.held_back = ""
        """Which block is held back in turn, such as "block 2 of 4"; "" if none is."""
        self._block: int | None = None
        self._seen: dict[int | None, Any] = {}
        self._offset = 0
        self._is_starting = False
        self._wanted = ""

    @property
    def name(self) -> str:
        """Name of the model that is trained."""
        return str(self.told.get("name") or self.folder.path.name)

    @property
    def base(self) -> str:
        """Key of the model that the finished run was trained from; "" if it does not say."""
        return str(self.told.get("base") or "")

    @property
    def is_live(self) -> bool:
        """Whether a process is at work on it, or about to be."""
        return self._is_starting or self.state in LIVE

    @property
    def offers(self) -> tuple[str, ...]:
        """Keys of the models that the figures of the finished run speak for: the trained one, its base, or both."""
        if self.state != "done":
            return ()
        both = {"base": (self.base,), "unsure": (self.name, self.base)}
        return tuple(key for key in both.get(str(self.told.get("choice")), (self.name,)) if key)

    @property
    def can_go_on(self) -> bool:
        """Whether it was interrupted and can go on."""
        return not self.is_live and self.state in UNFINISHED

    @property
    def wanted(self) -> str:
        """The command that was given and is not followed yet; "" for none."""
        return self._wanted

    def start(self) -> None:
        """Let a process of its own begin or go on with the run.

        Raises
        ------
        WriteError
        """
        self.process = start_process(self.folder)
        self._is_starting, self._wanted, self.doing = True, "", "Starting …"

    def tell(self, command: str) -> None:
        """Tell the run's process to pause, resume or stop; said again until it is followed.

        Raises
        ------
        WriteError
        """
        self._wanted = command
        if self.state in LIVE:  # even where it is so already: what was told before may not be followed yet
            self.folder.tell(command)
        self._say_again()

    def look(self) -> bool:
        """Read what is new; whether there was anything.

        Raises
        ------
        ReadError, WriteError
            If the folder is gone or damaged.
        """
        before = (self._offset, self.state, self._is_starting, self._wanted)
        ended = self.process is not None and self.process.poll() is not None
        for event in self._new_events():
            self._hear(event)
        self.told = self.folder.status()
        self.state = str(self.told["state"])
        if ended:
            self._end_process()
        self._say_again()
        return before != (self._offset, self.state, self._is_starting, self._wanted)

    def _end_process(self) -> None:
        self.process = None
        if self._is_starting:
            # It could not even begin, and only its standard error says why.
            self._is_starting = False
            if self.state in LIVE:  # another process was quicker, and it is that one's run now
                return
            self.told = {**self.told, "state": "failed", "message": _last_line(self.folder.path / LOG)}
            self.state = "failed"
            self.folder.write_status("failed", name=self.name, message=self.told["message"])

    def _say_again(self) -> None:
        """A process forgets what it was told before it began, so it is told until it follows."""
        followed = {"stop": not self.is_live, "pause": self.state != "running", "resume": self.state == "running"}
        if self._wanted and followed[self._wanted] and not self._is_starting:
            self._wanted = ""
        elif self._wanted and self.state in LIVE:
            self.folder.tell(self._wanted)

    def _new_events(self) -> list[dict[str, Any]]:
        try:
            with self.folder.events.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # a line that was cut off by a kill
                continue
        return found

    def _hear(self, event: dict[str, Any]) -> None:
        if event.get("block") != self._block and "block" in event:
            self._turn_to(event["block"], event.get("held_back", f"block {event['block']}"))
        hear = getattr(self, f"_on_{event['event']}", None)
        if hear is not None:
            hear(event)

    def _turn_to(self, block: int | None, held_back: str) -> None:
        """Show what there is of another training of the run; what was seen of this one is kept."""
        seen = (self.losses, self.rates, self.kinds, self.bases, self.scores, self.picture)
        self._seen[self._block] = seen
        self._block, self.held_back = block, held_back
        seen = self._seen.get(block, ([], [], {}, {}, {}, ""))
        self.losses, self.rates, self.kinds, self.bases, self.scores, self.picture = seen
        self.step = int(self.losses[-1][0]) if self.losses else 0

    def _forget(self, step: int) -> None:
        """Forget what came after a step."""
        self.losses = [point for point in self.losses if point[0] <= step]
        self.rates = [point for point in self.rates if point[0] <= step]
        self.scores = {
            measure: {kind: [point for point in points if point[0] <= step] for kind, points in kinds.items()}
            for measure, kinds in self.scores.items()
        }
        self.step = step

    def _on_started(self, _: dict[str, Any]) -> None:
        self._is_starting, self.seconds_left = False, None
        self._turn_to(None, "")
        self.doing = "Reading the pictures …"

    def _on_data(self, event: dict[str, Any]) -> None:
        self.doing = f"{event['objects']} objects on {event['planes']} planes; held back: {event['held_back']}."

    def _on_encoding(self, event: dict[str, Any]) -> None:
        self.doing = f"Encoding window {event['done']} of {event['total']} …"

    def _on_plan(self, event: dict[str, Any]) -> None:
        self.steps, self.seconds_left = event["steps"], event["seconds"]

    def _on_baseline(self, event: dict[str, Any]) -> None:
        self.kinds = {kind: (one["iou"], one["iou"], one["dice"]) for kind, one in event["masks"].items()}
        self.bases = {
            measure: {kind: one[measure] for kind, one in event["masks"].items()} for measure in ("iou", "dice")
        }
        self.doing = "The base is scored."

    def _on_resumed(self, event: dict[str, Any]) -> None:
        if "step" in event:
            self.steps = event["steps"]
            self._forget(event["step"])

    def _on_step(self, event: dict[str, Any]) -> None:
        if self.step >= event["step"]:  # done again, since it was killed before it had saved
            self._forget(event["step"] - 1)
        self.step, self.steps, self.rate = event["step"], event["steps"], event["rate"]
        self.seconds_left = event["seconds_left"]
        if self.rate is not None:
            self.rates.append((self.step, self.rate))
        if event["loss"] is not None:
            self.losses.append((self.step, event["loss"]))

    def _on_validation(self, event: dict[str, Any]) -> None:
        scores = {name[4:]: value for name, value in event.items() if name.startswith("iou_") and value is not None}
        self.kinds = {
            kind: (iou, event.get(f"base_iou_{kind}"), event.get(f"dice_{kind}")) for kind, iou in scores.items()
        }
        for measure in ("iou", "dice"):
            for kind in scores:
                if (value := event.get(f"{measure}_{kind}")) is not None:
                    self.scores.setdefault(measure, {}).setdefault(kind, []).append((event["step"], value))
                if (base := event.get(f"base_{measure}_{kind}")) is not None:
                    self.bases.setdefault(measure, {})[kind] = base
        self.picture = event.get("picture") or self.picture

    def _on_warning(self, event: dict[str, Any]) -> None:
        self.warnings.append(event["message"])

    # In words

    @property
    def status(self) -> Status:
        """How it stands, in a sentence."""
        where = f"step {self.step} of {self.steps}" if self.steps else "its beginning"
        if self._is_starting:
            return Status(f"{self.name}: starting …", "busy")
        message = str(self.told.get("message") or "")
        if self.state == "running" and self._wanted:
            return Status(f"{self.name}: will {self._wanted} after this step.", "busy")
        if self.state == "running":
            return Status(f"{self.name}: {self._progress()}", "busy")
        told = {
            "new": (f"{self.name} has not begun: press Go on.", "idle"),
            "paused": (f"{self.name} is paused at {where}.", "warning"),
            "stopped": (f"{self.name} was stopped at {where}. What was learnt is kept: Go on continues.", "idle"),
            "killed": (
                f"The process of {self.name} ended at {where} without a word: it was killed, or memory ran out. Go on "
                "continues from what was saved last.",
                "warning",
            ),
            "failed": (f"{self.name}: {message}", "warning"),
            "done": (
                f"In the model list as {self.name}. {self.told.get('verdict', '')}",
                "good" if self.told.get("choice", "trained") == "trained" else "warning",
            ),
        }
        return Status(*told.get(self.state, (f"{self.name}: {self.state}", "idle")))

    def _progress(self) -> str:
        if not self.step:
            return self.doing
        block = f"{self.held_back} held back, " if self.held_back else ""
        left = "" if self.seconds_left is None else f", {in_words(self.seconds_left)} left"
        return f"{block}step {self.step} of {self.steps}{left}."

    @property
    def figures(self) -> str:
        """The last scores by kind of prompt, a line each."""
        lines = [f"{self.held_back.capitalize()}, held back from a training of its own:"] if self.held_back else []
        for kind, (iou, base, dice) in self.kinds.items():
            name = "class without a prompt" if kind == "class" else KIND_WORDS.get(kind, kind)
            of_base = "" if base is None else f" (base {base:.3f})"
            lines.append(f"{name}: IoU {iou:.3f}{of_base}" + ("" if dice is None else f", Dice {dice:.3f}"))
        if self.rate is not None and self.is_live:
            lines.append(f"learning rate {self.rate:.2g}")
        return "\n".join([*lines, *self.warnings[-1:]])


def states_of(folders: list[RunFolder]) -> list[tuple[RunFolder, str, str]]:
    """(folder, state, name) of runs; of what cannot be read, the state says so."""
    found = []
    for folder in folders:
        try:
            told = folder.status()
        except ZerosegError:
            told = {"state": "damaged"}
        found.append((folder, str(told["state"]), str(told.get("name") or folder.path.name)))
    return found


def in_words(seconds: float) -> str:
    """A time that is left, roughly."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _last_line(path: Path) -> str:
    try:
        return last_sentence(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return last_sentence("")


def last_sentence(said: str) -> str:
    """The last line that a process wrote to its standard error, without the program's name."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].removeprefix("zeroseg: ").removeprefix("error: ") if lines else "Its process ended at once."
