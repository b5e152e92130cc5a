"""Words taught to CLIPSeg in small sizes: the vector of a phrase is fitted, kept, and used wherever the phrase is."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tifffile
import torch

from napari_zeroseg import Prompt, View
from napari_zeroseg.cascade.heat import heat_of
from napari_zeroseg.cascade.taught import absent, load_phrase, save_phrase, teach_phrase
from napari_zeroseg.cascade.words import taught_words
from napari_zeroseg.cli import main
from napari_zeroseg.errors import CancelledError, InputError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.models import clipseg
from napari_zeroseg.models.clipseg_fit import FitOptions, fit_condition, target_of
from napari_zeroseg.models.clipseg_taught import condition_folder, write_condition
from napari_zeroseg.registry import find_model
from napari_zeroseg.weights import read_weights

CPU = torch.device("cpu")
SPEC = find_model("clipseg_rd64")
QUICK = FitOptions(steps=12, batch=2)


@pytest.fixture(scope="module")
def model(wordy_clipseg) -> clipseg.ClipSegSegmenter:
    return clipseg.build(SPEC, read_weights(wordy_clipseg, SPEC.weights, SPEC.title), CPU, torch.float32)


@pytest.fixture(scope="module")
def planes() -> tuple[np.ndarray, np.ndarray]:
    """Four planes with a bright square each, and labels of it."""
    pictures = np.random.default_rng(0).integers(20, 90, (4, 96, 128), np.uint8)
    labels = np.zeros(pictures.shape, np.uint16)
    for i in range(4):
        labels[i, 10 + 8 * i : 50 + 8 * i, 30:80] = i + 1
    return np.where(labels > 0, 220, pictures).astype(np.uint8), labels


@pytest.fixture(scope="module")
def phrase(model, planes):
    return teach_phrase("  Bright Square", model, *map(list, planes), options=QUICK)


class TestTheFit:
    def test_the_loss_falls_and_no_weight_moves(self, model, planes):
        before = {name: weights.clone() for name, weights in model.network.decoder.state_dict().items()}
        (start,) = model.text_conditions(["square"])
        embeddings = [model.encode(plane) for plane in planes[0]]
        targets = [target_of(plane > 0) for plane in planes[1]]
        fit = fit_condition(model, embeddings, targets, start, FitOptions(steps=40))
        assert fit.losses[-1] < fit.losses[0]
        assert fit.steps == len(fit.losses) == 40
        assert fit.condition.shape == start.shape
        assert not np.allclose(fit.condition, start)
        assert all(torch.equal(weights, before[name]) for name, weights in model.network.decoder.state_dict().items())
        again = fit_condition(model, embeddings, targets, start, FitOptions(steps=40))
        np.testing.assert_array_equal(again.condition, fit.condition)

    def test_it_ends_where_nothing_gets_better(self, model, planes):
        (start,) = model.text_conditions(["square"])
        told: list[tuple[int, int]] = []
        fit = fit_condition(
            model,
            [model.encode(planes[0][0])],
            [target_of(planes[1][0] > 0)],
            start,
            FitOptions(steps=200, rate=1e-9, patience=5),
            progress=lambda *step: told.append(step),
        )
        assert fit.steps < 12
        assert told[-1] == (fit.steps, 200)

    def test_several_pictures_at_once_equal_one_by_one(self, model, planes):
        conditions = torch.from_numpy(model.text_conditions(["square", "lung"]))
        each = [model.activations_of(model.encode(plane)) for plane in planes[0][:2]]
        together = model.network.decode(torch.stack(each, 1), conditions)
        for i in range(2):
            alone = model.network.decode(each[i], conditions[i : i + 1])[0]
            torch.testing.assert_close(together[i], alone, atol=5e-6, rtol=1e-5)

    @pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"patience": 0}, {"rate": 0}, {"rate": 2}])
    def test_options(self, wrong):
        with pytest.raises(InputError, match=next(iter(wrong))):
            FitOptions(**wrong)


class TestTaught:
    def test_it_is_tried_on_a_plane_that_it_has_not_seen(self, phrase):
        assert phrase.word == "bright square"
        assert phrase.trial.planes == 1
        assert 0 <= phrase.trial.before <= 1
        assert 0 <= phrase.trial.after <= 1
        assert 0 <= phrase.trial.absence <= 1

    def test_kept_and_asked_for_by_text(self, phrase, model, planes):
        embedding = model.encode(planes[0][0])
        (bare,) = model.predict(embedding, [Prompt(text="bright square")])
        folder = save_phrase(phrase)
        assert sorted(path.name for path in folder.iterdir()) == ["condition.json", "condition.safetensors"]
        (fitted, other) = model.predict(embedding, [Prompt(text="Bright  square"), Prompt(text="lung")])
        (expected,) = model.predict_conditions(embedding, phrase.condition[None])
        np.testing.assert_allclose(fitted.logits, expected.logits, atol=5e-6)
        assert not np.allclose(fitted.logits, bare.logits, atol=1e-4)
        assert not np.allclose(other.logits, fitted.logits, atol=1e-4)
        assert model.is_taught("BRIGHT square")
        assert not model.is_taught("square")
        np.testing.assert_array_equal(model.text_conditions(["bright square"])[0], phrase.condition)
        assert not np.allclose(model.text_conditions(["bright square"], bare=True)[0], phrase.condition)
        again = load_phrase("bright square", model)
        np.testing.assert_array_equal(again.condition, phrase.condition)
        assert (again.trial, again.steps, again.date) == (phrase.trial, phrase.steps, phrase.date)
        assert taught_words() == []  # there is no prototype of it

    def test_taught_anew(self, phrase, model):
        save_phrase(phrase)
        assert model.is_taught("bright square")
        folder = write_condition("bright square", model.model_key, 2 * phrase.condition)
        os.utime(folder / "condition.safetensors", ns=(1, 1))
        np.testing.assert_array_equal(model.text_conditions(["bright square"])[0], 2 * phrase.condition)

    def test_templates_are_for_words_that_were_not_taught(self, phrase, model, planes):
        save_phrase(phrase)
        plain = heat_of(model, planes[0][0], ["bright square", "lung"])
        framed = heat_of(model, planes[0][0], ["bright square", "lung"], ["a photo of a {}"])
        np.testing.assert_array_equal(plain[0], framed[0])
        assert not np.allclose(plain[1], framed[1], atol=1e-3)

    def test_a_large_plane_is_seen_in_windows(self, model):
        plane = np.random.default_rng(0).integers(0, 90, (1300, 700), np.uint8)
        plane[:600, :] = 7
        labels = np.zeros(plane.shape, int)
        labels[1100:1200, 300:500] = 1
        plane[labels > 0] = 230
        taught = teach_phrase("square", model, [plane, plane], [labels, labels], options=FitOptions(steps=3))
        assert taught.trial.planes == 1

    def test_another_models_words_are_not_known(self, phrase, model, wordy_clipseg):
        save_phrase(phrase)
        narrow = clipseg.build(SPEC, read_weights(wordy_clipseg, SPEC.weights, SPEC.title), CPU, torch.bfloat16)
        assert not narrow.is_taught("bright square")
        with pytest.raises(InputError, match="has not been taught to CLIPSeg rd64"):
            load_phrase("bright square", narrow)

    def test_absent(self):
        assert absent(np.array([[0.25, 0.75]], np.float16)) == 0.25

    def test_one_plane_leaves_none_to_try_it_on(self, model, planes):
        taught = teach_phrase("square", model, [planes[0][0]], [planes[1][0]], options=FitOptions(steps=2))
        assert taught.trial.after is None


class TestBadInput:
    def test_labels_of_another_shape(self, model, planes):
        with pytest.raises(InputError, match="give labels of its own shape"):
            teach_phrase("square", model, [planes[0][0]], [planes[1][0][:50]])

    def test_nothing_labelled(self, model, planes):
        with pytest.raises(InputError, match="Nothing is labelled"):
            teach_phrase("square", model, [planes[0][0]], [np.zeros((96, 128), int)])

    def test_a_view_of_another_model(self, model, planes, toys):
        import zeroseg_toys

        with pytest.raises(InputError, match="another model"):
            teach_phrase("square", model, [View(zeroseg_toys.Flood(zeroseg_toys.FLOOD), planes[0][0])], [planes[1][0]])

    def test_a_model_without_vectors(self, planes, toys):
        import zeroseg_toys

        with pytest.raises(InputError, match="has no vectors of words to fit"):
            teach_phrase("square", zeroseg_toys.Words(zeroseg_toys.WORDS), [planes[0][0]], [planes[1][0]])

    @pytest.mark.parametrize("name", ["", "!", "x" * 61])
    def test_no_word(self, model, planes, name):
        with pytest.raises(InputError, match="cannot be taught"):
            teach_phrase(name, model, [planes[0][0]], [planes[1][0]])
        assert not model.is_taught(name)

    def test_damaged(self, phrase, model, planes):
        folder = save_phrase(phrase)
        (folder / "condition.safetensors").write_bytes(b"no tensors")
        with pytest.raises(InputError, match="damaged"):
            model.predict(model.encode(planes[0][0]), [Prompt(text="bright square")])
        write_condition("bright square", model.model_key, np.zeros(5, np.float32))
        with pytest.raises(InputError, match="damaged"):
            model.is_taught("bright square")
        card = condition_folder("bright square", model.model_key) / "condition.json"
        card.write_text(json.dumps({"model_key": model.model_key}))
        with pytest.raises(InputError, match="damaged"):
            load_phrase("bright square", model)

    def test_cancelled(self, model, planes):
        cancel = CancelToken()
        cancel.cancel()
        with pytest.raises(CancelledError):
            teach_phrase("square", model, [planes[0][0]], [planes[1][0]], cancel=cancel)


class TestTheCommandLine:
    @pytest.fixture
    def files(self, planes, tmp_path):
        for name, pixels in zip(("raw", "truth"), planes, strict=True):
            tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="minisblack")
        return tmp_path

    @pytest.fixture
    def installed(self, wordy_clipseg, model, monkeypatch):
        """The small network in place of the published weights."""
        monkeypatch.setattr("napari_zeroseg.registry.load_model", lambda key, **_: model)
        monkeypatch.setattr("napari_zeroseg.models.clipseg_fit.FitOptions", lambda: QUICK)

    def run(self, capsys, *arguments):
        code = main([str(part) for part in (*arguments, "--device", "cpu")])
        told = capsys.readouterr()
        return code, told.out, told.err

    def teach(self, capsys, files, *more):
        given = ("--images", files / "raw.tif", "--labels", files / "truth.tif", "--model", "clipseg_rd64")
        return self.run(capsys, "teach", "bright square", *given, *more)

    def test_taught_and_asked_for(self, files, capsys, installed, model):
        code, text, error = self.teach(capsys, files, "--json")
        assert code == 0, error
        report = json.loads(text)
        assert report["word"] == "bright square"
        assert report["planes"] == 1
        assert {"before", "after", "absence", "steps"} <= set(report)
        assert model.is_taught("bright square")
        ask = (
            "segment",
            files / "raw.tif",
            "--text",
            "Bright square, lung",
            "--model",
            "clipseg_rd64",
            "--planes",
            "1",
        )
        code, text, error = self.run(capsys, *ask, "-o", files / "out.tif", "--threshold", "0.99", "--json")
        assert code == 0, error
        (plane,) = json.loads(text)["planes"]
        assert plane["taught"] == ["Bright square"]
        assert "'Bright square' is absent here with" in plane["notes"][0]

    def test_it_is_told(self, files, capsys, installed):
        code, text, error = self.teach(capsys, files)
        assert code == 0, error
        assert "by the bare word" in text

    def test_mistakes(self, files, capsys, installed):
        code, _, error = self.teach(capsys, files, "--text-model", "clipseg_rd64")
        assert code == 1
        assert "leave --text-model out" in error
        ask = ("find", files / "raw.tif", "--word", "bright square", "--model", "clipseg_rd64", "-o", files / "out.tif")
        code, _, error = self.run(capsys, *ask)
        assert code == 1
        assert "give --text 'bright square' in place of --word" in error
