"""``zeroseg train``: settings from options and files, and what a terminal gets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError
from napari_zeroseg.training.config import TrainingConfig


@pytest.fixture
def files(tmp_path: Path, stack: tuple[np.ndarray, np.ndarray]) -> list[str]:
    """Options that name a picture and its labels."""
    raw, truth = stack
    np.save(tmp_path / "raw.npy", raw)
    np.save(tmp_path / "labels.npy", truth)
    return ["--images", str(tmp_path / "raw.npy"), "--labels", str(tmp_path / "labels.npy")]


@pytest.mark.slow
@pytest.mark.usefixtures("kept_cache")
def test_options_make_a_run_and_events_tell_of_it(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", *files, "--name", "fromoptions", "--what", "class", "--epochs", "1", "--device", "cpu"]
    assert main([*run, "--out", str(tmp_path / "run"), "--events", "-", "--quiet"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "done"
    assert {"data", "plan", "step", "validation", "saved"} <= set(kinds)
    assert events[-1]["class"]["iou"] >= 0
    settings = TrainingConfig.read(tmp_path / "run" / "run.toml")
    assert (settings.what, settings.epochs, settings.name) == ("class", 1, "fromoptions")
    assert main(["models", "--json"]) == 0
    assert "fromoptions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--name", "a"], 2, "--images and --labels is missing"),
        (["--images", "x.tif", "--name", "a"], 1, "1 pictures and 0 labels"),
        (["nothing.toml"], 1, "There is no nothing.toml"),
        (["--resume"], 2, "--resume needs the folder"),
        (
            ["--resume", "nowhere", "--gap", "0", "--keep-orientation"],
            2,
            "so --keep-orientation, --gap cannot be given",
        ),
        (["--resume", "nowhere", "--out", "other"], 2, "and no other"),
        (["."], 1, "give pictures and labels as --images and --labels"),
        (
            ["--images", "x.tif", "--labels", "y.tif", "--name", "a", "--gap", "-1"],
            1,
            "'gap' is a number of at least 0",
        ),
        (["--resume", "nowhere", "--look", "sheet.png"], 2, "--look shows a run before it begins"),
        (["--resume", "nowhere"], 1, "no run.toml"),
        (["--prompts", "circle=1"], 2, "no prompt 'circle'"),
        (["--prompts", "box=x"], 2, "no weight"),
        (["--classes", "a"], 2, "whole numbers"),
        (["--what", "nothing"], 2, "invalid choice"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = main(["train", *arguments])
    except SystemExit as ended:
        found = ended.code
    error = capsys.readouterr().err
    assert found == code
    assert word in error
    assert len(error.strip().splitlines()) == 1


def test_options_go_before_the_file(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from napari_zeroseg.training.config import TrainingPair

    TrainingConfig("a", (TrainingPair(files[1], files[3]),), epochs=3).write(tmp_path / "run.toml")
    # the name is refused before anything is computed, which shows that it came from the option
    assert main(["train", str(tmp_path / "run.toml"), "--name", "mobile_sam"]) == 1
    assert "There is a model 'mobile_sam' already" in capsys.readouterr().err


@pytest.mark.usefixtures("kept_cache")
def test_each_option_reaches_its_setting(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[TrainingConfig] = []

    def begin(config: TrainingConfig, **_: object) -> None:
        begun.append(config)
        raise InputError("That is enough.")

    monkeypatch.setattr("napari_zeroseg.training.run.train", begin)
    held = [files[1], files[3]]
    options = ["--min-pixels", "7", "--validation", "0.4", "--gap", "0", "--learning-rate", "1e-3", "--batch", "3"]
    options += ["--variants", "5", "--keep-orientation", "--validate-on", *held]
    assert main(["train", *files, "--name", "a", *options]) == 1
    one = begun[0]
    assert (one.min_pixels, one.validation, one.gap, one.learning_rate, one.batch) == (7, 0.4, 0, 1e-3, 3)
    assert (one.variants, one.any_orientation) == (5, False)
    assert [pair.role for pair in one.pairs] == ["auto", "validation"]
    one.write(tmp_path / "run.toml")
    assert main(["train", str(tmp_path / "run.toml"), "--planes", "0:2", "--validate-on", *held]) == 1
    assert [(pair.role, pair.planes) for pair in begun[1].pairs] == [("auto", "0:2"), ("validation", "")]
    assert main(["train", str(tmp_path)]) == 1
    assert "holds a run: go on with that (--resume)" in capsys.readouterr().err


def test_an_estimate_is_measured(
    short: Callable[..., TrainingConfig], files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--name", "a", "--estimate", "--json", "--epochs", "2", "--device", "cpu", "--prompts", "box=1"]
    assert main(["train", *files, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] >= 2
    assert found["seconds"] > 0
    assert found["memory_bytes"] > 10**8
    assert found["fits"]


def test_a_look_writes_a_sheet_and_trains_nothing(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    run = ["train", *files, "--name", "a", "--out", str(tmp_path / "run"), "--look", str(sheet)]
    assert main([*run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"path": str(sheet), "windows": 6, "columns": 2}
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "run").exists()
    TrainingConfig.from_table(
        {"name": "a", "pairs": [{"image": files[1], "labels": files[3]}], "what": "class", "variants": 1}
    ).write(tmp_path / "run.toml")
    assert main(["train", str(tmp_path / "run.toml"), "--look", str(sheet)]) == 0
    assert "windows in 1 variants" in capsys.readouterr().out
    sheet.write_text("mine")
    assert main(run) == 1
    assert "is no PNG, so it stays" in capsys.readouterr().err
    assert sheet.read_text() == "mine"
    assert main(["models", "--json"]) == 0
    assert '"a"' not in capsys.readouterr().out


def test_what_docks_import_brings_no_torch() -> None:
    names = ("config", "events", "folder", "card", "data", "split", "prompts", "run", "result", "estimate")
    lines = [f"import napari_zeroseg.training.{name}" for name in names]
    lines += ["import sys", "assert 'torch' not in sys.modules", "assert 'napari' not in sys.modules"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
