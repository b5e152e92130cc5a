"""Whose weights a file holds, told from its parameters; and SAM's names in transformers against the publisher's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_zeroseg.catalogue import FORMS
from napari_zeroseg.errors import WeightsError
from napari_zeroseg.models import sam_modules
from napari_zeroseg.registry import list_models
from napari_zeroseg.weights import detect_layout, read_weights
from napari_zeroseg.weights.layouts import known_models
from napari_zeroseg.weights.transformers_sam import GAUSSIAN, convert_transformers_sam

DATA = Path(__file__).parents[1] / "data"
PA = "prompt_adapter.static_uncertain_token.weight"
TINY = "image_encoder.patch_embed.seq.0.c.weight"
OFFICIAL = "image_encoder.patch_embed.proj.weight"
HUB = "vision_encoder.patch_embed.projection.weight"
LIKE_SAM_B = {"sam_vit_b", "medsam_vit_b", "medsam_vit_b_2023_04"}
CLIPSEG_HUB = ("decoder.reduces.0.weight", "decoder.film_mul.weight", "decoder.transposed_convolution")
CLIPSEG_OWN = ("reduces.0.weight", "film_mul.weight", "trans_conv")


def _clipseg(names: tuple[str, str, str], channels: int, refined: bool) -> dict[str, tuple[int, ...]]:
    last = f"{names[2]}.{'0.' if refined else ''}weight"
    return {names[0]: (channels, 768), names[1]: (channels, 512), last: (channels, 1, 4, 4)}


@pytest.mark.parametrize(
    ("shapes", "told", "candidates"),
    [
        ({OFFICIAL: (768, 3, 16, 16)}, "sam_vit_b", LIKE_SAM_B),
        ({OFFICIAL: (1024, 3, 16, 16)}, "sam_vit_l", {"sam_vit_l"}),
        ({OFFICIAL: (1280, 3, 16, 16)}, "sam_vit_h", {"sam_vit_h"}),
        ({OFFICIAL: (32, 3, 16, 16)}, "sam", set()),
        ({HUB: (768, 3, 16, 16)}, "sam_vit_b in transformers' layout", LIKE_SAM_B),
        ({HUB: (1280, 3, 16, 16)}, "sam_vit_h in transformers' layout", {"sam_vit_h"}),
        ({PA: (1, 256)}, "pa_sam, the decoder alone", {"pa_sam_vit_b", "pa_sam_vit_l", "pa_sam_vit_h"}),
        ({TINY: (32, 3, 3, 3), f"mask_decoder.{PA}": (1, 256)}, "pa_sam_vit_t", {"pa_mobile_sam"}),
        ({OFFICIAL: (1024, 3, 16, 16), f"mask_decoder.{PA}": (1, 256)}, "pa_sam_vit_l", {"pa_sam_vit_l"}),
        (_clipseg(CLIPSEG_HUB, 64, True), "clipseg_rd64_refined in transformers' layout", {"clipseg_rd64_refined"}),
        (_clipseg(CLIPSEG_HUB, 64, False), "clipseg_rd64 in transformers' layout", {"clipseg_rd64"}),
        (_clipseg(CLIPSEG_HUB, 16, False), "clipseg_rd16 in transformers' layout", {"clipseg_rd16"}),
        (_clipseg(CLIPSEG_OWN, 64, True), "clipseg_rd64_refined, the decoder alone", {"clipseg_rd64_refined"}),
        (_clipseg(CLIPSEG_OWN, 64, False) | {"model.proj": (768, 512)}, "clipseg_rd64", {"clipseg_rd64"}),
        (_clipseg(CLIPSEG_OWN, 16, False), "clipseg_rd16, the decoder alone", {"clipseg_rd16"}),
        (_clipseg(CLIPSEG_HUB, 8, False), "clipseg in transformers' layout", set()),
    ],
)
def test_families_sizes_and_forms(shapes, told, candidates):
    layout = detect_layout(shapes)
    assert str(layout) == told
    assert layout.candidates == candidates


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_published_tables(size):
    sam = json.loads((DATA / "sam_keys.json").read_text())[f"sam_{size}"]
    assert str(detect_layout(sam)) == f"sam_{size}"
    pa_sam = json.loads((DATA / "pa_sam_keys.json").read_text())
    assert str(detect_layout(pa_sam["merged_checkpoint_vit_b"])) == "pa_sam_vit_b"
    assert str(detect_layout(pa_sam["decoder_checkpoint"])) == "pa_sam, the decoder alone"


def test_what_nobody_knows():
    assert detect_layout({"conv1.weight": (64, 3, 7, 7)}) is None
    assert detect_layout({}) is None


def test_all_candidates_are_in_the_list():
    assert known_models() <= {spec.key for spec in (*list_models(), *FORMS)}


def test_the_embedded_file_and_the_official_ones():
    spec = list_models()[0]
    assert str(read_weights(None, spec.weights, spec.title).layout) == "mobile_sam"


@pytest.mark.real
@pytest.mark.parametrize("name", ["mobile_sam.pt", "lite_medsam.pth"])
def test_official_files_of_tiny_encoders(shared, name):
    weights = read_weights(shared / "weights" / name, list_models()[0].weights, name)
    assert weights.layout.candidates == {name.partition(".")[0]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
class TestTransformers:
    """A small random SamModel against the publisher's modules of the same sizes, with the renamed weights."""

    SIDE, PATCH, WIDTH, CHANNELS = 64, 16, 32, 16

    @pytest.fixture(scope="class")
    def hub(self):
        from transformers import SamConfig, SamModel

        vision = {"hidden_size": self.WIDTH, "output_channels": self.CHANNELS, "num_hidden_layers": 2}
        vision |= {"num_attention_heads": 2, "image_size": self.SIDE, "patch_size": self.PATCH, "window_size": 2}
        vision |= {"global_attn_indexes": [1], "mlp_dim": 64, "mlp_ratio": 2.0, "num_pos_feats": self.CHANNELS // 2}
        prompts = {"hidden_size": self.CHANNELS, "image_size": self.SIDE, "patch_size": self.PATCH}
        prompts |= {"mask_input_channels": 4}
        decoder = {"hidden_size": self.CHANNELS, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        decoder |= {"iou_head_hidden_dim": 24}
        torch.manual_seed(0)
        model = SamModel(
            SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
        ).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # what starts as zeros or ones could be lost without anybody noticing
                parameter.copy_(torch.randn_like(parameter) * (0.5 if "norm" in name else 0.2) + ("norm" in name))
        return model

    @pytest.fixture(scope="class")
    def official(self):
        package = sam_modules.modeling()
        grid = self.SIDE // self.PATCH
        encoder = package.ImageEncoderViT(
            img_size=self.SIDE,
            patch_size=self.PATCH,
            embed_dim=self.WIDTH,
            depth=2,
            num_heads=2,
            mlp_ratio=2.0,
            out_chans=self.CHANNELS,
            norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
            use_rel_pos=True,
            window_size=2,
            global_attn_indexes=(1,),
        )
        prompts = package.PromptEncoder(
            embed_dim=self.CHANNELS,
            image_embedding_size=(grid, grid),
            input_image_size=(self.SIDE, self.SIDE),
            mask_in_chans=4,
        )
        transformer = package.TwoWayTransformer(depth=2, embedding_dim=self.CHANNELS, num_heads=2, mlp_dim=32)
        decoder = package.MaskDecoder(
            transformer_dim=self.CHANNELS, transformer=transformer, num_multimask_outputs=3, iou_head_hidden_dim=24
        )
        modules = {"image_encoder": encoder, "prompt_encoder": prompts, "mask_decoder": decoder}
        return nn.ModuleDict(modules).eval()

    def test_the_same_names_and_the_same_numbers(self, hub, official):
        official.load_state_dict(convert_transformers_sam(hub.state_dict()), strict=True)
        picture = torch.randn(1, 3, self.SIDE, self.SIDE)
        points, labels = torch.tensor([[[10.0, 20.0], [40.0, 33.0]]]), torch.tensor([[1, 0]])
        mask = torch.randn(1, 1, self.SIDE // 4, self.SIDE // 4)
        with torch.inference_mode():
            embedding = official["image_encoder"](picture)
            sparse, dense = official["prompt_encoder"]((points, labels), None, mask)
            masks, scores = official["mask_decoder"](
                embedding, official["prompt_encoder"].get_dense_pe(), sparse, dense, multimask_output=True
            )
            theirs = hub(pixel_values=picture, input_points=points[None], input_labels=labels[None], input_masks=mask)
            own = hub.get_image_embeddings(picture)
        np.testing.assert_allclose(embedding, own, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(masks, theirs.pred_masks[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(scores, theirs.iou_scores[0], rtol=1e-3, atol=1e-4)

    def test_the_published_sizes(self):
        from transformers import SamConfig, SamModel

        with torch.device("meta"):
            state = SamModel(SamConfig()).state_dict()
        del state["prompt_encoder.shared_embedding.positional_embedding"]  # nothing to compare it with on "meta"
        shapes = {name: list(tensor.shape) for name, tensor in convert_transformers_sam(state).items()}
        assert shapes == json.loads((DATA / "sam_keys.json").read_text())["sam_vit_b"]

    def test_the_shared_matrix_may_stand_under_one_name(self, hub):
        state = hub.state_dict()
        first, second = [name for name in state if name.endswith("positional_embedding")]
        for left_out in (first, second):
            fewer = {name: tensor for name, tensor in state.items() if name != left_out}
            assert torch.equal(convert_transformers_sam(fewer)[GAUSSIAN], state[first])
        with pytest.raises(WeightsError, match="must be one matrix but differ"):
            convert_transformers_sam({**state, second: state[second] + 1})

    def test_an_entry_too_many(self, hub):
        state = {**hub.state_dict(), "hf_mlp.weight": torch.zeros(1), "vision_encoder.pos_embed_2": torch.zeros(1)}
        with pytest.raises(
            WeightsError, match=r"2 entries have no place in it, first hf_mlp\.weight, vision_encoder\.p"
        ):
            convert_transformers_sam(state)

    def test_a_folder_that_it_saved(self, hub, tmp_path):
        hub.save_pretrained(tmp_path)
        spec = list_models()[0]
        read = read_weights(tmp_path, spec.weights, "SAM")
        assert str(read.layout) == "sam in transformers' layout"
        assert read.folder == tmp_path
        converted = convert_transformers_sam(hub.state_dict())
        assert read.tensors.keys() == converted.keys()
        assert all(torch.equal(read.tensors[name], converted[name]) for name in converted)
