"""What fits: memory and time of a run, from a measured encoding and two measured steps, before it is started."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, replace

from napari_zeroseg.training.config import TrainingConfig

PRESETS: dict[str, dict[str, object]] = {
    "CPU": {"what": "decoder", "batch": 16, "variants": 2, "device": "cpu"},
    "8 GB": {"what": "decoder", "batch": 32, "variants": 4, "device": "auto"},
    "16 GB": {"what": "lora", "batch": 16, "lora_rank": 4, "device": "auto"},
    "24 GB": {"what": "lora", "batch": 32, "lora_rank": 8, "device": "auto"},
    "80 GB": {"what": "all", "batch": 64, "device": "auto"},
}
"""Settings that should fit, by the device's memory: LoRA in the encoder of SAM ViT-B takes 6 to 13 GB at four prompts a
step, the decoder alone about 1 GB."""


_WITH_VALIDATION = 1.2
"""Time of a run as a multiple of that of its steps alone."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes
    ----------
    memory_bytes : int
        At its peak: of the device, or of the process on a CPU.
    free_bytes : int
        What the device had before the measurement; 0 if unknown.
    steps, steps_per_epoch : int
        Steps of a training, and those that show every object once.
    seconds_encoding, seconds_per_step : float
        The encoder's run over everything before the first step, and a step; validation comes to about a fifth more.
    trainings : int
        More than one for small sets, of which each block is held back in turn.
    """

    memory_bytes: int
    free_bytes: int
    steps: int
    steps_per_epoch: int
    seconds_encoding: float
    seconds_per_step: float
    trainings: int = 1

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.seconds_encoding + _WITH_VALIDATION * self.trainings * self.steps * self.seconds_per_step

    @property
    def seconds_per_epoch(self) -> float:
        """To show every object once."""
        return self.steps_per_epoch * self.seconds_per_step

    @property
    def end(self) -> datetime.datetime:
        """When it would be done if it began now."""
        return datetime.datetime.now().astimezone() + datetime.timedelta(seconds=self.seconds)

    @property
    def fits(self) -> bool:
        """Whether the memory is enough."""
        return not self.free_bytes or self.memory_bytes <= self.free_bytes


def preset(config: TrainingConfig, name: str) -> TrainingConfig:
    """The same run with the settings of one of :data:`PRESETS`."""
    return replace(config, **PRESETS[name])  # type: ignore[arg-type]


def estimate(config: TrainingConfig) -> Estimate:
    """Measure what a run will take; nothing is written and no weights are kept.

    Raises
    ------
    InputError, ReadError, UnknownModelError, WeightsError, DeviceMemoryError
        As for :func:`napari_zeroseg.train`.
    """
    from napari_zeroseg.devices import free_memory, resolve_device
    from napari_zeroseg.training.data import TrainingData, check_enough
    from napari_zeroseg.training.split import folds, split_for

    data = TrainingData(config)
    check_enough(data, config)
    split = split_for(data, config)
    free = free_memory(resolve_device(config.device)) or 0
    from napari_zeroseg.training.workbench import Workbench

    trainings = 1 + len(folds(data, config, split))
    if config.minutes is not None:
        config = replace(config, minutes=config.minutes / trainings)
    bench = Workbench(config, data, split)
    ahead = bench.patches_ahead()
    encoding = 0.0
    missing = [patch for patch in ahead if not bench.is_encoded(patch)]
    timed = missing[1:3] or missing
    for patch in missing[: len(missing) - len(timed)][:1]:
        bench.encode(patch)  # warms up
    if timed:
        start = time.perf_counter()
        for patch in timed:
            bench.encode(patch)
        encoding = (time.perf_counter() - start) / len(timed) * len(missing)
    per_step = bench.step_seconds()
    steps, epoch = bench.steps(per_step), bench.steps_per_epoch
    return Estimate(bench.memory_bytes(), free, steps, epoch, encoding, per_step, trainings)
