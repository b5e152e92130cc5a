"""CLIPSeg's decoder trained on words, with a small CLIPSeg of generated weights: real runs from labels to the list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

import napari_zeroseg as zs
from napari_zeroseg.cli import main
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.errors import InputError
from napari_zeroseg.models.clipseg import ClipSegSegmenter
from napari_zeroseg.registry import add_checkpoint, remove_model
from napari_zeroseg.training.card import as_text, verdict
from napari_zeroseg.training.config import TrainingConfig, TrainingPair, words_of
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.events import Control
from napari_zeroseg.training.patches import Patch, Patches
from napari_zeroseg.training.run import StoppedError, train
from napari_zeroseg.training.validation import MaskScores, compared
from napari_zeroseg.training.words import NOWHERE, Named, WordNetwork, WordTask
from napari_zeroseg.weights.cards import model_folder

Planes = tuple[np.ndarray, np.ndarray]
WORDS = {"bright square": (1,), "dark disc": (2,)}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, clip_words: Path) -> Path:
    """A folder as transformers saves it: a small CLIPSeg, and all of CLIP's words."""
    folder = tmp_path_factory.mktemp("reader")
    size = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    torch.manual_seed(0)
    config = CLIPSegConfig(
        text_config=size | ends | {"hidden_size": 32, "vocab_size": 49408},
        vision_config=size | {"hidden_size": 64, "num_hidden_layers": 3, "patch_size": 32, "image_size": 352},
        projection_dim=32,
        extract_layers=[0, 1, 2],
        reduce_dim=64,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )
    module = CLIPSegForImageSegmentation(config)
    with torch.no_grad():
        for name, weights in module.named_parameters():
            if weights.ndim > 1:
                fan_in = weights[0].numel()
                weights.normal_(std=1.0 if "embedding.weight" in name and weights.ndim == 2 else fan_in**-0.5)
    module.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((clip_words / name).read_bytes())
    return folder


@pytest.fixture
def base(reader: Path) -> str:
    """That model in the list."""
    return add_checkpoint(reader, "clipseg_rd64", "reader").key


@pytest.fixture(scope="module")
def planes() -> Planes:
    """Eight planes, each with a bright square (1) and a dark disc (2), the last one with a square alone."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(100, 140, (8, 176, 176)).astype(np.uint8)
    labels = np.zeros(pictures.shape, np.uint8)
    rows, columns = np.mgrid[:176, :176]
    for i in range(8):
        r, c = rng.integers(8, 60, 2)
        labels[i, r : r + 40, c : c + 40] = 1
        r, c = rng.integers(120, 150, 2)
        if i < 7:
            labels[i][(rows - r) ** 2 + (columns - c) ** 2 < 400] = 2
    pictures[labels == 1] = 230
    pictures[labels == 2] = 20
    return pictures, labels


@pytest.fixture
def short(base: str, planes: Planes) -> Callable[..., TrainingConfig]:
    """A run that takes seconds."""
    pictures, labels = planes

    def make(**settings: Any) -> TrainingConfig:
        pairs = (
            TrainingPair(pictures[:5], labels[:5]),
            TrainingPair(pictures[5:], labels[5:], role="validation"),
        )
        values = {"base": base, "words": WORDS, "labels_are": "classes", "epochs": 6, "variants": 2}
        values |= {"learning_rate": 2e-3, "device": "cpu", "precision": "float32"}
        return TrainingConfig("mine", pairs, **(values | settings))

    return make


@pytest.mark.slow
def test_it_learns_is_listed_and_answers_by_words(
    short: Callable[..., TrainingConfig], planes: Planes, base: str, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    trained = train(short(epochs=150, variants=1), listener=told.append, out=tmp_path / "run")
    losses = [event["loss"] for event in told if event["event"] == "step"]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert trained.better
    assert "on average over the words" in trained.verdict
    figures = trained.card["masks"]
    assert set(figures) == {"'bright square'", "'dark disc'"}
    for entry in figures.values():
        assert entry["objects"] == 3  # planes
        assert entry["iou_after"] > entry["iou_before"] + 0.1
        assert entry["gain_interval"][0] <= entry["gain"] <= entry["gain_interval"][1]
    text = as_text(trained.card)
    assert "| word | planes |" in text
    assert "| 'dark disc' | 3 |" in text
    assert trained.spec.base == "clipseg_rd64"
    old, model = (zs.load_model(key, device="cpu", precision="float32") for key in (base, "mine"))
    assert isinstance(old, ClipSegSegmenter)
    assert isinstance(model, ClipSegSegmenter)
    picture, labels = planes[0][6], planes[1][6]
    prompts = [zs.Prompt(text=word) for word in WORDS]
    before, after = (one.predict(one.encode(picture), prompts) for one in (old, model))
    assert np.abs(before[0].logits - after[0].logits).max() > 0.1
    for number, answer in enumerate(after, 1):
        other = labels == 3 - number
        assert answer.mask[labels == number].mean() > answer.mask[other].mean()
    before, after = (load_file(path) for path in (_weights(base), _weights("mine")))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed
    assert all(name.startswith("decoder.") for name in changed)
    zs.export_model("mine", tmp_path / "mine.zip")
    zs.import_model(tmp_path / "mine.zip", "theirs")
    remove_model(base)
    remove_model("mine")  # what came as a file needs nothing of what it came from
    theirs = zs.load_model("theirs", device="cpu", precision="float32")
    again = theirs.predict(theirs.encode(picture), prompts)
    np.testing.assert_array_equal(again[1].logits, model.predict(model.encode(picture), prompts)[1].logits)


def _weights(key: str) -> Path:
    (path,) = model_folder(key).glob("*.safetensors")
    return path


def test_a_stopped_run_goes_on_bit_by_bit(short: Callable[..., TrainingConfig], tmp_path: Path) -> None:
    config = short()
    train(config, out=tmp_path / "whole")
    remove_model("mine")
    controls: list[Control] = []

    def stop_after_four(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            controls[0].tell("stop")

    with pytest.raises(StoppedError, match="go on"):
        train(config, out=tmp_path / "parted", listener=stop_after_four, control=controls.append)
    train(tmp_path / "parted", resume=True)
    whole, parted = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "parted"))
    assert whole.keys() == parted.keys()
    assert all(torch.equal(tensor, parted[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_the_command_line_in_a_process_of_its_own(base: str, planes: Planes, tmp_path: Path) -> None:
    np.save(tmp_path / "raw.npy", planes[0])
    np.save(tmp_path / "labels.npy", planes[1])
    command = [sys.executable, "-m", "napari_zeroseg", "train", "--images", str(tmp_path / "raw.npy")]
    command += ["--labels", str(tmp_path / "labels.npy"), "--labels-are", "classes", "--base", base, "--name", "mine"]
    command += ["--words", "bright square=1, dark disc = 2", "--epochs", "2", "--device", "cpu", "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
    card = json.loads(done.stdout)
    assert card["settings"]["words"] == {"bright square": [1], "dark disc": [2]}
    # 15 objects are few: every block was held back in turn
    assert card["masks"]["'bright square'"]["objects"] == 8
    assert main(["train", *command[4:-2], "--words", "lung=9"]) == 1


def test_estimate(short: Callable[..., TrainingConfig], base: str, tmp_path: Path) -> None:
    from napari_zeroseg.training.estimate import estimate

    found = estimate(short(epochs=3))
    assert found.steps == 3 * found.steps_per_epoch
    assert found.seconds_per_step > 0


class TestTask:
    @pytest.fixture
    def data(self, short: Callable[..., TrainingConfig]) -> TrainingData:
        return TrainingData(short())

    def test_which_pixels_a_word_names(self, short: Callable[..., TrainingConfig], data: TrainingData) -> None:
        named = Named(short(words={"both": (), "dark disc": (2,)}), data)
        _, objects = data.read(0)
        truth = short().pairs[0].labels[0]
        np.testing.assert_array_equal(named.on("both", 0, objects), truth > 0)
        np.testing.assert_array_equal(named.on("dark disc", 0, objects), truth == 2)
        assert named.counts(0, objects).all()
        assert {named.of(one) for one in data.objects} == {"both"}
        strange = objects.copy()
        strange[:4] = -1
        strange[4:8] = 77  # left out for its size
        np.testing.assert_array_equal(named.counts(0, strange)[:9, 0], [False] * 8 + [True])

    def test_a_fifth_of_the_phrases_names_nothing(
        self, short: Callable[..., TrainingConfig], data: TrainingData
    ) -> None:
        config = short()
        task = WordTask(config, WordNetwork(config), Patches(data, 0), [0, 1], EmbeddingStore())
        asked = [task._asked(np.random.default_rng(seed)) for seed in range(400)]
        flat = [phrase for each in asked for phrase in each]
        assert np.mean([phrase in NOWHERE for phrase in flat]) == pytest.approx(0.2, abs=0.03)
        assert all(set(WORDS) <= set(each) for each in asked)

    def test_answers_are_those_of_the_model_itself(
        self, short: Callable[..., TrainingConfig], data: TrainingData
    ) -> None:
        config = short()
        network, patches = WordNetwork(config), Patches(data, 0)
        task = WordTask(config, network, patches, [0], EmbeddingStore())
        ((plane, field),) = task.windows()
        activations = network.activations(patches, Patch(plane, field), EmbeddingStore())
        logits = network.logits(activations, list(WORDS)).detach().numpy()
        model = network.model
        embedding = model.encode(data.read(0)[0])
        wanted = model.predict(embedding, [zs.Prompt(text=word) for word in WORDS])
        np.testing.assert_allclose(logits, [one.logits[0] for one in wanted], atol=0.02)  # digits that a file keeps


def test_a_single_plane_tells_nothing() -> None:
    one, other = (MaskScores(np.array([value]), np.array([value])) for value in (0.2, 0.9))
    figures = compared(one, other)
    assert figures["gain"] == pytest.approx(0.7)
    assert figures["gain_interval"] == [-1, 1]
    choice, sentence = verdict({"'lung'": figures}, None, of_words=True)
    assert choice == "unsure"
    assert "these planes are too few" in sentence


def test_words(tmp_path: Path) -> None:
    assert words_of("lung=1+2, left  heart = 3") == {"lung": (1, 2), "left heart": (3,)}
    assert words_of("mitochondrion") == {"mitochondrion": ()}
    assert words_of({"lung": [1.0, 2]}) == {"lung": (1, 2)}
    config = TrainingConfig("a", (("x.tif", "y.tif"),), words={"left heart": [3], "lung": ()})
    config.write(tmp_path / "run.toml")
    assert TrainingConfig.read(tmp_path / "run.toml").words == {"left heart": (3,), "lung": ()}
    for wrong in ("=3", "lung=a", "lung=0", {"lung": "12"}, {"lung": [1.7]}, {"lung": 5}):
        with pytest.raises(InputError, match="such as 'lung=1"):
            words_of(wrong)
    for twice in ("lung=1, lung=2", {"lung": [1], " lung": [2]}):
        with pytest.raises(InputError, match="twice"):
            words_of(twice)


def test_what_is_wrong_is_said_first(short: Callable[..., TrainingConfig], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="say which words the labels stand for"):
        train(short(words={}), out=tmp_path / "a")
    with pytest.raises(InputError, match="only the setting 'what' decoder can be trained, not 'lora'"):
        train(short(what="lora"), out=tmp_path / "b")
    with pytest.raises(InputError, match="No object has a label of 'lung' \\(7\\)"):
        train(short(words={"lung": (7,)}), out=tmp_path / "c")
    assert not list(tmp_path.iterdir())
