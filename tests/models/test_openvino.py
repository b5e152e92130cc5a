"""Image encoders through OpenVINO give what torch gives, are converted once, and tell nobody about it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.io import imread
from tifffile import imread as read_tiff

from napari_zeroseg import Prompt, load_model
from napari_zeroseg.devices import resolve_device, wants_openvino
from napari_zeroseg.errors import DeviceError
from napari_zeroseg.metrics import iou
from napari_zeroseg.models import openvino_encoder, vit
from napari_zeroseg.models.sam import SamNetwork


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache that the tests of this module share, so that MobileSAM is converted once."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def shared_cache(kept, own_folders, monkeypatch):
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(kept))


def _load(precision="float32"):
    return load_model(device="openvino", precision=precision)


def _folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "openvino").iterdir() if path.is_dir())


def _no_conversion(*args):
    raise AssertionError("converted although it was kept")


def test_embeddings_are_those_of_torch(model, synthetic_picture):
    picture = synthetic_picture(300, 450)
    through_openvino = _load()
    theirs = model.encode(picture).tensors["image"]
    ours = through_openvino.encode(picture).tensors["image"]
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)
    assert through_openvino.model_key.startswith(f"{model.model_key}-openvino")


def test_a_second_load_converts_nothing(kept, monkeypatch):
    _load()
    before = _folders(kept)
    monkeypatch.setattr(openvino_encoder, "convert", _no_conversion)
    _load()
    assert _folders(kept) == before
    assert not [name for name in before if name.endswith(".tmp")]


def test_another_process_converts_nothing_and_tells_nobody():
    """OpenVINO would report its import and each conversion over the network."""
    _load()
    code = """
import json, sys
from napari_zeroseg import load_model
from napari_zeroseg.models import openvino_encoder
converted = []
openvino_encoder.convert = lambda *a: converted.append(1)
load_model(device="openvino", precision="float32")
print(json.dumps([converted, [name for name in sys.modules if name.startswith("openvino_telemetry")]]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert json.loads(ran.stdout) == [[], []]


def test_telemetry_is_hidden_while_converting(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(tmp_path))
    code = """
import json, sys, torch
from napari_zeroseg.models import openvino_encoder
openvino_encoder.convert([torch.nn.Conv2d(3, 4, 3).requires_grad_(False)], torch.nn.Identity(), 16)
print(json.dumps(["openvino" in sys.modules, [name for name in sys.modules if name.startswith("openvino_telemetry")]]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert json.loads(ran.stdout) == [True, []]


def test_a_damaged_file_is_converted_again(kept, synthetic_picture, caplog):
    picture = synthetic_picture(64, 64)
    before = _load().encode(picture).tensors["image"]
    (folder,) = [name for name in _folders(kept) if "-f32-" in name]
    part = kept / "openvino" / folder / "part1.xml"
    part.write_bytes(part.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        again = _load()
    assert "damaged" in caplog.text
    torch.testing.assert_close(again.encode(picture).tensors["image"], before)
    caplog.clear()
    _load()
    assert "damaged" not in caplog.text


@pytest.fixture
def small():
    """SAM's ViT encoder with few and narrow blocks, and random weights."""
    torch.manual_seed(0)
    encoder = vit.image_encoder(vit.VitSize(channels=64, depth=3, heads=4, global_blocks=(1,)))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return SamNetwork(encoder).eval().requires_grad_(False)


@torch.inference_mode()
def test_a_vit_encoder(small):
    pixels = torch.randn((1, 3, 1024, 1024), generator=torch.Generator().manual_seed(1))
    encoder = openvino_encoder.OpenvinoEncoder(small, "small", torch.float32)
    torch.testing.assert_close(encoder(pixels), small.image_encoder(pixels), rtol=1e-3, atol=1e-4)


def test_where_nothing_can_be_kept(small, tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    monkeypatch.setenv("ZEROSEG_CACHE_DIR", str(blocked))
    encoder = openvino_encoder.OpenvinoEncoder(small, "small", torch.float32)
    assert encoder(torch.zeros(1, 3, 1024, 1024)).shape == (1, 256, 64, 64)
    assert "ZEROSEG_CACHE_DIR" in caplog.text


def test_other_versions_make_room(tmp_path):
    old, other, fresh = (tmp_path / name for name in ("abc-f32-2020.1-1", "xyz-f32-2020.1-1", "abc-f32-2030.1-1.tmp"))
    for folder in (old, other, fresh):
        folder.mkdir()
    openvino_encoder._sweep(tmp_path / "abc-f32-2030.1-1")
    assert not old.exists()
    assert other.exists()
    assert fresh.exists()


def test_without_the_package_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DeviceError, match=r"pip install napari-zeroseg\[openvino\]"):
        _load()


def test_models_without_it_say_so():
    assert wants_openvino("openvino")
    assert resolve_device("openvino") == torch.device("cpu")
    spec_error = "does not run through OpenVINO: choose cpu"
    with pytest.raises(DeviceError, match=spec_error):
        load_model("pa_sam_vit_b", weights={"mask_decoder.x": torch.zeros(1)}, device="openvino")


def test_the_setting_chooses_it(monkeypatch):
    monkeypatch.setenv("ZEROSEG_DEVICE", "openvino")
    assert "openvino" in load_model(precision="float32").model_key
    assert not wants_openvino("cpu")


@pytest.mark.real
def test_masks_stay_the_same_on_real_pictures(shared, model):
    """In what "auto" means here, against torch in float32."""
    data = shared / "data"
    raw, truth = (read_tiff(data / "em_vnc" / name) for name in ("raw.tif", "mitochondria.tif"))
    pictures = [(raw[8], truth[8] > 0), (raw[0, :512, 512:], truth[0, :512, 512:] > 0)]
    for path in sorted((data / "cxr" / "images").glob("*.png"))[:2]:
        image, lungs = imread(path), imread(path.parents[1] / "lungs" / path.name) == 255
        pictures.append((image if image.ndim == 2 else image[..., :3], lungs))
    quick = _load("auto")
    agreement = {"click": [], "box": []}
    for picture, mask in pictures:
        clicks, boxes = _prompts(mask)
        embeddings = quick.encode(picture), model.encode(picture)
        for kind, prompts in (("click", clicks), ("box", boxes)):
            ours = quick.predict(embeddings[0], prompts, kind == "click")
            theirs = model.predict(embeddings[1], prompts, kind == "click")
            agreement[kind] += [iou(a.mask, b.mask) for a, b in zip(ours, theirs, strict=True)]
    for kind, ious in agreement.items():
        assert len(ious) >= 12, kind
        assert np.mean(ious) >= 0.99, (kind, np.mean(ious))


def _prompts(truth):
    """Clicks on the innermost pixels and tight boxes of some of the larger objects."""
    regions, _ = ndimage.label(truth)
    clicks, boxes = [], []
    for number, (rows, columns) in enumerate(ndimage.find_objects(regions), 1):
        mask = regions[rows, columns] == number
        if mask.sum() >= 300:
            depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            clicks.append(Prompt([(rows.start + row, columns.start + column)]))
            boxes.append(Prompt(box=(rows.start, columns.start, rows.stop - 1, columns.stop - 1)))
    some = slice(None, None, max(1, len(clicks) // 8))
    return clicks[some], boxes[some]
