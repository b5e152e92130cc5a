"""PA-SAM's decoder against numbers of the published one; batches, layouts and the training form."""

import numpy as np
import pytest
import torch

from napari_zeroseg import Prompt
from napari_zeroseg.catalogue import BUILT_IN
from napari_zeroseg.errors import WeightsError
from napari_zeroseg.models import pa_sam, sam_modules
from napari_zeroseg.models.canny import canny
from napari_zeroseg.models.pa_decoder import GumbelTopK, PaMaskDecoder, guiding_input
from napari_zeroseg.models.pipelines import SamPipeline
from napari_zeroseg.models.prompt_embedding import PromptEmbedding
from napari_zeroseg.weights import Weights

CPU = torch.device("cpu")
SPECS = {spec.key: spec for spec in BUILT_IN}
KINDS = ("point", "points2", "box", "both", "mask")


@pytest.fixture(scope="module")
def numbers(reference):
    return reference("pa_sam")


@pytest.fixture(scope="module")
def parts(fill):
    decoder, encoder = PaMaskDecoder().eval().requires_grad_(False), sam_modules.prompt_encoder().eval()
    fill(decoder, "mask_decoder.")
    fill(encoder.requires_grad_(False), "prompt_encoder.")
    return decoder, encoder


@pytest.fixture(scope="module")
def inputs(generated, synthetic_picture):
    image = torch.from_numpy(generated("fixture.image_embedding", (1, 256, 64, 64)))
    return image, guiding_input(SamPipeline().pixels(synthetic_picture(1024, 1024)))


def prompt_of(kind, numbers):
    """Points, labels, box and mask prompt in the 1024 frame."""
    points, labels, box, mask = torch.zeros((0, 2)), torch.zeros(0), None, None
    if kind in ("point", "both"):
        points, labels = torch.tensor(numbers["point_xy"]).float(), torch.ones(1)
    if kind == "points2":
        points, labels = torch.tensor(numbers["points2_xy"]).float(), torch.tensor(numbers["points2_labels"])
    if kind in ("box", "both"):
        box = torch.tensor(numbers["box_xyxy"]).float()
    if kind == "mask":
        bits = np.unpackbits(numbers["mask_bits"]).reshape(256, 256)
        mask = torch.from_numpy(bits.astype(np.float32) * float(numbers["mask_value"]))
    return points, labels, box, mask


def answer(kinds, numbers, parts, inputs, noise=None):
    decoder, encoder = parts
    image, guiding = inputs
    prompts = PromptEmbedding(encoder, CPU)
    embedded = prompts.embed(*(list(column) for column in zip(*(prompt_of(k, numbers) for k in kinds), strict=True)))
    signs = torch.cat([encoder.point_embeddings[0].weight, encoder.point_embeddings[1].weight])
    return decoder(
        image,
        decoder.guide(guiding),
        encoder.get_dense_pe(),
        embedded.tokens,
        embedded.valid,
        prompts.dense(embedded),
        signs,
        noise,
    )


def check(one, kind, numbers, row=0):
    np.testing.assert_allclose(one.logits[row, 0, ::2, ::2], numbers[f"{kind}/low_res_s2"], atol=2e-4)
    np.testing.assert_allclose(one.scores[row], numbers[f"{kind}/iou_all4"], atol=2e-4)
    for name in ("uncertain", "coarse", "refined"):
        found = getattr(one, name)[row, ::2, ::2]
        np.testing.assert_allclose(found, numbers[f"{kind}/{name}_64_s2"], atol=2e-4)
    np.testing.assert_array_equal(one.positive[row], numbers[f"{kind}/pos_idx"])
    np.testing.assert_array_equal(one.negative[row], numbers[f"{kind}/neg_idx"])


def test_guiding_input(inputs, numbers):
    _, guiding = inputs
    np.testing.assert_allclose(guiding[0, :, ::8, ::8], numbers["guiding_input_s8"], atol=1e-6)
    np.testing.assert_array_equal(np.packbits(guiding[0, 3].numpy() > 0), numbers["canny_bits"])


@torch.inference_mode()
def test_guiding_features(parts, inputs, numbers):
    features = parts[0].guide(inputs[1])[0].T.reshape(256, 64, 64)
    np.testing.assert_allclose(features[:, ::8, ::8], numbers["guiding_s8"], atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_one_prompt(kind, numbers, parts, inputs):
    check(answer([kind], numbers, parts, inputs), kind, numbers)


@torch.inference_mode()
def test_prompts_of_a_batch_do_not_know_of_each_other(numbers, parts, inputs):
    together = answer(KINDS[:4], numbers, parts, inputs)
    for row, kind in enumerate(KINDS[:4]):
        check(together, kind, numbers, row)


def test_training_form_lets_gradients_pass(numbers, parts, inputs):
    decoder, encoder = PaMaskDecoder(), parts[1]
    decoder.load_state_dict(parts[0].state_dict())
    noise = GumbelTopK(generator=torch.Generator().manual_seed(0))
    out = answer(["box"], numbers, (decoder, encoder), inputs, noise)
    out.logits.mean().backward()
    weight = decoder.prompt_adapter.refined_mlp.layers[0].weight
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()
    assert weight.grad.abs().max() > 0
    assert len(set(out.positive[0].tolist())) == 4


def test_edges_of_a_square():
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[5:15, 8:20] = 200
    edges = canny(picture, 10, 100)
    assert edges[5, 10:18].all() or edges[4, 10:18].all()
    assert not edges[8:12, 11:17].any()
    assert not edges[:3].any()


class TestLayouts:
    def test_parameters_are_those_of_the_checkpoint(self, published_keys):
        shapes = {key: list(tensor.shape) for key, tensor in PaMaskDecoder().state_dict().items()}
        assert shapes == published_keys("pa_sam")["decoder_checkpoint"]

    def test_bare_decoder_says_what_it_lacks(self, weights_by_rule, published_keys):
        shapes = {f"mask_decoder.{k}": v for k, v in published_keys("pa_sam")["decoder_checkpoint"].items()}
        bare = {k.removeprefix("mask_decoder."): t for k, t in weights_by_rule(shapes).items()}
        with pytest.raises(WeightsError, match="decoder alone"):
            pa_sam.build_network(SPECS["pa_sam_vit_b"], bare)

    @pytest.mark.slow
    def test_merged_equals_decoder_and_sam_together(self, weights_by_rule, published_keys, synthetic_picture):
        whole = weights_by_rule(published_keys("pa_sam")["merged_checkpoint_vit_b"])
        bare = {k.removeprefix("mask_decoder."): t for k, t in whole.items() if k.startswith("mask_decoder.")}
        sam = {
            k.replace("mask_decoder_ori.", "mask_decoder."): t
            for k, t in whole.items()
            if not k.startswith("mask_decoder.")
        }
        assert pa_sam.merge(bare, sam).keys() == whole.keys()
        model = pa_sam.build(SPECS["pa_sam_vit_b"], Weights(pa_sam.merge(bare, sam), "0" * 64), CPU, torch.bfloat16)
        embedding = model.encode(synthetic_picture(300, 400))
        prompts = [Prompt(points=[(120, 200)]), Prompt(box=(50, 60, 250, 300)), Prompt(points=[(1, 2), (9, 9)])]
        batch = model.predict(embedding, prompts)
        alone = [model.predict(embedding, [prompt])[0] for prompt in prompts]
        for one, other in zip(batch, alone, strict=True):
            assert one.masks.shape == (1, 300, 400)
            np.testing.assert_allclose(one.logits, other.logits, atol=2e-4)
        other = model.encode(synthetic_picture(400, 300))
        several = model.predict_each([embedding, other, embedding], [prompts[0], *prompts[:2]])
        apart = [*model.predict(embedding, prompts[:1]), *model.predict(other, prompts[:1])]
        for one, alone in zip(several, [*apart, *model.predict(embedding, prompts[1:2])], strict=True):
            np.testing.assert_allclose(one.logits, alone.logits, atol=2e-4)
