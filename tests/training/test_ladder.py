"""A device that runs out of memory: fewer prompts at a time, in the measured steps too, and the remedy in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_zeroseg.errors import DeviceMemoryError
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.estimate import estimate
from napari_zeroseg.training.loop import Trainer
from napari_zeroseg.training.run import train
from napari_zeroseg.training.split import split_for
from napari_zeroseg.training.tasks import ClassTask, MaskTask
from napari_zeroseg.training.validation import MaskJudge
from napari_zeroseg.training.workbench import Workbench

pytestmark = pytest.mark.usefixtures("kept_cache")

Short = Callable[..., TrainingConfig]


def _full(*_: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.fixture
def at_most_two(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device on which no more than two prompts fit; how many were tried."""
    tried: list[int] = []
    judged = MaskTask._judged

    def fits(self: MaskTask, *given: Any) -> Any:
        tried.append(len(given[3]))
        return judged(self, *given) if len(given[3]) <= 2 else _full()

    monkeypatch.setattr(MaskTask, "_judged", fits)
    return tried


def _bench(config: TrainingConfig) -> Workbench:
    data = TrainingData(config)
    return Workbench(config, data, split_for(data, config))


def test_measured_steps_and_those_of_the_run_take_fewer_prompts(short: Short, at_most_two: list[int]) -> None:
    config = short(prompts={"box": 1})
    bench = _bench(config)
    assert bench.step_seconds() > 0
    task = bench.tasks["masks"]
    assert isinstance(task, MaskTask)
    assert task.at_once == 2
    assert max(at_most_two) > 2
    before = {name: value.detach().clone() for name, value in bench.network.decoder_parameters()}
    trainer = Trainer(config, bench.network, bench.tasks, None, 2)
    report = trainer.step()
    assert report.rate == pytest.approx(config.learning_rate)
    assert any(not torch.equal(before[name], value) for name, value in bench.network.decoder_parameters())
    assert trainer.state()["at_once"] == {"masks": 2}


def test_where_not_even_one_fits_the_remedy_is_said(short: Short, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskTask, "_judged", _full)
    with pytest.raises(DeviceMemoryError, match="even with one prompt at a time: choose a smaller base, or close"):
        _bench(short(prompts={"box": 1})).step_seconds()


def test_a_class_and_the_optimiser_say_it_too(short: Short, monkeypatch: pytest.MonkeyPatch) -> None:
    config = short(what="class+blocks")
    bench = _bench(config)
    trainer = Trainer(config, bench.network, bench.tasks, bench.head, 2)
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", _full)
        with pytest.raises(DeviceMemoryError, match=r"--recompute\), train the class alone"):
            trainer.step()
    monkeypatch.setattr(ClassTask, "step", _full)
    with pytest.raises(DeviceMemoryError, match="train the class alone"):
        bench.step_seconds()


def test_what_fits_is_the_same_whether_windows_were_encoded_before(
    short: Short, stack: tuple[np.ndarray, np.ndarray]
) -> None:
    """Small sets train once for each block that is held back in turn."""
    first, again = (estimate(short(variants=2, seed=5)) for _ in range(2))
    assert first.seconds_per_step < 3 * again.seconds_per_step + 0.5
    assert first.trainings == 1
    assert first.seconds_encoding > 0
    with_new_windows = estimate(short(variants=8, seed=5))
    assert with_new_windows.seconds_encoding > 0.2  # what was measured before does not stand for the rest
    assert estimate(short(pairs=(stack,))).trainings == 5


def test_out_of_memory_where_answers_are_judged_is_said(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskJudge, "score", _full)
    with pytest.raises(DeviceMemoryError, match="while pictures were encoded or answers judged: choose a smaller base"):
        train(short(prompts={"box": 1}), out=tmp_path / "run")
