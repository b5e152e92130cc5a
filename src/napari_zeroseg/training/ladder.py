"""What a training step does when memory runs out: fewer prompts at a time, and at last a remedy in words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from napari_zeroseg.devices import is_out_of_memory, release
from napari_zeroseg.errors import DeviceMemoryError
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.tasks import MaskTask, Task

_log = logging.getLogger(__name__)

T = TypeVar("T")


def within_memory(
    work: Callable[[], T],
    tasks: Iterable[Task],
    config: TrainingConfig,
    device: torch.device,
    clear: Callable[[], None],
) -> T:
    """Do some work; where the device runs out of memory, `clear` and do it again with fewer prompts at a time.

    Raises
    ------
    DeviceMemoryError
        If not even one prompt at a time fits.
    """
    masks = next((task for task in tasks if isinstance(task, MaskTask)), None)
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            clear()
            release(device)
            if masks is None or masks.at_once == 1:
                reduced = "" if masks is None else ", even with one prompt at a time"
                raise too_little(config, device, reduced) from error
        masks.at_once //= 2
        _log.warning("%s is short of memory: %d prompts are answered at a time from now on.", device, masks.at_once)


def too_little(
    config: TrainingConfig, device: torch.device, reduced: str = "", doing: str = "in a training step"
) -> DeviceMemoryError:
    """The error that says what to choose instead."""
    remedies = []
    if config.trains_encoder:
        remedies += [] if config.recompute else ["compute again instead of keeping (--recompute)"]
        remedies.append("train the class alone" if config.trains_class else "train the decoder alone")
    remedies += ["choose a smaller base or the CPU" if device.type != "cpu" else "choose a smaller base"]
    return DeviceMemoryError(
        f"{device} ran out of memory {doing}{reduced}: {', '.join(remedies)}, or close other programs that use it."
    )
