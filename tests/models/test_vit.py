"""SAM's ViT encoder in blocks gives what segment-anything's modules give."""

import copy

import pytest
import torch

from napari_zeroseg.models import vit

SMALL = vit.VitSize(channels=64, depth=3, heads=4, global_blocks=(1,))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    built = vit.image_encoder(SMALL).eval().requires_grad_(False)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return built


@pytest.fixture(scope="module")
def pixels():
    return torch.randn((1, 3, 1024, 1024), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_equals_the_modules(encoder, pixels):
    torch.testing.assert_close(vit.encode(encoder, pixels), encoder(pixels), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_several_pictures_at_once(encoder, pixels):
    both = vit.encode(encoder, torch.cat([pixels, pixels.flip(-1)]))
    torch.testing.assert_close(both[1:], vit.encode(encoder, pixels.flip(-1)), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_relative_positions_count(encoder, pixels):
    changed = copy.deepcopy(encoder)
    changed.blocks[1].attn.rel_pos_w.mul_(-1)
    assert (vit.encode(changed, pixels) - vit.encode(encoder, pixels)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "published"), [("vit_b", "sam_vit_b"), ("vit_l", "sam_vit_l"), ("vit_h", "sam_vit_h")]
)
def test_parameters_are_those_of_the_checkpoints(name, published, published_keys):
    with torch.device("meta"):
        built = vit.image_encoder(vit.SIZES[name])
    shapes = {f"image_encoder.{key}": list(tensor.shape) for key, tensor in built.state_dict().items()}
    wanted = {k: v for k, v in published_keys("sam")[published].items() if k.startswith("image_encoder.")}
    assert shapes == wanted
