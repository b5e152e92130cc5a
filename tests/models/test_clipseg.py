"""CLIPSeg in small sizes with generated weights: against published numbers, and against itself."""

from __future__ import annotations

import json
import shutil
import threading

import numpy as np
import pytest
import torch

from napari_zeroseg import Prompt, load_model
from napari_zeroseg.embeddings import EmbeddingStore, as_kept, content_key
from napari_zeroseg.errors import InputError, WeightsError
from napari_zeroseg.models import clipseg
from napari_zeroseg.models.clipseg_conditions import SIDE, highlighted_pixels_of, mix, pixels_of
from napari_zeroseg.models.probability_frame import at_threshold, heat_map
from napari_zeroseg.registry import find_model
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.view import View
from napari_zeroseg.weights import Weights, read_weights

CPU = torch.device("cpu")
SPEC = find_model("clipseg_rd64")
TEXTS = ["lung", "a photo of a cat", "the left, lower lobe", "black shade", "мозг", "🧠", "x" * 20, "heart"]


@pytest.fixture(scope="module", params=["plain", "refined"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def published(kind, weights_by_rule, published_keys, tmp_path_factory):
    """The small model of the published numbers; it has 100 words, which nobody has named."""
    shapes = published_keys("clipseg")
    folder = tmp_path_factory.mktemp(kind)
    refined = {"use_complex_transposed_convolution": kind == "refined"}
    (folder / "config.json").write_text(json.dumps({**shapes["tiny_config"], **refined, "model_type": "clipseg"}))
    tensors = weights_by_rule(shapes[f"tiny_{kind}"])
    return clipseg.build(SPEC, Weights(tensors, "0" * 64, folder=folder), CPU, torch.float32)


@pytest.fixture(scope="module")
def model(wordy_clipseg) -> clipseg.ClipSegSegmenter:
    return clipseg.build(SPEC, read_weights(wordy_clipseg, SPEC.weights, SPEC.title), CPU, torch.float32)


@pytest.fixture(scope="module")
def picture(synthetic_picture):
    return synthetic_picture(150, 200)


@pytest.fixture(scope="module")
def embedding(model, picture):
    return model.encode(picture)


class TestPublishedNumbers:
    def test_what_the_network_sees(self, reference):
        numbers = reference("clipseg")
        np.testing.assert_allclose(pixels_of(numbers["image"])[0, :, ::8, ::8], numbers["pixel_values_s8"], atol=1e-6)

    def test_texts(self, published, kind, reference):
        numbers = reference("clipseg")
        conditions = published.network.text_conditions(torch.from_numpy(numbers["input_ids"])).numpy()
        np.testing.assert_allclose(conditions, numbers[f"{kind}/text_cond"], atol=2e-5)
        answers = published.predict_conditions(published.encode(numbers["image"]), conditions)
        logits = np.stack([answer.logits[0] for answer in answers])
        assert logits.shape == (3, SIDE, SIDE)
        np.testing.assert_allclose(logits[:, ::2, ::2], numbers[f"{kind}/text_logits_s2"], atol=2e-5)

    def test_an_example(self, published, kind, reference):
        numbers = reference("clipseg")
        condition = published.picture_condition(numbers["cond_image"])
        (answer,) = published.predict_conditions(published.encode(numbers["image"]), condition[None])
        np.testing.assert_allclose(answer.logits[:, ::2, ::2], numbers[f"{kind}/image_logits_s2"], atol=2e-5)

    def test_bf16_stays_close(self, published, kind, reference, weights_by_rule, published_keys, tmp_path):
        """Probabilities, not masks: those of a network that has learnt nothing lie around one half everywhere."""
        numbers = reference("clipseg")
        refined = {"use_complex_transposed_convolution": kind == "refined"}
        keys = published_keys("clipseg")
        (tmp_path / "config.json").write_text(json.dumps({**keys["tiny_config"], **refined, "model_type": "clipseg"}))
        weights = Weights(weights_by_rule(keys[f"tiny_{kind}"]), "0" * 64, folder=tmp_path)
        narrow = clipseg.build(SPEC, weights, CPU, torch.bfloat16)
        assert narrow.model_key != published.model_key
        probabilities = []
        for each in (published, narrow):
            answers = each.predict_conditions(each.encode(numbers["image"]), numbers[f"{kind}/text_cond"])
            probabilities.append(np.stack([heat_map(answer) for answer in answers]))
            assert answers[0].logits.dtype == np.float32
        assert np.abs(probabilities[0] - probabilities[1]).max() < 0.03


class TestWords:
    def test_it_is_a_segmenter(self, model):
        assert isinstance(model, Segmenter)

    def test_several_at_once_equal_one_by_one(self, model, embedding):
        together = model.predict(embedding, [Prompt(text=text) for text in TEXTS])
        model._phrases._known.clear()
        for text, answer in zip(TEXTS, together, strict=True):
            (single,) = model.predict(embedding, [Prompt(text=text)])
            np.testing.assert_allclose(single.logits, answer.logits, atol=5e-6)
            assert answer.logits.shape == (1, SIDE, SIDE)
            assert answer.mask.shape == (150, 200)
        assert not np.allclose(together[0].logits, together[1].logits, atol=1e-3)

    def test_a_phrase_is_read_once(self, model, embedding, monkeypatch):
        model.predict(embedding, [Prompt(text="kidney")])

        def again(tokens):
            raise AssertionError("read again")

        monkeypatch.setattr(model._phrases, "_embed", again)
        model.predict(embedding, [Prompt(text="kidney"), Prompt(text="kidney", box=(3, 3, 9, 9))])

    def test_five_hundred_in_batches(self, model, embedding):
        phrases = [f"thing number {number}" for number in range(500)]
        few = [model.predict(embedding, [Prompt(text=phrases[number])])[0] for number in (0, 17, 499)]
        many = model.predict(embedding, [Prompt(text=phrase) for phrase in phrases])
        assert len(many) == 500
        for number, answer in zip((0, 17, 499), few, strict=True):
            np.testing.assert_allclose(many[number].logits, answer.logits, atol=5e-6)

    def test_no_prompts_no_answers(self, model, embedding):
        assert model.predict(embedding, []) == []
        assert model.text_conditions([]).shape == (0, 24)

    def test_a_box_alone_says_nothing(self, model, embedding):
        with pytest.raises(InputError, match="give a text with the box"):
            model.predict(embedding, [Prompt(box=(1, 1, 20, 20))])

    def test_other_prompts_are_refused(self, model, embedding):
        with pytest.raises(InputError, match="does not take points"):
            model.predict(embedding, [Prompt(points=[(3, 4)], text="lung")])
        with pytest.raises(InputError, match="outside"):
            model.predict(embedding, [Prompt(text="lung", box=(500, 500, 600, 600))])

    def test_an_empty_phrase(self, model):
        with pytest.raises(InputError, match="empty"):
            model.text_conditions(["lung", "  "])

    def test_another_models_embedding(self, model, published, picture):
        with pytest.raises(InputError, match="another model"):
            model.predict(published.encode(picture), [Prompt(text="lung")])

    def test_without_words(self, wordy_clipseg, picture, tmp_path, monkeypatch):
        monkeypatch.setattr(clipseg, "_on_this_machine", list)
        for name in ("config.json", "model.safetensors"):
            shutil.copy(wordy_clipseg / name, tmp_path)
        wordless = clipseg.build(SPEC, read_weights(tmp_path, SPEC.weights, SPEC.title), CPU, torch.float32)
        with pytest.raises(WeightsError, match=r"vocab\.json and merges\.txt"):
            wordless.predict(wordless.encode(picture), [Prompt(text="lung")])


class TestPictures:
    @pytest.mark.parametrize("shape", [(352, 352), (1, 7), (2, 5000), (900, 600), (64, 3000)])
    def test_any_aspect(self, model, shape):
        picture = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        if min(shape) < 2:
            with pytest.raises(InputError):
                model.encode(picture)
            return
        found = model.encode(picture)
        assert found.tensors["activations"].shape == (3, 485, 48)
        (answer,) = model.predict(found, [Prompt(text="lung")])
        assert answer.mask.shape == heat_map(answer).shape == shape

    def test_grey_is_three_equal_channels(self, model, picture):
        grey = model.encode(picture[..., 0]).tensors["activations"]
        colour = model.encode(np.repeat(picture[..., :1], 3, -1)).tensors["activations"]
        assert torch.equal(grey, colour)

    def test_from_the_disk(self, model, picture, embedding, tmp_path):
        key = content_key(picture, model.model_key)
        EmbeddingStore(tmp_path).put(key, embedding)
        found = EmbeddingStore(tmp_path).get(key, (150, 200), model.model_key)
        prompts = [Prompt(text="lung"), Prompt(text="heart")]
        for kept, fresh in zip(model.predict(found, prompts), model.predict(embedding, prompts), strict=True):
            assert np.abs(heat_map(kept) - heat_map(fresh)).max() < 2e-3  # 16 bits on the disk

    def test_by_a_view(self, model, picture, embedding):
        (answer,) = View(model, picture).predict([Prompt(text="lung")])
        (expected,) = model.predict(as_kept(embedding), [Prompt(text="lung")])
        np.testing.assert_array_equal(answer.mask, expected.mask)
        (boxed,) = View(model, picture).predict([Prompt(text="lung", box=(20, 30, 60, 90))])
        assert not boxed.mask[:20].any()
        assert not boxed.mask[:, 91:].any()

    def test_several_threads(self, model, picture, embedding):
        prompts = [Prompt(text=f"{text} again") for text in TEXTS]
        model._phrases._known.clear()
        answers: dict[int, list] = {}

        def work(number):
            answers[number] = model.predict(model.encode(picture), prompts)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = model.predict(embedding, prompts)
        assert len(answers) == 4
        for found in answers.values():
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one.logits, other.logits, atol=5e-6)


class TestThresholdsAndBoxes:
    def test_a_box_restricts_the_mask_and_nothing_else(self, model, embedding):
        full, boxed = model.predict(embedding, [Prompt(text="lung"), Prompt(text="lung", box=(20.2, 30, 60, 90.7))])
        full, boxed = at_threshold(full, 0.4), at_threshold(boxed, 0.4)
        window = np.zeros((150, 200), bool)
        window[21:61, 30:91] = True
        assert boxed.mask.any()
        np.testing.assert_array_equal(boxed.mask, full.mask & window)
        np.testing.assert_array_equal(heat_map(boxed), heat_map(full))

    def test_the_threshold_needs_no_model(self, model, embedding):
        (answer,) = model.predict(embedding, [Prompt(text="lung")])
        probabilities = heat_map(answer)
        np.testing.assert_array_equal(answer.mask, probabilities > 0.5)
        smaller = np.ones((150, 200), bool)
        for threshold in (0.2, 0.4, 0.5, 0.6, 0.9):
            mask = at_threshold(answer, threshold).mask
            np.testing.assert_array_equal(mask, probabilities > threshold)
            assert not (mask & ~smaller).any()
            smaller = mask

    def test_the_score_is_the_mean_probability_inside(self, model, embedding):
        (answer,) = model.predict(embedding, [Prompt(text="lung")])
        answer = at_threshold(answer, 0.4)
        assert answer.scores[0] == pytest.approx(heat_map(answer)[answer.mask].mean(), abs=2e-2)  # cells, not pixels
        nowhere = at_threshold(answer, 0.999)
        assert nowhere.scores[0] == 0
        assert not nowhere.mask.any()


class TestConditions:
    def test_mixture(self, model, embedding, picture):
        words, example = model.text_conditions(["lung"])[0], model.picture_condition(picture)
        np.testing.assert_array_equal(mix(words, example, 0), words)
        np.testing.assert_array_equal(mix(words, example, 1), example)
        np.testing.assert_allclose(mix(words, example, 0.25), 0.75 * words + 0.25 * example, rtol=1e-5)
        by_hand = model.predict_conditions(embedding, [words])[0]
        np.testing.assert_allclose(by_hand.logits, model.predict(embedding, [Prompt(text="lung")])[0].logits, atol=5e-6)
        with pytest.raises(InputError, match="from 0 to 1"):
            mix(words, example, 1.5)
        with pytest.raises(InputError, match="cannot be mixed"):
            mix(words, example[:5])

    @pytest.mark.parametrize("conditions", [np.zeros(24), np.zeros((2, 23)), np.full((1, 24), np.nan)])
    def test_wrong_conditions(self, model, embedding, conditions):
        with pytest.raises(InputError, match=r"shape \(N, 24\)"):
            model.predict_conditions(embedding, conditions)

    def test_an_example_is_cut_out_and_its_surroundings_dimmed(self):
        picture = np.full((200, 300, 3), 255, np.uint8)
        mask = np.zeros((200, 300), bool)
        mask[50:90, 100:200] = True
        seen = highlighted_pixels_of(picture, mask)
        assert seen.shape == (1, 3, SIDE, SIDE)
        white = pixels_of(picture)[0, :, 0, 0]
        # 40 x 100 and a tenth around: 48 x 120, padded to 120 x 120
        np.testing.assert_allclose(seen[0, :, SIDE // 2, SIDE // 2], white, rtol=1e-5)
        np.testing.assert_allclose(seen[0, :, SIDE // 2, 10], 0.1 * white, rtol=1e-5)
        assert not seen[0, :, :100].any()
        assert not seen[0, :, -100:].any()
        assert seen[0, 0].count_nonzero() == pytest.approx(SIDE * SIDE * 48 / 120, rel=0.01)

    def test_only_the_background_is_blurred(self, synthetic_picture):
        picture = synthetic_picture(352, 352)
        mask = np.ones((352, 352), bool)
        torch.testing.assert_close(highlighted_pixels_of(picture, mask), pixels_of(picture))
        mask[0, 0] = False
        seen, whole = highlighted_pixels_of(picture, mask)[0], pixels_of(picture)[0]
        assert torch.equal(seen[:, 1:], whole[:, 1:])
        assert not torch.equal(seen[:, 0, 0], whole[:, 0, 0])

    @pytest.mark.parametrize("place", [(0, 0), (99, 119), (50, 60)])
    def test_an_example_of_one_pixel(self, model, synthetic_picture, place):
        mask = np.zeros((100, 120), bool)
        mask[place] = True
        condition = model.picture_condition(synthetic_picture(100, 120), mask)
        assert condition.shape == (24,)
        assert np.isfinite(condition).all()

    def test_wrong_examples(self, model, picture):
        with pytest.raises(InputError, match="own shape"):
            model.picture_condition(picture, np.ones((3, 3), bool))
        with pytest.raises(InputError, match="empty"):
            model.picture_condition(picture, np.zeros((150, 200), bool))


class TestWeights:
    def test_sizes_are_told_from_the_weights(self, published_keys, weights_by_rule):
        """Without a config.json; the published sizes, which is why this one looks at names and shapes only."""
        from transformers import CLIPSegForImageSegmentation

        from napari_zeroseg.models.clipseg_network import configuration

        keys = published_keys("clipseg")
        plain = {name: torch.empty(shape, device="meta") for name, shape in keys["rd64"].items()}
        last = "decoder.transposed_convolution."
        refined = {name: tensor for name, tensor in plain.items() if not name.startswith(last)}
        refined |= {name: torch.empty(shape, device="meta") for name, shape in keys["rd64_refined"].items()}
        for tensors in (plain, refined):
            with torch.device("meta"):
                module = CLIPSegForImageSegmentation(configuration(tensors, None, SPEC.title))
            assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in tensors.items()}
            assert module.config.vision_config.num_attention_heads == 12
            assert module.config.text_config.num_attention_heads == 8
            assert list(module.config.extract_layers) == [3, 6, 9]

    def test_a_folder_by_the_models_name(self, wordy_clipseg, picture):
        loaded = load_model("clipseg_rd16", weights=wordy_clipseg, device="cpu", precision="float32")
        (answer,) = loaded.predict(loaded.encode(picture), [Prompt(text="lung")])
        assert answer.mask.shape == (150, 200)

    def test_files_of_earlier_versions_hold_counts_as_well(self, wordy_clipseg, model, picture, embedding):
        weights = read_weights(wordy_clipseg, SPEC.weights, SPEC.title)
        counts = {f"clip.{side}_model.embeddings.position_ids": torch.arange(9)[None] for side in ("text", "vision")}
        older = Weights({**weights.tensors, **counts}, weights.sha256, folder=weights.folder)
        again = clipseg.build(SPEC, older, CPU, torch.float32)
        assert torch.equal(again.encode(picture).tensors["activations"], embedding.tensors["activations"])

    def test_wrong_weights(self, wordy_clipseg, tmp_path):
        weights = read_weights(wordy_clipseg, SPEC.weights, SPEC.title)
        lacking = {name: tensor for name, tensor in weights.tensors.items() if name != "decoder.film_add.bias"}
        for tensors, folder, message in (
            (lacking, weights.folder, r"lacks 1 entries, first decoder\.film_add\.bias"),
            ({**weights.tensors, "more": torch.zeros(1)}, weights.folder, "has besides 1 entries, first more"),
            ({"image_encoder.weight": torch.zeros(1)}, None, "are not CLIPSeg rd64's"),
            ({**weights.tensors, "decoder.film_add.bias": torch.full((16,), np.nan)}, weights.folder, "NaN"),
        ):
            with pytest.raises(WeightsError, match=message):
                clipseg.build(SPEC, Weights(tensors, "0" * 64, folder=folder), CPU, torch.float32)
        with pytest.raises(WeightsError, match="has 5 blocks, and 10 are needed"):
            clipseg.build(SPEC, Weights(weights.tensors, "0" * 64), CPU, torch.float32)
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(WeightsError, match="damaged"):
            clipseg.build(SPEC, Weights(weights.tensors, "0" * 64, folder=tmp_path), CPU, torch.float32)


def test_embeddings_serve_training(embedding):
    activations = embedding.tensors["activations"]
    assert not activations.is_inference()
    decoder = torch.nn.Linear(activations.shape[-1], 1)
    decoder(activations).square().mean().backward()
    assert decoder.weight.grad.abs().sum() > 0
