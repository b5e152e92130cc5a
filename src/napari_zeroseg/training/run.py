"""One training run from its folder to a model in the list."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.errors import CancelledError, InputError, ZerosegError
from napari_zeroseg.locks import only_run_on
from napari_zeroseg.training import card as cards
from napari_zeroseg.training.board import Board, check_available
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData, check_enough
from napari_zeroseg.training.events import Control, Events, Listener, Unheard, plain
from napari_zeroseg.training.folder import RunFolder, new_run, open_run
from napari_zeroseg.training.launch import Launch
from napari_zeroseg.training.processes import ALONE, LostError, Processes
from napari_zeroseg.training.result import TrainedModel, check_name, made_by, register
from napari_zeroseg.training.split import BLOCKS, Split, folds, split_for
from napari_zeroseg.training.untold import check_words_held, untold
from napari_zeroseg.weights.cards import model_folder
from napari_zeroseg.weights.resting import Ground, kept

if TYPE_CHECKING:
    from napari_zeroseg.jobs import CancelToken
    from napari_zeroseg.training.figures import Figures
    from napari_zeroseg.training.fitting import Fitted

_log = logging.getLogger(__name__)


class StoppedError(CancelledError):
    """A run was stopped before its end; its folder holds the state to go on from."""


def train(
    config: TrainingConfig | str | Path,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    listener: Listener | None = None,
    control: Callable[[Control], None] | None = None,
    cancel: CancelToken | None = None,
) -> TrainedModel:
    """Train a model and put it into the list under the name of the configuration.

    Parameters
    ----------
    config : TrainingConfig or path
        Settings, or their TOML file; with `resume`, the run's folder.
    out : path, optional
        The run's folder; left out, one in the user's data folder.
    resume : bool
        Go on with a run that was stopped or killed.
    listener : callable, optional
        Called with each event, in the thread of the caller; see :mod:`napari_zeroseg.training.events`.
    control : callable, optional
        Called once with the :class:`~napari_zeroseg.training.events.Control` of the run, to pause or stop it later.
    cancel : CancelToken, optional
        Another way to stop it: looked at between two steps.

    Returns
    -------
    TrainedModel
        Its `better` is True where the figures of the planes held back speak for it beyond chance.

    Raises
    ------
    StoppedError
        If the run was stopped; what was learnt is kept, and `resume` goes on from there.
    InputError, ReadError, WriteError, WeightsError, UnknownModelError, DeviceMemoryError
        Each with a sentence that says what to do.
    """
    folder, config = _opened(config, out, resume)
    work: Launch | Work
    if config.processes > 1:
        work = Launch(folder, config, listener, control, cancel)
    else:
        work = Work(folder, config, listener, control, cancel)
    try:
        return work.go()
    except LostError:
        raise  # what the processes wrote tells why
    except ZerosegError:
        if not resume and not work.has_begun:
            folder.forget()  # refused before anything began: nothing in it is worth keeping
        raise


def _opened(
    config: TrainingConfig | str | Path, out: str | Path | None, resume: bool
) -> tuple[RunFolder, TrainingConfig]:
    if resume:
        if isinstance(config, TrainingConfig):
            if out is None:
                raise InputError("To go on with a run, give its folder.")
            return open_run(out)
        return open_run(config)
    settings = config if isinstance(config, TrainingConfig) else TrainingConfig.read(config)
    check_name(settings.name)
    folder = new_run(settings, out)
    return folder, TrainingConfig.read(folder.config)


class Work:
    """A run in this process, from its data to the model in the list.

    Parameters
    ----------
    folder : RunFolder
    config : TrainingConfig
    listener, control, cancel
        As for :func:`train`; only the process that leads calls and looks at them.
    processes : Processes
        Who share the work; all of them do the same.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: TrainingConfig,
        listener: Listener | None = None,
        control: Callable[[Control], None] | None = None,
        cancel: CancelToken | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.folder = folder
        self.config = config
        self.events: Events = Unheard()
        self.processes = processes
        self._listener = listener
        self._steered_by = control
        self._control: Control | None = None
        self._cancel = cancel
        self.has_begun = False
        """Whether data and base were found good and work began."""

    def go(self) -> TrainedModel:
        """All of it, told and kept in the run's folder by the process that leads."""
        if not self.processes.leads:
            return self._go()
        board = Board(self.folder.path) if self.config.tensorboard else None
        self.events = Events(self.folder.events, *(one for one in (self._listener, board) if one is not None))
        name = model_folder(self.config.name)
        with contextlib.suppress(OSError):  # told by the lock, which goes beside it
            name.parent.mkdir(parents=True, exist_ok=True)
        with (
            only_run_on(self.folder.path),
            only_run_on(name),  # two runs of one name would meet only when both have learnt
            contextlib.closing(board) if board is not None else contextlib.nullcontext(),
        ):
            self._control = Control(self.folder.control)
            if self._steered_by is not None:
                self._steered_by(self._control)
            self.folder.write_status("running", name=self.config.name)
            try:
                return self._go()
            except BaseException as error:
                self._tell_end(error)
                raise

    def _tell_end(self, error: BaseException) -> None:
        """Leave word of how the run ended; the error itself goes on to the caller.

        Where another process was killed, the run was: nothing is told, as nothing would be if it were this one.
        """
        if isinstance(error, LostError):
            return
        stopped = isinstance(error, (CancelledError, KeyboardInterrupt))
        state = "stopped" if stopped else "failed"
        message = str(error) if isinstance(error, ZerosegError) else f"{type(error).__name__}: {error}"
        if not stopped and not isinstance(error, ZerosegError):
            with contextlib.suppress(OSError):
                self.folder.error.write_text(traceback.format_exc(), encoding="utf-8")
                message += f" (where it happened: {self.folder.error.name} in the run's folder)"
        self.events(state, message=message, kind=type(error).__name__, out_of_memory=isinstance(error, MemoryError))
        try:
            self.folder.write_status(state, name=self.config.name, message=message)
        except ZerosegError as other:
            _log.warning("%s", other)

    def _go(self) -> TrainedModel:
        together = self.processes.together
        there = self.processes.lead(self._made)
        if there is not None:
            return there
        config = self.processes.placed(self.config)
        data, split = together(partial(self._looked_at, config))
        # torch comes here, when everything that needs none has been seen to be right
        from napari_zeroseg.training.fitting import Fitting

        turns = folds(data, config, split)
        if turns and config.minutes is not None:
            config = replace(config, minutes=config.minutes / (len(turns) + 1))
        first = together(lambda: Fitting(self, config, data, split, final=bool(turns), following=len(turns)))
        self._begin(data, split, turns)
        fitted = first.go()
        turned = self._turned(config, data, turns, fitted.steps)
        held = turns or [split]
        return self.processes.lead(lambda: self._finish(data, held, fitted, turned))

    def _turned(self, config: TrainingConfig, data: TrainingData, turns: Sequence[Split], steps: int) -> list[Figures]:
        """The figures of each block that is held back in turn; those that are known already are not computed again."""
        from napari_zeroseg.training.figures import keep_figures, kept_figures
        from napari_zeroseg.training.fitting import Fitting

        lead, found = self.processes.lead, []
        fingerprint = lead(data.fingerprint) if turns else ""
        settings = self.folder.settings(self.config)
        for number, turn in enumerate(turns):
            made_of = plain({"data": fingerprint, "settings": settings, "steps": steps, "held": turn.report})
            path = self.folder.block(number)
            figures = lead(partial(kept_figures, path, made_of))
            if figures is None:
                after = len(turns) - number - 1
                fit = partial(Fitting, self, config, data, turn, fold=number, steps=steps, following=after)
                fitted = self.processes.together(fit).go()
                figures = replace(fitted.figures, curve=fitted.history)
                del fitted  # its network takes memory
                lead(partial(keep_figures, path, made_of, figures))
                lead(partial(self.folder.last_of(number).unlink, missing_ok=True))
            found.append(figures)
        return found

    def _made(self) -> TrainedModel | None:
        """What this very run had made already when it was killed before it could say so."""
        card = made_by(self.folder.identity, self.folder.settings(self.config), self.config.name)
        return None if card is None else self._done(card)

    def _looked_at(self, config: TrainingConfig) -> tuple[TrainingData, Split]:
        check_name(config.name)
        if config.tensorboard:
            check_available()
        data = TrainingData(config)
        check_enough(data, config)
        split = split_for(data, config)
        check_words_held(data, split, config)
        return data, split

    def _begin(self, data: TrainingData, split: Split, turns: Sequence[Split]) -> None:
        """Tell where the run is and what it learns from, now that nothing of it can be refused any more."""
        self.has_begun = True
        path, name = str(self.folder.path), self.config.name
        self.events("started", folder=path, name=name, pid=os.getpid(), settings=self.config.table())
        self._tell_data(data, split, turns)
        # where every block is held back in turn, the model itself learns from all of them
        for sentence in [] if turns else untold(data, split, self.config):
            self.events("warning", message=sentence)

    def between(self) -> None:
        """Called between two steps of any work: wait while paused, leave when stopped.

        Raises
        ------
        StoppedError
        """
        assert self._control is not None
        self._control.wait(self._paused, self._is_cancelled)
        if self._control.stopped or self._is_cancelled():
            raise StoppedError("Stopped. What was learnt is kept: go on with --resume.")

    def _is_cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.cancelled

    def _paused(self, state: str) -> None:
        self.folder.write_status("paused" if state == "paused" else "running", name=self.config.name)
        self.events(state)

    def _tell_data(self, data: TrainingData, split: Split, turns: Sequence[Split]) -> None:
        self.events(
            "data",
            planes=len(data.planes),
            objects=len(data.objects),
            labels_are="classes" if data.as_classes else "instances",
            train_objects=len(data.objects) if turns else len(split.train),
            choose_objects=0 if turns else len(split.choose),
            report_objects=sum(len(one.report) for one in turns or [split]),
            held_back=f"{_in_turn(turns)} of {len(turns)}, from trainings of their own" if turns else split.sentence,
        )

    def _finish(
        self, data: TrainingData, held: Sequence[Split], fitted: Fitted, turned: Sequence[Figures]
    ) -> TrainedModel:
        from napari_zeroseg.training.figures import figures_of
        from napari_zeroseg.training.keeping import write_class

        split = held[0]
        masks, found = figures_of(turned or [fitted.figures])
        choice, sentence = cards.verdict(masks, found, bool(self.config.words))
        if choice != "trained":
            self.events("warning", message=sentence)
        base = fitted.network.model.spec
        card = {
            "form": 1,
            "name": self.config.name,
            "run": str(self.folder.path),
            "run_id": self.folder.identity,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "version": version("napari-zeroseg"),
            "verdict": sentence,
            "choice": choice,
            "better": choice == "trained",
            "base": {
                "key": self.config.base,
                "title": base.title,
                "sha256": fitted.network.base_sha256,
                "licence": base.licence,
                "licence_note": base.licence_note,
            },
            "data": {
                "pairs": [{"image": str(pair.image), "labels": str(pair.labels)} for pair in self.config.pairs],
                "planes": len(data.planes),
                "objects": len(data.objects),
                "fingerprint": data.fingerprint(),
            },
            "split": {
                "held_back": _in_turn(held) if turned else split.sentence,
                "train_objects": len(data.objects) if turned else len(split.train),
                "report_objects": sum(len(one.report) for one in held),
                "note": _note(split, bool(turned)),
                "untold": [] if turned else untold(data, split, self.config),
            },
            "masks": masks,
            "class": found,
            "curve": fitted.history,
            "blocks": [
                {"held_back": one.sentence, "curve": figures.curve} for one, figures in zip(held, turned, strict=False)
            ],
            "steps": fitted.steps,
            "seconds": fitted.seconds,
            "device": str(fitted.network.model.device),
            "settings": self.folder.settings(self.config),
            "files": sorted(path.name for path in self._extra_files()),
        }
        ground = Ground(self.config.base, fitted.network.base_sha256)
        tensors, told = kept(fitted.network.base_tensors, fitted.changed, ground)
        extra = {path.name: path for path in self._extra_files()}
        head = write_class(self.folder, fitted.head)
        if head is not None:
            extra[head.name] = head
        register(self.config.name, base, fitted.network.form, tensors, card, extra, fitted.network.lay_beside, told)
        return self._done(plain(card))

    def _done(self, card: dict[str, Any]) -> TrainedModel:
        """Say that the model is in the list, to whoever waits for it."""
        better, choice, verdict = bool(card["better"]), cards.choice_of(card), str(card["verdict"])
        base = str(card["base"]["key"])
        self.folder.write_status("done", name=self.config.name, verdict=verdict, choice=choice, base=base)
        figures = {"masks": card["masks"], "class": card["class"]}
        self.events("done", key=self.config.name, better=better, choice=choice, verdict=verdict, **figures)
        return TrainedModel(self.config.name, card, better, self.folder.path)

    def _extra_files(self) -> list[Path]:
        """Curves and the last pictures, of the model or of the blocks that were held back in turn."""
        found = [self.folder.metrics, *self.folder.previews_of(None)[-1:]]
        for block in range(BLOCKS):
            found += [self.folder.metrics_of(block), *self.folder.previews_of(block)[-1:]]
        return [path for path in found if path.is_file()]


def _in_turn(turns: Sequence[Split]) -> str:
    return f"each {'strip' if turns[0].held else 'block'} in turn"


def _note(split: Split, in_turn: bool) -> str:
    if in_turn:
        return (
            "The set is small: every part was held back once from a training of the same length, and the model itself "
            "learnt from all of it."
        )
    if split.chosen_on_itself:
        return "The best weights were chosen by the same objects, so the figures are a little too good."
    return f"The best weights were chosen by {len(split.choose)} other held-back objects."
