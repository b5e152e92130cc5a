"""Settings: checked, written and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_zeroseg.errors import InputError, ReadError
from napari_zeroseg.training.config import TrainingConfig, TrainingPair
from napari_zeroseg.training.toml_text import as_toml


def test_written_settings_are_read_again(tmp_path: Path) -> None:
    config = TrainingConfig(
        "my-model",
        (
            TrainingPair(str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), "0:4", contrast=(3, 250.5)),
            TrainingPair(str(tmp_path / 'odd "name"\\x.tif'), str(tmp_path / "ü\n.tif"), role="validation"),
        ),
        what="decoder+class",
        classes=(2, 5),
        prompts={"box": 2, "centre": 0.5},
        epochs=3,
        minutes=1.5,
    )
    config.write(tmp_path / "run.toml")
    assert TrainingConfig.read(tmp_path / "run.toml") == config


def test_paths_are_meant_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('name = "a"\n[[pairs]]\nimage = "x.tif"\nlabels = "/y.tif"\n')
    (pair,) = TrainingConfig.read(tmp_path / "run.toml").pairs
    assert (pair.image, pair.labels) == (str(tmp_path / "x.tif"), "/y.tif")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"what": "everything"}, "decoder"),
        ({"loss": "l2"}, "dice"),
        ({"prompts": {"circle": 1.0}}, "circle"),
        ({"prompts": {"box": 0.0}}, "positive"),
        ({"box_margin": (0.2, 0.1)}, "margin"),
        ({"epochs": 0}, "epochs"),
        ({"minutes": -1.0}, "minutes"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"validation": 0.9}, "validation"),
        ({"labels_are": "things"}, "labels_are"),
        ({"batch": "many"}, "batch"),
        ({"epochs": 1.5}, "'epochs' is a whole number"),
        ({"seed": -1}, "'seed' is a number of at least 0"),
        ({"pairs": ()}, "nothing to learn"),
        ({"words": ["lung"]}, "a table of phrases"),
        ({"words": {" ": (1,)}}, "such as 'lung=1"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, object], word: str) -> None:
    values: dict[str, object] = {"name": "a", "pairs": (("x.tif", "y.tif"),), **change}
    with pytest.raises(InputError, match=word):
        TrainingConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ('name = "a"\nversion = 99\npairs = []', InputError, "another version"),
        ('name = "a"\ncolour = 3\npairs = []', InputError, "colour"),
        ("pairs = []", InputError, "name"),
        ('name = "a"\n[[pairs]]\nimage = "x"', InputError, "labels"),
        ('name = "a"\nprompts = 3\n[[pairs]]\nimage = "x"\nlabels = "y"', InputError, "wrong kind"),
        ('name = "a"\nbox_margin = [0.1]\npairs = []', InputError, "wrong kind"),
        ('name = "a"\nclasses = ["lung"]\npairs = []', InputError, "wrong kind"),
        ("name = ", ReadError, "TOML"),
    ],
)
def test_a_file_that_is_no_run_is_told(tmp_path: Path, text: str, error: type[Exception], word: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(error, match=word):
        TrainingConfig.read(tmp_path / "run.toml")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="There is no"):
        TrainingConfig.read(tmp_path / "run.toml")


def test_toml_writes_tables_and_lists_of_tables() -> None:
    text = as_toml({"a": 1, "b": True, "c": [1.5, "x"], "d": {"e": "f"}, "g": [{"h": 1}, {"h": 2}]})
    assert text == 'a = 1\nb = true\nc = [1.5, "x"]\n\n[d]\ne = "f"\n\n[[g]]\nh = 1\n\n[[g]]\nh = 2\n'


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    config = TrainingConfig("a", (("x", "y"),), learning_rate=np.float64(1e-3), seed=np.int64(3), tensorboard=np.True_)
    config.write(tmp_path / "run.toml")
    read = TrainingConfig.read(tmp_path / "run.toml")
    assert (read.learning_rate, read.seed, read.tensorboard) == (1e-3, 3, True)
