"""Small labelled stacks whose truth is known, and the embedded model trained on one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.events import Control
from napari_zeroseg.training.folder import RunFolder
from napari_zeroseg.training.loop import read_state
from napari_zeroseg.training.run import StoppedError, train
from napari_zeroseg.training.workbench import Workbench

Stack = tuple[np.ndarray, np.ndarray]
StopAfter = Callable[[int, TrainingConfig, Path], RunFolder]

CARD = {
    "name": "mine",
    "date": "2026-01-01T00:00:00+00:00",
    "version": "0",
    "verdict": "Fine.",
    "base": {"key": "mobile_sam", "title": "MobileSAM", "sha256": "0", "licence": "Apache-2.0"},
    "data": {"pairs": [], "planes": 1, "objects": 12, "fingerprint": "f"},
    "split": {"held_back": "a plane", "train_objects": 8, "report_objects": 4, "note": ""},
    "settings": {"what": "decoder"},
    "steps": 3,
    "seconds": 1.0,
    "device": "cpu",
}
"""What a run says of the model that it makes."""


@pytest.fixture(scope="session")
def stack() -> Stack:
    """(5, 256, 256) planes and mitochondria; four a plane."""
    return em_like_stack(5, 256, seed=1)


@pytest.fixture(scope="session")
def little(stack: Stack) -> tuple[TrainingPair, TrainingPair]:
    """Pairs of two objects to learn from and eight to validate on, for what takes long."""
    raw, truth = stack
    two = np.where(np.isin(truth[:1], (2, 3)), truth[:1], 0)
    return TrainingPair(raw[:1], two), TrainingPair(raw[3:], truth[3:], role="validation")


@pytest.fixture
def short(stack: Stack) -> Callable[..., TrainingConfig]:
    """A run that takes seconds: three planes to learn from, one to validate on."""
    raw, truth = stack

    def make(**settings: object) -> TrainingConfig:
        pairs = (TrainingPair(raw[:3], truth[:3]), TrainingPair(raw[4:], truth[4:], role="validation"))
        values = {
            "batch": 4,
            "epochs": 1,
            "variants": 1,
            "min_pixels": 30,
            "validation_objects": 4,
            "prompts": {"centre": 1, "box": 1},
            "device": "cpu",
            "precision": "float32",
        }
        return TrainingConfig(**({"name": "mine", "pairs": pairs} | values | settings))  # type: ignore[arg-type]

    return make


@pytest.fixture
def kept_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache of embeddings for all tests of this folder: the encoder is what takes longest."""
    folder = tmp_path_factory.getbasetemp() / "training-cache"
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def no_dry_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process do not try out how long a step takes, where that is not what a test is about."""
    monkeypatch.setattr(Workbench, "step_seconds", lambda _: 1.0)


@pytest.fixture(scope="session")
def stop_after() -> StopAfter:
    """Does a run and stops it after so many steps."""

    def stop_after(steps: int, config: TrainingConfig, path: Path) -> RunFolder:
        controls: list[Control] = []

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "step" and event["step"] == steps:
                controls[0].tell("stop")

        with pytest.raises(StoppedError, match="go on"):
            train(config, out=path, listener=listen, control=controls.append)
        folder = RunFolder(path)
        assert folder.status()["state"] == "stopped"
        assert read_state(folder.last)["trainer"]["done"] == steps
        return folder

    return stop_after


@pytest.fixture(scope="session")
def equal_to_the_bit() -> Callable[[Path, Path], None]:
    """Holds two folders of runs to the same weights, parameters and moments."""

    def equal(*paths: Path) -> None:
        whole, parted = (load_file(path / "best.safetensors") for path in paths)
        assert whole.keys() == parted.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, parted[name]), name
        one, other = (read_state(path / "last.pt")["trainer"] for path in paths)
        for name, tensor in one["parameters"].items():
            assert torch.equal(tensor, other["parameters"][name]), name
        moments, others = one["optimizer"]["state"], other["optimizer"]["state"]
        assert all(torch.equal(moments[i]["exp_avg_sq"], others[i]["exp_avg_sq"]) for i in moments)

    return equal
