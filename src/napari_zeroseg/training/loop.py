"""One optimiser over all tasks: steps, running mean of weights, and a state from which a run goes on bit by bit.

Everything random is drawn from the seed and the number of the step, so that nothing of chance has to be kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_zeroseg.devices import is_out_of_memory
from napari_zeroseg.errors import InputError, ReadError, WriteError
from napari_zeroseg.training.classes import ClassHead
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.ladder import too_little, within_memory
from napari_zeroseg.training.networks import NEW_RATE, Learner
from napari_zeroseg.training.processes import ALONE, Processes
from napari_zeroseg.training.tasks import MaskTask, Task

HEAD = "class_head."
"""Before the names of the class head's parameters."""

_LAST_RATE = 0.05
"""Learning rate at the end, as part of the highest."""


@dataclass(frozen=True)
class StepReport:
    """What one step came to."""

    losses: dict[str, float]
    rate: float
    norm: float

    @property
    def loss(self) -> float:
        """Sum over the tasks."""
        return sum(self.losses.values())


class Trainer:
    """Trains the open parameters of a network and, where there is one, the class head.

    Parameters
    ----------
    config : TrainingConfig
    network : Learner
    tasks : mapping of str to Task
        "masks", "class", both, or "words".
    head : ClassHead or None
    steps : int
        In all.
    processes : Processes
        Who share each step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: Learner,
        tasks: Mapping[str, Task],
        head: ClassHead | None,
        steps: int,
        processes: Processes = ALONE,
    ) -> None:
        self._processes = processes
        self._config = config
        self._network = network
        self._tasks = tasks
        self.steps = steps
        self.done = 0
        self.parameters: dict[str, nn.Parameter] = {
            **dict(network.encoder_parameters()),
            **dict(network.decoder_parameters()),
            **({} if head is None else {HEAD + name: parameter for name, parameter in head.named_parameters()}),
        }
        self._optimizer = torch.optim.AdamW(self._groups(), weight_decay=config.weight_decay, foreach=True)
        self._rate = 0.0
        self._mean = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def step(self) -> StepReport:
        """Do the next step.

        Raises
        ------
        DeviceMemoryError
            If not even one prompt at a time fits.
        InputError
            If the loss is no number any more.
        """
        self._set_rate()
        losses = self._processes.sum(self._processes.together(self._gradients))
        self._processes.sum_gradients(self.parameters.values())
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self._config.clip))
        if not (math.isfinite(norm) and all(math.isfinite(loss) for loss in losses.values())):
            raise self._processes.known_to_all(
                InputError(
                    f"The loss of step {self.done + 1} is no finite number: start again with a lower learning rate "
                    f"than {self._config.learning_rate:g}, or with precision float32."
                )
            )
        self._change()
        self.done += 1
        self._average()
        return StepReport(losses, self._rate, norm)

    def weights(self) -> dict[str, Tensor]:
        """Trained parameters by name: their running mean, or as they are where there is none."""
        return {name: value.clone() for name, value in self._mean.items()}

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: the values themselves, which that step changes, and no copies."""
        return {
            "done": self.done,
            "steps": self.steps,
            "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "mean": self._mean,
            "optimizer": self._optimizer.state_dict(),
            "at_once": {name: task.at_once for name, task in self._tasks.items() if isinstance(task, MaskTask)},
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises
        ------
        ReadError
            If it is that of other settings.
        """
        if set(state["parameters"]) != set(self.parameters):
            raise ReadError(
                "The state of this run has other parameters than its settings ask for: start it anew, or take "
                "run.toml back to what it was."
            )
        for name, parameter in self.parameters.items():
            parameter.copy_(state["parameters"][name])
            self._mean[name] = state["mean"][name].to(parameter.device)
        self._optimizer.load_state_dict(state["optimizer"])
        self.done, self.steps = state["done"], state["steps"]
        for name, size in state["at_once"].items():
            task = self._tasks[name]
            assert isinstance(task, MaskTask)
            task.at_once = size

    def _groups(self) -> list[dict[str, Any]]:
        groups: dict[tuple[int, float], list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            if name.startswith(HEAD):
                place, factor = 2, NEW_RATE
            else:
                place, factor = int(name.startswith("image_encoder.")), self._network.rate_of(name)
            groups.setdefault((place, factor), []).append(parameter)
        rates = [(self._config.learning_rate * factor, groups[place, factor]) for place, factor in sorted(groups)]
        return [{"params": chosen, "lr": rate, "highest": rate} for rate, chosen in rates]

    def _set_rate(self) -> None:
        """Linear warm-up, then half a cosine (Loshchilov and Hutter, ICLR 2017)."""
        rising = max(1, round(self._config.warm_up * self.steps))
        if self.done < rising:
            part = (self.done + 1) / rising
        else:
            passed = (self.done - rising) / max(1, self.steps - rising)
            part = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * min(1.0, passed))) / 2
        self._rate = self._config.learning_rate * part
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest"] * part

    def _gradients(self) -> dict[str, float]:
        def steps() -> dict[str, float]:
            self._forget()
            return {name: task.step(self.done, self.done / self.steps) for name, task in self._tasks.items()}

        device = self._network.model.device
        return within_memory(steps, self._tasks.values(), self._config, device, self._forget)

    def _forget(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def _change(self) -> None:
        """Let the optimiser change the parameters; at the first step it takes twice their memory."""
        try:
            self._optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._processes.known_to_all(too_little(self._config, self._network.model.device)) from error

    @torch.no_grad()
    def _average(self) -> None:
        # young means forget faster, so that the first steps do not stay in them
        keep = min(self._config.ema, self.done / (self.done + 9))
        for name, parameter in self.parameters.items():
            self._mean[name].lerp_(parameter.detach(), 1 - keep)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state whole or not at all.

    Raises
    ------
    WriteError
        If the disk is full or read-only; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
        temporary.unlink(missing_ok=True)
        raise WriteError(
            f"The state of the run could not be written to {path.parent} ({error}): make room there, then go on with "
            "--resume."
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; nothing in the file is run.

    Raises
    ------
    ReadError
        If it is missing or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ReadError(f"There is no state to go on from in {path.parent}: start the run without --resume.") from error
    except Exception as error:  # a damaged file fails in any way
        raise ReadError(f"{path} is damaged and the run cannot go on from it: start it anew.") from error
    return state


def steps_of(config: TrainingConfig, tasks: Sequence[Task], seconds: float) -> int:
    """How many steps a run does, from its epochs, its minutes and the measured seconds of a step, or by default."""
    epoch = max(task.steps() for task in tasks)
    if config.epochs is not None:
        steps = config.epochs * epoch
    elif config.minutes is None:
        steps = min(max(DEFAULT_STEPS, FEWEST_EPOCHS * epoch), MOST_EPOCHS * epoch)
    else:
        return within(config.minutes, seconds)
    return steps if config.minutes is None else min(steps, within(config.minutes, seconds))


def within(minutes: float, seconds: float) -> int:
    """Steps of so many seconds that fit into a time together with their validations, at least one."""
    return max(1, int(minutes * 60 / (seconds * VALIDATION_FACTOR)))


VALIDATION_FACTOR = 1.2
"""Time of a run from its first step as a multiple of that of the steps alone."""


DEFAULT_STEPS = 300
FEWEST_EPOCHS = 3
MOST_EPOCHS = 60
