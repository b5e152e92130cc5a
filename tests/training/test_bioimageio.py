"""A class segmenter as a package of the BioImage Model Zoo: what is in it, and that it answers as the model does."""

from __future__ import annotations

import gc
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import napari_zeroseg as zs
from napari_zeroseg.cli import main
from napari_zeroseg.training.classes import ClassHead
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.networks import Network
from napari_zeroseg.training.result import register
from napari_zeroseg.weights.cards import CLASS_HEAD

from .conftest import CARD

SIDE = 512


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A model in the list with a class head, which has learnt nothing."""
    torch.manual_seed(0)
    head = ClassHead()
    save_file(head.state_dict(), tmp_path / "head.safetensors", {"side": str(SIDE)})
    network = Network(TrainingConfig("a", (("x", "y"),), device="cpu", precision="float32"))
    register(
        "mine",
        network.model.spec,
        network.form,
        network.base_tensors,
        CARD,
        {CLASS_HEAD: tmp_path / "head.safetensors"},
    )
    return "mine"


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:DeprecationWarning")
def test_it_answers_as_the_model_does(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "zoo.zip"
    assert main(["export", mine, str(path), "--bioimageio", "A. Person"]) == 0
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("rdf.yaml"))
        traced = torch.jit.load(io.BytesIO(archive.read("weights.pt")))
        given, expected = (np.load(io.BytesIO(archive.read(f"test_{name}.npy"))) for name in ("input", "output"))
        assert b"# mine" in archive.read("README.md")
    assert about["authors"] == [{"name": "A. Person"}]
    assert about["license"] == "Apache-2.0"
    assert [axis.get("size") for axis in about["inputs"][0]["axes"]] == [1, None, SIDE, SIDE]
    found = traced(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    model = zs.load_model(mine, device="cpu", precision="float32")
    plane = given[0, 0].astype(np.uint8)
    ours = zs.segment_class(model, zs.View(model, plane)).probability
    # the window is brought to 1024 pixels in whole grey values there, and its embedding kept in half precision
    assert np.abs(found[0, 0] - ours).mean() < 0.01
    assert main(["export", mine, str(path), "--bioimageio", "A. Person"]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file:ResourceWarning")
def test_the_description_is_valid(mine: str, tmp_path: Path) -> None:
    from bioimageio import spec

    assert main(["export", mine, str(tmp_path / "zoo.zip"), "--bioimageio", "A. Person"]) == 0
    with zipfile.ZipFile(tmp_path / "zoo.zip") as archive:
        summary = spec.load_description(archive).validation_summary
    assert summary.status != "failed", summary.format()
    gc.collect()  # bioimageio.spec leaves files open, which is told here and of no other test


def test_what_cannot_be_described_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "mobile_sam", str(tmp_path / "a.zip"), "--bioimageio", "A. Person"]) == 1
    assert "has learnt no class" in capsys.readouterr().err
    assert main(["export", "mobile_sam", str(tmp_path / "a.zip"), "--bioimageio", " "]) == 1
    assert "asks who trained" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
