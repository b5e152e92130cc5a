"""A PA-SAM decoder alone: its SAM is found where it is here, and another model's is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from napari_zeroseg.errors import WeightsError
from napari_zeroseg.registry import add_checkpoint, list_models
from napari_zeroseg.weights import adding
from napari_zeroseg.weights.cards import model_folder
from napari_zeroseg.weights.joining import joined, sam_at, sam_of, sams_here

SAM_B = {"image_encoder.patch_embed.proj.weight": torch.zeros(768, 3, 16, 16)}
DECODER = {"prompt_adapter.static_uncertain_token.weight": torch.zeros(1, 256)}


@pytest.fixture
def decoder(tmp_path):
    torch.save(DECODER, tmp_path / "decoder.pth")
    return tmp_path / "decoder.pth"


@pytest.fixture
def sam(tmp_path, monkeypatch):
    """A file in a folder of the user's that is called as SAM ViT-B."""
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("ZEROSEG_MODELS", str(tmp_path / "mine"))
    torch.save(SAM_B, tmp_path / "mine" / "sam_vit_b.pth")
    return tmp_path / "mine" / "sam_vit_b.pth"


def test_the_sam_that_is_here_is_found(decoder, sam):
    assert sams_here() == {"sam_vit_b": sam}
    assert sam_of(decoder, "pa_sam_vit_b") == sam_at("sam_vit_b") == sam_at(str(sam)) == sam
    for key in (None, "pa_sam_vit_l", "sam_vit_b"):
        assert sam_of(decoder, key) is None
    assert sam_of(sam, "pa_sam_vit_b") is None  # no decoder alone
    with pytest.raises(WeightsError, match=r"SAM ViT-L are not on this machine: download them"):
        sam_at("sam_vit_l")
    with joined(decoder, sam) as (file, origin):
        assert len(load_file(file)) == 2
        assert origin == f"{decoder} and {sam}"
    with pytest.raises(WeightsError, match=r"These weights are not PA-SAM ViT-B's|PA-SAM ViT-B.* lacks"):
        add_checkpoint(decoder, "pa_sam_vit_b")  # joined, and found to be too little for a model


def test_which_one_is_here_is_said(decoder, sam):
    specs = {spec.key: spec for spec in list_models()}
    with pytest.raises(WeightsError, match=r"--with SAM_CHECKPOINT`, which can be sam_vit_b\."):
        adding.add_checkpoint(decoder, specs)


def test_another_models_file_is_no_sam(decoder, tmp_path):
    torch.save(SAM_B, tmp_path / "medsam_vit_b.pth")
    with pytest.raises(
        WeightsError, match=r"holds the weights of medsam_vit_b, and PA-SAM's decoder was trained on SAM"
    ):
        add_checkpoint(decoder, beside=tmp_path / "medsam_vit_b.pth")
    specs = {spec.key: spec for spec in list_models()}
    torch.save(SAM_B, tmp_path / "file.pth")
    adding.add_checkpoint(tmp_path / "file.pth", specs, "medsam_vit_b_2023_04")
    with pytest.raises(WeightsError, match=r"holds the weights of medsam_vit_b_2023_04, and"):
        add_checkpoint(decoder, beside=model_folder("medsam_vit_b_2023_04") / "file.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth is no SAM \(its entries are unknown here\)\. Give that which"):
        add_checkpoint(decoder, beside=tmp_path / "other.pth")
