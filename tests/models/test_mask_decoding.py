"""Our evaluation of SAM's decoder against segment-anything's modules run as they stand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from napari_zeroseg.models import sam_modules
from napari_zeroseg.models.mask_decoding import MaskDecoding
from napari_zeroseg.models.prompt_embedding import PromptEmbedding

CPU = torch.device("cpu")


def _points(*xy):
    return torch.tensor(xy, dtype=torch.float32).reshape(-1, 2)


def _labels(*labels):
    return torch.tensor(labels, dtype=torch.int64)


_MASK = torch.from_numpy(np.random.default_rng(1).normal(0, 6, (256, 256)).astype(np.float32))

PROMPTS = {
    "point": (_points((300, 400)), _labels(1), None, None),
    "background point": (_points((300, 400)), _labels(0), None, None),
    "points": (_points((300, 400), (500, 600), (20.5, 1000)), _labels(1, 1, 0), None, None),
    "box": (_points(), _labels(), torch.tensor([100.0, 120, 500, 610]), None),
    "box and point": (_points((300, 400)), _labels(1), torch.tensor([100.0, 120, 500, 610]), None),
    "box and points": (_points((300, 400), (9, 9)), _labels(1, 0), torch.tensor([100.0, 120, 500, 610]), None),
    "mask": (_points(), _labels(), None, _MASK),
    "mask and point": (_points((300, 400)), _labels(1), None, _MASK),
    "mask and box": (_points(), _labels(), torch.tensor([100.0, 120, 500, 610]), _MASK),
}


@pytest.fixture(scope="module")
def embedding() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (1, 256, 64, 64)).astype(np.float32))


def _official(network, embedding, prompt, multimask):
    """One prompt through the modules themselves."""
    xy, labels, box, mask = prompt
    sparse, dense = network.prompt_encoder(
        (xy[None], labels[None]) if len(xy) else None,
        None if box is None else box[None],
        None if mask is None else mask[None, None],
    )
    logits, scores = network.mask_decoder(
        image_embeddings=embedding,
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return logits[0], scores[0]


def _ours(network, embedding, prompts, multimask, dtype=torch.float32):
    with torch.inference_mode():
        decoding = MaskDecoding(copy.deepcopy(network.prompt_encoder), copy.deepcopy(network.mask_decoder), CPU, dtype)
        prompt_embedding = PromptEmbedding(copy.deepcopy(network.prompt_encoder), CPU)
        embedded = prompt_embedding.embed(*(list(part) for part in zip(*prompts, strict=True)))
        wanted = slice(1, 4) if multimask else slice(0, 1)
        return decoding.decode(decoding.image_side(embedding), embedding, embedded, wanted)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", PROMPTS)
def test_one_prompt_equals_the_modules(network, embedding, kind, multimask):
    logits, scores = _ours(network, embedding, [PROMPTS[kind]], multimask)
    expected, expected_scores = _official(network, embedding, PROMPTS[kind], multimask)
    assert logits.shape == (1, 3 if multimask else 1, 256, 256)
    torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(scores[0], expected_scores, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kinds", [list(PROMPTS), ["point", "points", "box and points", "box"], ["box", "box"]])
def test_a_batch_of_different_prompts_equals_each_alone(network, embedding, kinds, multimask):
    logits, scores = _ours(network, embedding, [PROMPTS[kind] for kind in kinds], multimask)
    for i, kind in enumerate(kinds):
        expected, expected_scores = _official(network, embedding, PROMPTS[kind], multimask)
        torch.testing.assert_close(logits[i], expected, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(scores[i], expected_scores, atol=1e-4, rtol=1e-5)


def test_bf16_stays_near(network, embedding):
    logits, scores = _ours(network, embedding, list(PROMPTS.values()), True, torch.bfloat16)
    exact, exact_scores = _ours(network, embedding, list(PROMPTS.values()), True)
    assert (logits - exact).abs().mean() < 0.05 * exact.std()
    torch.testing.assert_close(scores, exact_scores, atol=0.02, rtol=0)


def test_the_modules_are_left_as_they_were(network, embedding):
    prompt_encoder, decoder = copy.deepcopy(network.prompt_encoder), copy.deepcopy(network.mask_decoder)
    MaskDecoding(prompt_encoder, decoder, CPU, torch.bfloat16)
    for ours, theirs in ((prompt_encoder, network.prompt_encoder), (decoder, network.mask_decoder)):
        before = theirs.state_dict()
        assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("prompt", ["point", "box", "both"])
def test_published_numbers_with_generated_weights(reference, fill, generated, prompt):
    prompt_encoder, decoder = sam_modules.prompt_encoder().eval(), sam_modules.mask_decoder().eval()
    fill(prompt_encoder, "prompt_encoder.")
    fill(decoder, "mask_decoder.")
    embedding = torch.from_numpy(generated("fixture.image_embedding", (1, 256, 64, 64)))
    xy, labels = (_points(), _labels()) if prompt == "box" else (_points((620, 310)), _labels(1))
    box = None if prompt == "point" else torch.tensor([350.0, 130, 880, 490])
    expected = reference("sam_decoder")
    with torch.inference_mode():
        decoding = MaskDecoding(prompt_encoder, decoder, CPU, torch.float32)
        embedded = PromptEmbedding(prompt_encoder, CPU).embed([xy], [labels], [box], [None])
        np.testing.assert_allclose(embedded.tokens[0], expected[f"{prompt}/sparse"], atol=2e-4)
        for name, wanted in (("single", slice(0, 1)), ("multi", slice(1, 4))):
            logits, scores = decoding.decode(decoding.image_side(embedding), embedding, embedded, wanted)
            np.testing.assert_allclose(logits[0, :, ::2, ::2], expected[f"{prompt}/{name}_low_res_s2"], atol=2e-4)
            np.testing.assert_allclose(scores[0], expected[f"{prompt}/{name}_iou"], atol=2e-4)


@pytest.mark.parametrize("threshold", [-1.0, "middle", 2.0])
def test_masks_above_a_threshold_are_those_of_all(network, embedding, threshold):
    prompts = [PROMPTS[kind] for kind in ("point", "points", "box", "background point")]
    logits, scores = _ours(network, embedding, prompts, True)
    threshold = float(scores.median()) if threshold == "middle" else threshold
    with torch.inference_mode():
        decoding = MaskDecoding(
            copy.deepcopy(network.prompt_encoder), copy.deepcopy(network.mask_decoder), CPU, torch.float32
        )
        embedded = PromptEmbedding(copy.deepcopy(network.prompt_encoder), CPU).embed(
            *(list(part) for part in zip(*prompts, strict=True))
        )
        keys = decoding.image_side(embedding)
        chosen, some, all_scores = decoding.decode_above(keys, embedding, embedded, slice(1, 4), threshold)
    torch.testing.assert_close(all_scores, scores)
    assert torch.equal(chosen, scores > threshold)
    assert some.shape == (int(chosen.sum()), 256, 256)
    torch.testing.assert_close(some, logits[chosen], atol=1e-4, rtol=1e-5)
