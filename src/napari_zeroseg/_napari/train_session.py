"""A training session: layers and choices to a run's folder, its process, and what is seen of it. No Qt."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_zeroseg._napari.channel import Bridge, Status, sentence
from napari_zeroseg._napari.keeper import Question
from napari_zeroseg._napari.train_gather import Gathering, PairChoice, Wanted
from napari_zeroseg._napari.train_watch import LIVE, RunWatch, in_words, last_sentence, states_of
from napari_zeroseg._napari.zoo import Entry, Zoo
from napari_zeroseg.errors import CancelledError, InputError, ReadError, ZerosegError
from napari_zeroseg.training.bases import check_base, reads_words, ways_of
from napari_zeroseg.training.config import DEFAULT_PROMPTS, TrainingConfig, words_of
from napari_zeroseg.training.data import TrainingData, check_enough
from napari_zeroseg.training.estimate import PRESETS
from napari_zeroseg.training.folder import RunFolder, find_runs, new_run
from napari_zeroseg.training.result import check_name
from napari_zeroseg.training.split import split_for
from napari_zeroseg.weights.folder import megabytes

if TYPE_CHECKING:
    from napari.components import Dims

_RUNS_LISTED = 20


@dataclass(frozen=True)
class TrainChoices:
    """What the user has set; each has a default that works, and the names are those of TrainingConfig."""

    name: str = ""
    base: str = "mobile_sam"
    what: str = "decoder"
    words: str = ""
    minutes: float = 0
    labels_are: str = "auto"
    classes: str = ""
    ignore: str = ""
    min_pixels: int = 50
    validation: float = 0.25
    gap: int = 1
    any_orientation: bool = True
    epochs: int = 0
    """0 for as many as the time allows, or as make some 300 steps."""
    device: str = "auto"
    loss: str = "dice_bce"
    learning_rate: float = 2e-4
    patience: int = 0
    recompute: bool = False
    tensorboard: bool = False
    seed: int = 0
    processes: int = 1
    prompts: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_PROMPTS))
    preset: str = ""

    def settings(self) -> dict[str, Any]:
        """As :class:`TrainingConfig` takes them, without name and pairs.

        Raises
        ------
        InputError
            If a text is no number.
        """
        values: dict[str, Any] = dict(PRESETS.get(self.preset, {}))
        values |= {
            name: getattr(self, name)
            for name in (
                *("base", "what", "labels_are", "loss", "learning_rate", "patience"),
                *("recompute", "tensorboard", "seed", "processes"),
                *("min_pixels", "validation", "gap", "any_orientation", "device"),
            )
        }
        values["epochs"] = self.epochs or None
        values["minutes"] = self.minutes or None
        values["words"] = self.words
        values["prompts"] = {kind: weight for kind, weight in self.prompts.items() if weight > 0}
        values["classes"] = tuple(_number(part) for part in self.classes.split(",") if part.strip())
        values["ignore"] = _number(self.ignore) if self.ignore.strip() else None
        if not values["prompts"]:
            raise InputError("All prompts to simulate have the weight 0: give at least one of them another.")
        return values


class TrainingSession:
    """Starts runs, watches one, and says how it stands; all methods return at once.

    Parameters
    ----------
    zoo : Zoo
        Where the result is listed.
    bridge : Bridge
    dims : callable
        The viewer's, which say what is a plane.
    """

    changed = Signal()

    def __init__(self, zoo: Zoo, bridge: Bridge, dims: Callable[[], Dims]) -> None:
        self.zoo = zoo
        self.choices = TrainChoices()
        self.pairs = [PairChoice()]
        self.watch: RunWatch | None = None
        self.runs: list[tuple[RunFolder, str, str]] = []
        self.estimate = ""
        self.message = Status("Choose a picture and its labels, then press Train.")
        self.question: Question | None = None
        """What must be answered before a run is removed."""
        self.is_preparing = False
        self._bridge = bridge
        self._dims = dims
        self.is_gathering = self.is_measuring = self.is_looking = False
        self.sheet = b""
        """PNG of what the network will see, until a run is shown; empty for none."""
        self._is_cancelled = False
        self._child: subprocess.Popen[str] | None = None
        self._is_closed = False

    def close(self) -> None:
        """Hear nothing any more; a run goes on."""
        self._is_closed = True
        if self._child is not None:
            self._child.kill()
        self._bridge.close()

    @property
    def bases(self) -> list[Entry]:
        """Models to start from: those that training knows and that are here."""
        known = [entry for entry in self.zoo.entries.values() if ways_of(entry.spec)]
        return [entry for entry in known if entry.is_ready]

    @property
    def ways(self) -> tuple[str, ...]:
        """What can be trained of the base."""
        entry = self.zoo.entries.get(self.choices.base)
        return () if entry is None else ways_of(entry.spec)

    @property
    def asks_words(self) -> bool:
        """Whether the base reads, so that the labels need words."""
        entry = self.zoo.entries.get(self.choices.base)
        return entry is not None and reads_words(entry.spec)

    def set_choices(self, **values: Any) -> None:
        """Change settings; what cannot be trained of another base gives way to what can."""
        self.choices = replace(self.choices, **values)
        if self.ways and self.choices.what not in self.ways:
            self.choices = replace(self.choices, what=self.ways[0])
        self.changed.emit()

    def set_preset(self, name: str) -> None:
        """Take the settings of one of the presets; "" for none leaves what is chosen as it is."""
        shown = {entry.name for entry in fields(TrainChoices)}
        values = {setting: value for setting, value in PRESETS.get(name, {}).items() if setting in shown}
        self.set_choices(preset=name, **values)

    @property
    def name(self) -> str:
        """Under which the result will be listed."""
        wanted = self.choices.name.strip()
        if wanted:
            return wanted
        labels = self.pairs[0].labels if self.pairs else None
        bare = "" if labels is None else re.sub(r"[^A-Za-z0-9_.-]+", "-", labels.name).strip("_.-")[:48]
        stem = f"my-{bare or 'model'}"
        taken = {*self.zoo.entries, *(name for _, _, name in self.runs)}
        return next(one for one in (stem, *(f"{stem}-{i}" for i in range(2, 10_000))) if one not in taken)

    # Runs

    def find(self) -> None:
        """List the runs of this user, and take up one that is under way or was interrupted last."""
        self.list_runs()
        live = [folder for folder, state, _ in self.runs if state in LIVE]
        last = [folder for folder, state, _ in self.runs[:1] if state in ("stopped", "killed")]
        for folder in [*live, *last][:1]:
            self.show_run(folder)

    def list_runs(self) -> None:
        """Look which runs there are."""
        self.runs = states_of(list(islice(find_runs(), _RUNS_LISTED)))
        self.changed.emit()

    def show_run(self, folder: RunFolder | None) -> None:
        """Watch this run from now on, or none; what is under way goes on."""
        self.sheet, self.question = b"", None
        if folder is None:
            self.watch = None
            self._say("Choose a picture and its labels, then press Train.")
        elif self.watch is None or self.watch.folder != folder:
            self.watch, self.message = RunWatch(folder), Status("")
            self.look()
        self.changed.emit()

    def look(self) -> None:
        """Read on in the folder of the run that is watched."""
        watch = self.watch
        if watch is None:
            return
        if not watch.folder.config.is_file():
            self.watch = None
            self._say(f"The run in {watch.folder.path} is not there any more: it was moved or removed.", "warning")
            self.list_runs()
            return
        state = watch.state
        try:
            is_new = watch.look()
        except ZerosegError as error:
            self._say(sentence(error), "warning")
            return
        if watch.state != state:
            self.list_runs()
            if watch.state == "done":
                self.zoo.refresh()
        if is_new:
            self.changed.emit()

    def tell(self, command: str) -> None:
        """Pause, resume or stop the run."""
        if self.watch is not None:
            self._try(partial(self.watch.tell, command))

    def go_on(self) -> None:
        """Go on with the run that was interrupted."""
        if self.watch is not None and self.watch.can_go_on:
            self.message = Status("")
            self._try(self.watch.start)

    def ask_to_remove(self) -> None:
        """Ask whether the run that is watched shall be removed."""
        watch = self.watch
        if watch is None or watch.is_live:
            return
        lost = "The model that it made stays." if watch.state == "done" else "What it has learnt is lost."
        text = (
            f"Remove the run {watch.name} ({megabytes(watch.folder.size())})? {lost} Layers and files stay as they are."
        )
        self.question = Question(text, "Remove", lambda *_: self._remove(watch))
        self.changed.emit()

    def answer(self, yes: bool) -> None:
        """Answer the question that is asked."""
        question, self.question = self.question, None
        if question is not None and yes:
            question.act("", "")
        self.changed.emit()

    def _remove(self, watch: RunWatch) -> None:
        def removed() -> None:
            self.watch = None
            self._say(f"The run {watch.name} was removed.", "good")
            self.list_runs()

        def go() -> None:
            try:
                watch.folder.remove()
            except ZerosegError as error:
                heard = error
                self._bridge.post(lambda: self._fail(heard))
            else:
                self._bridge.post(removed)

        self._say(f"Removing the run {watch.name} …", "busy")
        threading.Thread(target=go, name="zeroseg-removing", daemon=True).start()

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except ZerosegError as error:
            self._fail(error)
        self.changed.emit()

    # From layers to a run

    def train(self) -> None:
        """Gather what was labelled and start a run on it."""

        def started(folder: RunFolder) -> None:
            self.message, self.sheet = Status(""), b""
            self.watch = RunWatch(folder)
            self._try(self.watch.start)
            self.list_runs()

        self.is_gathering = self._prepare("Gathering pictures and labels …", new_run, started)
        self.changed.emit()

    def ask_what_fits(self) -> None:
        """Measure, in a process of its own, how long the run would take and in how much memory."""

        def measured(values: dict[str, Any]) -> None:
            self.estimate = _what_fits(values)
            self._say("Measured. Nothing was trained yet.", "good")

        self.is_measuring = self._prepare("Measuring two steps …", self._measure, measured)
        self.changed.emit()

    def ask_what_it_sees(self) -> None:
        """Draw, in a process of its own, windows and their variants as the network will see them."""

        def drawn(sheet: bytes) -> None:
            self.sheet = sheet
            self._say("Some of what the network will see is shown below. Nothing was trained yet.", "good")

        self.is_looking = self._prepare("Drawing what the network will see …", self._look, drawn)
        self.changed.emit()

    def cancel(self) -> None:
        """Gather, measure or draw no further."""
        self._is_cancelled = True
        if self._child is not None:
            self._child.kill()

    def _prepare(self, doing: str, work: Callable[[TrainingConfig], Any], done: Callable[[Any], None]) -> bool:
        """Gather, check and `work` in a thread, and hear of it in this one; whether that was begun."""
        if self.is_preparing:
            return False
        try:
            check_name(self.name)
            name, settings = self.name, self.choices.settings()
            settings["words"] = words_of(settings["words"]) if self.asks_words else {}
            check_base(settings["base"], settings["what"], settings["words"])
            which = Wanted(settings["classes"], settings["ignore"])
            gatherings = [Gathering(pair, self._dims(), which) for pair in self.pairs]
        except ZerosegError as error:
            self._fail(error)
            return False
        self.is_preparing, self._is_cancelled = True, False
        self._say(doing, "busy")

        def go() -> None:
            try:
                pairs = tuple(gathering.gather(self._still) for gathering in gatherings)
                config = TrainingConfig(name, pairs, **settings)
                data = TrainingData(config)
                check_enough(data, config)
                split_for(data, config)
                result = work(config)
            except Exception as error:
                heard: Any = error
                self._bridge.post(lambda: self._end_preparing(self._fail, heard))
            else:
                self._bridge.post(lambda: self._end_preparing(done, result))

        # A daemon: napari may close meanwhile, and a run that has not begun is no loss.
        threading.Thread(target=go, name="zeroseg-training", daemon=True).start()
        return True

    def _still(self, doing: str) -> None:
        """Tell, from any thread, how far the gathering is.

        Raises
        ------
        CancelledError
            If it is not wanted any more.
        """
        if self._is_unwanted():
            raise CancelledError("Gathering was stopped. Nothing was trained.")
        self._bridge.post(lambda: self._say(doing, "busy"))

    def _end_preparing(self, done: Callable[[Any], None], result: Any) -> None:
        self.is_preparing = self.is_gathering = self.is_measuring = self.is_looking = False
        if not self._is_closed:
            done(result)
            self.changed.emit()

    def _measure(self, config: TrainingConfig) -> dict[str, Any]:
        with TemporaryDirectory(prefix="zeroseg-estimate-") as place:
            folder = new_run(config, Path(place) / "run")
            values: dict[str, Any] = json.loads(self._hear(folder, "Measuring", "--estimate"))
            return values

    def _look(self, config: TrainingConfig) -> bytes:
        with TemporaryDirectory(prefix="zeroseg-look-") as place:
            folder, sheet = new_run(config, Path(place) / "run"), Path(place) / "sheet.png"
            self._hear(folder, "Drawing", "--look", str(sheet))
            return sheet.read_bytes()

    def _hear(self, folder: RunFolder, doing: str, *options: str) -> str:
        """What ``zeroseg train`` with these options, in a process of its own, says of a run.

        Raises
        ------
        CancelledError, ReadError
            If it was stopped, or with the sentence that it ended with.
        """
        stopped = CancelledError(f"{doing} was stopped.")
        if self._is_unwanted():
            raise stopped
        command = [sys.executable, "-m", "napari_zeroseg", "train", str(folder.config), *options, "--json"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as child:
            self._child = child
            if self._is_unwanted():  # in the meantime
                child.kill()
            out, said = child.communicate()
        self._child = None
        if child.returncode:
            if child.returncode < 0 or self._is_unwanted():
                raise stopped
            raise ReadError(last_sentence(said))
        return out

    def _is_unwanted(self) -> bool:
        return self._is_closed or self._is_cancelled

    def _fail(self, error: Exception) -> None:
        if isinstance(error, CancelledError):
            self._say(sentence(error))
            return
        self._bridge.report(error)
        self._say(sentence(error), "warning")

    def _say(self, text: str, tone: str = "idle") -> None:
        self.message = Status(text, tone)
        self.changed.emit()

    @property
    def status(self) -> Status:
        """What to tell now: how the run stands, unless something was said since that is not about it."""
        if self.watch is None or self.is_preparing or self.message.tone == "warning":
            return self.message
        return self.watch.status


def _what_fits(values: dict[str, Any]) -> str:
    memory, free = values["memory_bytes"] / 1e9, values["free_bytes"] / 1e9
    told = (
        f"{values['steps']} steps take about {in_words(values['seconds'])} ({in_words(values['seconds_per_epoch'])} an "
        f"epoch), until {values['end'][11:16]}, and {memory:.1f} GB of memory"
    )
    if not values["fits"]:
        return f"{told}, of which {free:.1f} GB are free: choose a smaller setting."
    return told + (f"; {free:.1f} GB are free." if free else ".")


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"Classes and the value to ignore are whole numbers, not {text.strip()!r}.") from None
