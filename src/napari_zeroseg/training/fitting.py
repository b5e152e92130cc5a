"""One fit on one split: embeddings, the base's figures, the steps with validation and savings, the final figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from napari_zeroseg.devices import is_out_of_memory
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.models.sam import SamSegmenter
from napari_zeroseg.training import previews
from napari_zeroseg.training.classes import ClassHead, ClassSegmenter
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData, TrainingObject
from napari_zeroseg.training.events import Events
from napari_zeroseg.training.figures import Figures, beside_base, means
from napari_zeroseg.training.folder import RunFolder
from napari_zeroseg.training.keeping import read_best, room_in, write_best, write_rows
from napari_zeroseg.training.ladder import too_little
from napari_zeroseg.training.loop import HEAD, StepReport, Trainer, read_state, save_state
from napari_zeroseg.training.networks import Learner, Trained
from napari_zeroseg.training.patches import Patch
from napari_zeroseg.training.processes import Processes
from napari_zeroseg.training.sections import sections_of
from napari_zeroseg.training.split import Split, objects_of
from napari_zeroseg.training.validation import (
    MOST_REPORTED,
    ClassCounts,
    MaskScores,
    pooled,
    score_class,
    some_of,
    some_planes,
)
from napari_zeroseg.training.workbench import Workbench

VALIDATIONS = 10
"""Times that a run validates."""

_OF_A_BLOCK = 3
"""The same of each block that is held back in turn, where nothing is chosen by it."""

_FORM = 3
"""Of the state to go on from: raised when the same state would be trained or judged in another way."""

_FEWEST_BETWEEN = 10
"""Steps between two validations at least."""

_CLASS_PLANES = 6
"""Planes at most on which the class is judged during training."""


class Around(Protocol):
    """The run that a fit belongs to."""

    folder: RunFolder
    events: Events
    processes: Processes

    def between(self) -> None:
        """Wait while paused, leave when stopped."""
        ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit came to."""

    network: Learner
    changed: dict[str, Tensor]
    head: ClassSegmenter | None
    figures: Figures
    history: list[dict[str, Any]]
    steps: int
    seconds: float


class Fitting:
    """One fit.

    Parameters
    ----------
    run : Around
    config : TrainingConfig
    data : TrainingData
    split : Split
    fold : int or None
        Number of the block that is held back in turn, from 0.
    steps : int or None
        How many to do; left out, what the configuration says.
    final : bool
        Whether the figures come from other fits, and this one is to learn from everything.
    following : int
        How many more fits of the same length the run has to do after this one.
    """

    def __init__(
        self,
        run: Around,
        config: TrainingConfig,
        data: TrainingData,
        split: Split,
        *,
        fold: int | None = None,
        steps: int | None = None,
        final: bool = False,
        following: int = 0,
    ) -> None:
        self._following = following
        self._run, self._config, self._data, self._split = run, config, data, split
        self._fold, self._steps, self._final = fold, steps, final
        self._processes = run.processes
        self._bench = bench = Workbench(config, data, split, final, run.processes)
        self._network, self._store = bench.network, bench.store
        self._history: list[dict[str, Any]] = []
        self._best: tuple[float, dict[str, Tensor]] | None = None
        self._since_best = 0
        self._before_choose: dict[str, MaskScores] = {}
        self._base_previews: list[np.ndarray[tuple[int, int], np.dtype[np.bool_]]] = []
        self._report: StepReport | None = None
        self._seconds = 0.0
        self._saved = 0.0

    def go(self) -> Fitted:
        """Encode, score the base, train, score again.

        Raises
        ------
        DeviceMemoryError
            If there is too little memory, with the remedies.
        """
        try:
            return self._go()
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, ZerosegError) or not is_out_of_memory(error):
                raise
            doing = "while pictures were encoded or answers judged"
            raise too_little(self._config, self._network.model.device, doing=doing) from error

    def _go(self) -> Fitted:
        self._encode_ahead()
        state = self._processes.together(self._kept_state)
        kept = None if state is None else int(state["trainer"]["steps"])
        steps = self._steps or kept or self._processes.lead(self._planned)
        bench = self._bench
        trainer = Trainer(self._config, self._network, bench.tasks, bench.head, steps, self._processes)
        if state is not None:
            self._processes.together(partial(self._restore, trainer, state))
        elif not self._final:
            self._processes.lead(self._baseline)
        self._train(trainer)
        return self._judged(trainer)

    def _kept_state(self) -> dict[str, Any] | None:
        last = self._run.folder.last_of(self._fold)
        if not last.is_file():
            return None
        state = read_state(last)
        if state.get("form") != _FORM:
            raise InputError(
                f"{last.parent} was left by another version of napari-zeroseg, which trained in another way: finish it "
                f"with that version, or start anew from {self._run.folder.config.name} there."
            )
        if state["made_of"] != self._made_of():
            raise InputError(
                f"The pictures, the labels or the base of the run in {last.parent} are not those that it was stopped "
                "with, and what is held back may be another part: put them back, or start anew."
            )
        return state

    def _made_of(self) -> dict[str, Any]:
        """What must be the same when the run goes on."""
        split = [list(part) for part in (self._split.train, self._split.choose, self._split.report)]
        return {"data": self._data.fingerprint(), "base": self._network.base_sha256, "split": split}

    def _planned(self) -> int:
        per_step = self._bench.step_seconds()
        steps = self._bench.steps(per_step)
        self._tell("plan", steps=steps, seconds_per_step=per_step, seconds=per_step * steps)
        return steps

    def _encode_ahead(self) -> None:
        """Run the encoder once on everything that will be looked at."""
        ordered = self._bench.patches_ahead()
        at_once = self._processes.count
        for first in range(0, len(ordered), at_once):
            self._processes.lead(self._run.between)
            self._processes.together(partial(self._encode, ordered[first : first + at_once]))
            done = min(first + at_once, len(ordered))
            if done // 10 > first // 10 or done == len(ordered):
                self._tell("encoding", done=done, total=len(ordered))

    def _encode(self, patches: Sequence[Patch]) -> None:
        for patch in self._processes.share(patches):
            self._bench.encode(patch)

    def _baseline(self) -> None:
        if not self._config.trains_masks:
            return
        objects = self._chosen()
        self._before_choose = self._score(self._network.model, objects, all_kinds=False)
        self._tell("baseline", objects=len(objects), masks=means(self._before_choose))

    def _chosen(self) -> list[TrainingObject]:
        return some_of(objects_of(self._data, self._split.choose), self._config.validation_objects)

    def _score(self, model: Trained, objects: Sequence[TrainingObject], all_kinds: bool) -> dict[str, MaskScores]:
        return self._bench.judge.score(model, objects, all_kinds, self._store_of(model), self._run.between)

    def _store_of(self, model: Trained) -> EmbeddingStore:
        return self._store if model.model_key == self._network.model.model_key else self._bench.passing

    def _train(self, trainer: Trainer) -> None:
        self._saved = time.monotonic()
        is_over = self._processes.lead(partial(self._catch_up, trainer))
        while trainer.done < trainer.steps and not is_over:
            self._processes.lead(partial(self._before_step, trainer))
            start = time.monotonic()
            self._report = trainer.step()
            self._seconds += time.monotonic() - start
            is_over = self._processes.lead(partial(self._after_step, trainer, self._report))

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether the step that was done last is one after which the run validates."""
        every = max(_FEWEST_BETWEEN, trainer.steps // (VALIDATIONS if self._fold is None else _OF_A_BLOCK))
        return trainer.done > 0 and (trainer.done % every == 0 or trainer.done == trainer.steps)

    def _catch_up(self, trainer: Trainer) -> bool:
        """Do the validation that a stop or a full disk cut short; whether the run had stopped early."""
        done = {row["step"] for row in self._history}
        if self._report is not None and self._is_due(trainer) and trainer.done not in done:
            self._validated(trainer, self._report)
            self._save(trainer)
        return self._is_over

    @property
    def _is_over(self) -> bool:
        return 0 < self._config.patience <= self._since_best

    def _before_step(self, trainer: Trainer) -> None:
        """Wait while paused; leave with the state kept when stopped."""
        try:
            self._run.between()
        except BaseException:
            self._save(trainer)
            raise

    def _after_step(self, trainer: Trainer, report: StepReport) -> bool:
        """Tell, validate and keep what is due after a step; whether to stop early."""
        self._tell_step(trainer, report)
        is_due = self._is_due(trainer)
        if is_due:
            self._validated(trainer, report)
        if is_due or time.monotonic() - self._saved >= self._config.checkpoint_seconds:
            self._save(trainer)
            self._saved = time.monotonic()
        if self._is_over:
            self._tell("warning", message=f"No progress for {self._since_best} validations: stopped early.")
        return self._is_over

    def _validated(self, trainer: Trainer, report: StepReport) -> None:
        """Validate; where that is cut short, keep the state from before it, so that it is done when the run goes on."""
        try:
            self._validate(trainer, report)
        except BaseException:
            self._save(trainer)
            raise

    def _validate(self, trainer: Trainer, report: StepReport) -> None:
        """Judge the present weights by the objects to choose by, and keep them if they are the best.

        Of a block that is held back in turn they are shown only: nothing is chosen, the last weights give its figures.
        """
        if self._final or (self._fold is not None and trainer.done == trainer.steps):
            return
        weights = trainer.weights()
        name = f"step{trainer.done}"
        changed, head = self._parted(weights, name)
        model = self._network.model_with(changed, name)
        row: dict[str, Any] = {"step": trainer.done, "loss": report.loss, "rate": report.rate, "seconds": self._seconds}
        row |= self._scored_now(model, head)
        with room_in(self._run.folder.path):
            picture = self._preview(model, head, trainer.done)
        if self._fold is not None:
            self._note(row)
            self._tell("validation", best=False, picture=picture, **row)
            return
        # a rare word may be on none of the planes that are looked at meanwhile
        merit = float(np.mean([value for name, value in row.items() if name.startswith("iou_")] or [0.0]))
        is_best = self._best is None or merit > self._best[0]
        with room_in(self._run.folder.path):
            if is_best:
                write_best(self._run.folder, weights)
            write_rows(self._run.folder.metrics, [*self._history, row])
        # only now that all is written: a validation that was cut short counts as not done
        self._since_best = 0 if is_best else self._since_best + 1
        self._best = (merit, weights) if is_best else self._best
        self._history.append(row)
        self._tell("validation", best=is_best, picture=picture, **row)

    def _scored_now(self, model: Trained, head: ClassSegmenter | None) -> dict[str, float]:
        row: dict[str, float] = {}
        if self._config.trains_masks:
            scores = self._score(model, self._chosen(), all_kinds=False)
            row |= beside_base(scores, self._before_choose)
        if head is not None:
            labelled = {self._data.objects[i].plane for i in self._split.choose}
            planes = some_planes(self._split.choose_planes, labelled, _CLASS_PLANES)
            row["iou_class"] = pooled(self._score_class(model, head, planes)).iou
        return row

    def _score_class(self, model: Trained, head: ClassSegmenter, planes: Sequence[int]) -> list[ClassCounts]:
        assert isinstance(model, SamSegmenter)
        store = self._store_of(head.encoder or model)
        return score_class(model, head, self._data, planes, store, self._split.held, self._run.between)

    def _preview(self, model: Trained, head: ClassSegmenter | None, step: int) -> str:
        chosen = objects_of(self._data, self._split.choose)
        block = "" if self._fold is None else f"block{self._fold + 1}_"
        path = self._run.folder.previews / f"{block}step{step:06d}.png"
        rows = []
        if self._config.trains_masks:
            some = some_of(chosen, 4)
            judge = self._bench.judge
            if not self._base_previews:
                self._base_previews = judge.answers(self._network.model, some, self._store)
            now = judge.answers(model, some, self._store_of(model))
            rows.append(previews.of_objects(self._data, some, judge.truth, self._base_previews, now))
        if head is not None:
            assert isinstance(model, SamSegmenter)
            store = self._store_of(head.encoder or model)
            rows.append(previews.of_class(self._data, chosen, head, model, store, self._split.held))
        previews.save(path, *rows)
        return str(path)

    def _judged(self, trainer: Trainer) -> Fitted:
        """The final figures: the base and the chosen weights on the objects to report."""
        weights = trainer.weights() if self._best is None else self._best[1]
        changed, head = self._parted(weights, f"end{self._fold}")
        figures = self._processes.lead(partial(self._figures, changed, head))
        if self._fold is not None:
            self._processes.lead(partial(self._tell_fold, trainer.done, figures))
        return Fitted(self._network, changed, head, figures, self._history, trainer.done, self._seconds)

    def _figures(self, changed: dict[str, Tensor], head: ClassSegmenter | None) -> Figures:
        """Scores of the base and of these weights, and the counts of the class; empty where other fits give them."""
        before: dict[str, MaskScores] = {}
        after: dict[str, MaskScores] = {}
        found: list[ClassCounts] = []
        if self._final:
            return Figures()
        objects = some_of(objects_of(self._data, self._split.report), MOST_REPORTED)
        model = self._network.model_with(changed, f"end{self._fold}")
        if self._config.trains_masks:
            scored = (self._score(one, objects, all_kinds=True) for one in (self._network.model, model))
            before, after = (self._grouped(scores, objects) for scores in scored)
        if head is not None:
            found = self._score_class(model, head, self._split.report_planes)
        return Figures(before, after, found)

    def _grouped(self, scores: dict[str, MaskScores], objects: list[TrainingObject]) -> dict[str, MaskScores]:
        """Scores that know which outlines are sections of one object; those of words are by planes."""
        if self._config.words:
            return scores
        groups = sections_of(self._data, objects)
        return {kind: replace(one, groups=groups) for kind, one in scores.items()}

    def _tell_fold(self, step: int, figures: Figures) -> None:
        row: dict[str, Any] = {"step": step, "seconds": self._seconds}
        # those that were shown on the way: a mean over others would break the curve
        shown = {kind: scores for kind, scores in figures.after.items() if kind in self._before_choose}
        row |= beside_base(shown, figures.before)
        if figures.found:
            row["iou_class"] = pooled(figures.found).iou
        self._note(row)
        self._tell("validation", best=False, picture="", **row)

    def _note(self, row: dict[str, Any]) -> None:
        """Keep a row of a block that is held back in turn."""
        self._history.append(row)
        with room_in(self._run.folder.path):
            write_rows(self._run.folder.metrics_of(self._fold), self._history)

    def _parted(self, weights: dict[str, Tensor], name: str) -> tuple[dict[str, Tensor], ClassSegmenter | None]:
        """Weights of the network under official names, and the class segmenter.

        An encoder that was trained for the class alone is part of the latter: prompts are answered with the base's.
        """
        own = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
        changed = self._network.changed(own)
        if self._bench.head is None:
            return changed, None
        module = ClassHead()
        module.load_state_dict(
            {name.removeprefix(HEAD): value.cpu() for name, value in weights.items() if name.startswith(HEAD)}
        )
        known = self._bench.proportions
        found = ClassSegmenter(module.eval().requires_grad_(False), self._bench.side, proportions=known)
        if self._config.trains_encoder and not self._config.trains_masks:
            made = self._network.model_with(changed, name)
            assert isinstance(made, SamSegmenter)
            return {}, replace(found, encoder=made, changed=changed)
        return changed, found

    def _save(self, trainer: Trainer) -> None:
        state = {
            "form": _FORM,
            "made_of": self._made_of(),
            "trainer": trainer.state(),
            "history": self._history,
            "since_best": self._since_best,
            "merit": None if self._best is None else self._best[0],
            "seconds": self._seconds,
            "report": None if self._report is None else asdict(self._report),
            "before": {
                kind: [torch.from_numpy(scores.iou), torch.from_numpy(scores.dice)]
                for kind, scores in self._before_choose.items()
            },
        }
        save_state(self._run.folder.last_of(self._fold), state)
        self._tell("saved", step=trainer.done)

    def _restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        trainer.restore(state["trainer"])
        self._history, self._since_best = state["history"], state["since_best"]
        self._seconds = state["seconds"]
        self._report = StepReport(**state["report"]) if state.get("report") else None
        self._before_choose = {kind: MaskScores(a.numpy(), b.numpy()) for kind, (a, b) in state["before"].items()}
        if state["merit"] is not None:
            self._best = state["merit"], read_best(self._run.folder)
        self._tell("resumed", step=trainer.done, steps=trainer.steps)

    def _tell_step(self, trainer: Trainer, report: StepReport) -> None:
        to_do = trainer.steps * (self._following + 1) - trainer.done
        self._tell(
            "step",
            step=trainer.done,
            steps=trainer.steps,
            loss=report.loss,
            losses=report.losses,
            rate=report.rate,
            norm=report.norm,
            seconds_left=to_do * self._seconds / max(1, trainer.done),
        )

    def _tell(self, event: str, **values: Any) -> None:
        block = {} if self._fold is None else {"block": self._fold + 1, "held_back": self._split.sentence}
        self._run.events(event, **block, **values)
