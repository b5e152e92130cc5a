"""A trained model as one file: away and back, and files that are not to be trusted."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import napari_zeroseg as zs
from napari_zeroseg.cli import main
from napari_zeroseg.errors import InputError, ReadError, WeightsError, WriteError
from napari_zeroseg.registry import find_model, remove_model, verify
from napari_zeroseg.training import card as cards
from napari_zeroseg.training import result
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.networks import Network
from napari_zeroseg.training.result import register
from napari_zeroseg.weights.cards import CLASS_HEAD, model_folder, read_card

from .conftest import CARD


@pytest.fixture
def network() -> Network:
    """The embedded model, ready to learn."""
    return Network(TrainingConfig("a", (("x", "y"),), device="cpu", precision="float32"))


@pytest.fixture
def mine(network: Network, tmp_path: Path) -> Path:
    """A model in the list, with a card, exported."""
    register("mine", network.model.spec, network.form, network.base_tensors, CARD, {})
    return zs.export_model("mine", tmp_path / "mine")


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["cards.write", "_laid", "add_checkpoint", "_furnish"])
def test_what_cannot_be_written_whole_is_not_listed(
    network: Network, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    given = ("mine", network.model.spec, network.form, network.base_tensors, CARD, {})
    with monkeypatch.context() as patch:
        patch.setattr(f"napari_zeroseg.training.result.{step}", _full)
        with pytest.raises(WriteError, match="--resume writes the model"):
            register(*given)
    assert "mine" not in {spec.key for spec in zs.list_models()}
    assert not model_folder("mine").exists()
    register(*given)
    assert verify("mine").ok


@pytest.mark.parametrize("step", ["_laid", "_furnish"])
def test_what_cannot_be_imported_whole_is_not_listed(mine: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"napari_zeroseg.training.result.{step}", _full)
        with pytest.raises(WriteError, match="make room"):
            zs.import_model(mine, "theirs")
    assert not model_folder("theirs").exists()
    assert zs.import_model(mine, "theirs").key == "theirs"


def test_a_model_of_that_name_is_never_replaced(network: Network, mine: Path) -> None:
    with pytest.raises(InputError, match="already"):
        register("mine", network.model.spec, network.form, network.base_tensors, {**CARD, "verdict": "Other."}, {})
    assert cards.read("mine")["verdict"] == "Fine."


def test_a_class_may_have_an_encoder_of_twice_the_size(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of half precision beside an encoder in single precision."""
    monkeypatch.setattr(result, "_LARGEST_COMPANION", 1_000_000)
    base = network.base_tensors.items()
    halves = {name: value.half() if value.is_floating_point() else value for name, value in base}
    head = tmp_path / "head"
    head.write_bytes(bytes(2 * sum(value.nbytes for value in halves.values())))
    register("mine", network.model.spec, network.form, halves, CARD, {CLASS_HEAD: head})
    file = zs.export_model("mine", tmp_path / "mine")
    zs.import_model(file, "theirs")
    assert verify("theirs").ok
    monkeypatch.setattr(result, "_LARGEST_COMPANION", -1_000_000)
    with pytest.raises(ReadError, match="too large"):
        zs.import_model(file, "others")


def test_a_run_knows_the_model_that_it_made(network: Network) -> None:
    card = {**CARD, "run_id": "a", "settings": {"what": "decoder", "prompts": {"box": 1}}}
    register("mine", network.model.spec, network.form, network.base_tensors, card, {})
    assert result.made_by("a", card["settings"], "mine") == cards.read("mine")
    for run, settings in (("b", card["settings"]), ("a", {"what": "lora"})):
        assert result.made_by(run, settings, "mine") is None
    assert result.made_by("a", card["settings"], "mobile_sam") is None
    own = read_card("mine")
    assert own is not None
    replace(own, companions={}).write()  # as a kill in between leaves it
    assert result.made_by("a", card["settings"], "mine") is None
    assert "mine" not in {spec.key for spec in zs.list_models()}


def test_a_model_comes_back_whole(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mine.name == "mine.zip"
    assert verify("mine").ok
    assert find_model("mine").licence == find_model("mobile_sam").licence == "Apache-2.0"
    remove_model("mine")
    assert main(["import", str(mine), "--name", "again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"key": "again", "base": "mobile_sam"}
    assert verify("again").ok
    assert cards.read("again")["verdict"] == "Fine."
    assert find_model("again").licence == "Apache-2.0"
    assert zs.load_model("again", device="cpu", precision="float32").spec.key == "again"
    with pytest.raises(InputError, match="already"):
        zs.import_model(mine, "again")
    assert main(["export", "again", str(mine)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["export", "again", str(mine), "--overwrite"]) == 0


def test_a_damaged_or_foreign_file_is_refused(mine: Path, tmp_path: Path) -> None:
    remove_model("mine")
    for name, change, error, word in (
        ("form", {"form": 9}, InputError, "another version"),
        ("path", {"companions": {"../x": "0"}}, ReadError, "outside itself"),
        ("hash", {"sha256": "0" * 64}, WeightsError, "damaged"),
        ("base", {"base": "unknown"}, zs.ZerosegError, "no model 'unknown'"),
    ):
        with zipfile.ZipFile(mine) as old, zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as new:
            for entry in old.namelist():
                data = old.read(entry)
                if entry == "zeroseg-model.json":
                    data = json.dumps({**json.loads(data), **change}).encode()
                new.writestr(entry, data)
        with pytest.raises(error, match=word):
            zs.import_model(tmp_path / f"{name}.zip")
        assert "mine" not in {spec.key for spec in zs.list_models()}
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ReadError, match="no exported model"):
        zs.import_model(tmp_path / "text.zip")
    with pytest.raises(ReadError, match="There is no file"):
        zs.import_model(tmp_path / "nothing.zip")


def test_what_was_not_trained_has_no_card_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to export"):
        zs.export_model("mobile_sam", tmp_path / "x.zip")
    with pytest.raises(ReadError, match="no card"):
        cards.read("mobile_sam")


def test_a_place_that_cannot_be_written_is_told(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="could not be written"):
        zs.export_model("mine", tmp_path / "no" / "folder.zip")


def test_the_verdict_says_when_figures_say_nothing() -> None:
    def gain(mean: float, low: float, high: float) -> dict[str, object]:
        return {"gain": mean, "gain_interval": [low, high]}

    choice, text = cards.verdict({"box": gain(0.1, 0.05, 0.2), "centre": gain(0.1, -0.1, 0.3)}, None)
    assert choice == "trained"
    assert "tight box" in text
    assert "includes 0" in text
    choice, text = cards.verdict({"box": gain(0.01, -0.05, 0.1)}, None)
    assert choice == "unsure"
    assert "chance" in text
    choice, text = cards.verdict({"box": gain(-0.02, -0.05, -0.01)}, None)
    assert choice == "base"
    assert "use it" in text
    assert "Worse for tight box" in text
    choice, text = cards.verdict({"centre": gain(0.2, 0.1, 0.3), "box": gain(-0.02, -0.05, -0.01)}, None)
    assert choice == "unsure"
    assert text.endswith("Beyond chance for one click in its middle. Worse for tight box.")


def test_the_verdict_on_masks_and_a_class_speaks_of_both() -> None:
    found = {"planes": 5, "iou": 0.8, "iou_interval": [0.7, 0.9], "dice": 0.85}
    said = "Finds its class without a prompt: foreground IoU 0.800 on 5 planes held back"
    for gain, choice, first in (
        (0.1, "trained", "Better than its base by +0.100"),
        (-0.1, "base", "use it for prompts"),
    ):
        masks = {"box": {"gain": gain, "gain_interval": [gain - 0.05, gain + 0.05]}}
        verdict = cards.verdict(masks, found)
        assert verdict[0] == choice
        assert first in verdict[1]
        assert said in verdict[1]
        assert "class" not in cards.verdict(masks, None)[1]


def test_a_class_alone_is_not_called_better_and_has_its_interval() -> None:
    figures = {"planes": 5, "iou": 0.8, "iou_interval": [0.7, 0.9], "dice": 0.85}
    for text in (cards.verdict({}, figures)[1], cards.as_text({**CARD, "class": figures})):
        assert "foreground IoU 0.800 on 5 planes held back (95 % interval 0.700 to 0.900)" in text
        assert "etter than" not in text
    assert cards.verdict({}, {**figures, "guess": 0.2})[0] == "trained"
    within = cards.verdict({}, {**figures, "guess": 0.75})
    assert within == ("unsure", within.sentence)
    assert "everything the class would score 0.750, within that interval" in within.sentence
    poor = cards.verdict({}, {**figures, "guess": 0.85})
    assert poor.choice == "unsure"
    assert poor.sentence.startswith("Does not find its class")
    one = cards.verdict({}, {**figures, "planes": 1, "iou_interval": [0.0, 1.0]})[1]
    assert "1 plane held back, which says nothing" in one
