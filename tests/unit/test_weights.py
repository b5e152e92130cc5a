"""Weights of all sorts, whole and broken; pickles that want more are refused."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_zeroseg import load_model
from napari_zeroseg.errors import WeightsError
from napari_zeroseg.registry import MOBILE_SAM
from napari_zeroseg.weights import is_there, read_weights

EMBEDDED = MOBILE_SAM.weights


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(EMBEDDED.path)


def _read(weights):
    return read_weights(weights, EMBEDDED, "MobileSAM")


def test_our_own_are_verified():
    found = _read(None)
    assert found.sha256 == EMBEDDED.sha256
    assert len(found.tensors) == 439


def test_all_ways_of_giving_the_same_weights(tmp_path, tensors):
    torch.save(tensors, tmp_path / "plain.pt")
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "in_model.pth")
    torch.save({"state_dict": tensors}, tmp_path / "in_state_dict.pt")
    save_file(tensors, tmp_path / "copy.safetensors")
    for given in (*sorted(tmp_path.iterdir()), str(tmp_path / "plain.pt"), tensors):
        found = _read(given).tensors
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_state_dicts_are_told_apart_by_their_values(tensors):
    changed = dict(tensors)
    key = "image_encoder.neck.0.weight"
    changed[key] = changed[key] + 1
    assert _read(dict(tensors)).sha256 == _read(tensors).sha256 != _read(changed).sha256


def test_a_damaged_file_of_ours_is_found_by_its_hash(tmp_path):
    copy = tmp_path / "assets.safetensors"
    shutil.copy(EMBEDDED.path, copy)
    with copy.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\x00\x01\x02")
    damaged = replace(EMBEDDED, location=f"embedded:{copy}")
    assert damaged.path == copy
    assert is_there(damaged)
    with pytest.raises(WeightsError, match=r"damaged \(wrong sha256\): reinstall napari-zeroseg"):
        read_weights(None, damaged, "MobileSAM")


def test_ours_missing_or_cut_short_are_not_ready(tmp_path):
    missing = replace(EMBEDDED, location=f"embedded:{tmp_path / 'none.safetensors'}")
    assert not is_there(missing)
    assert replace(MOBILE_SAM, weights=missing).state == "bring a file"
    with pytest.raises(WeightsError, match=r"The weights of MobileSAM are not at .*: reinstall napari-zeroseg"):
        read_weights(None, missing, "MobileSAM")
    short = tmp_path / "short.safetensors"
    short.write_bytes(EMBEDDED.path.read_bytes()[:1000])
    assert not is_there(replace(EMBEDDED, location=f"embedded:{short}"))


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"are not at .*: give the path of a \.pt, \.pth or \.safetensors file"):
        load_model(weights=tmp_path / "none.pt")
    with pytest.raises(WeightsError, match=r"folder .* holds no weights: transformers saves model\.safetensors or"):
        load_model(weights=tmp_path)


@pytest.mark.parametrize("name", ["file.safetensors", "file.pt", "file.pth"])
@pytest.mark.parametrize("content", ["", "text", "truncated"])
def test_files_that_are_no_weights(tmp_path, tensors, name, content):
    path = tmp_path / name
    few = {"a": torch.arange(1000.0)}
    save_file(few, path) if path.suffix == ".safetensors" else torch.save(few, path)
    whole = path.read_bytes()
    path.write_bytes({"": b"", "text": b"Dear reader,\n" * 50, "truncated": whole[: len(whole) // 2]}[content])
    with pytest.raises(WeightsError, match=rf"{name} is (damaged|empty|not a plain file of weights)"):
        load_model(weights=path)


@pytest.mark.parametrize("new_form", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's remark on a damaged first byte
def test_a_file_with_wrong_bytes_anywhere_is_read_or_refused(tmp_path, new_form):
    path = tmp_path / "bytes.pt"
    torch.save({"a.b": torch.arange(10.0), "c": torch.zeros(2, 3)}, path, _use_new_zipfile_serialization=new_form)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(700, len(whole)), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            _read(path)
        except WeightsError:
            refused += 1
    assert refused > 100


class _Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["torch", "pickle", "old torch"])
def test_a_pickle_that_wants_to_run_code_does_not(tmp_path, tensors, form):
    touched = tmp_path / "ran"
    path = tmp_path / "evil.pt"
    held = {"image_encoder.head.bias": torch.zeros(3), "extra": _Trap(touched)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(held, protocol=2))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(WeightsError, match=r"wants to run code when it is opened, which is refused\. Convert it"):
        load_model(weights=path)
    assert not touched.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert touched.exists()  # the trap was a real one


def test_a_file_of_other_things(tmp_path):
    torch.save({"epoch": 3, "loss": [1.0, 2.0]}, tmp_path / "log.pt")
    with pytest.raises(WeightsError, match=r"holds no table of tensors: give a checkpoint, such as mobile_sam\.pt"):
        load_model(weights=tmp_path / "log.pt")


def test_weights_of_another_model_are_named(tensors):
    renamed = {f"vision.{key}": value for key, value in tensors.items()}
    with pytest.raises(WeightsError, match=r"not MobileSAM's: the file lacks 439 entries, first .*Choose the model"):
        load_model(weights=renamed)
    with pytest.raises(WeightsError, match="has besides 1 entries, first adapter"):
        load_model(weights={**tensors, "adapter": torch.zeros(1)})
    key = "mask_decoder.iou_token.weight"
    with pytest.raises(WeightsError, match=f"has in another shape 1 entries, first {key}"):
        load_model(weights={**tensors, key: torch.zeros(2, 256)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(tensors, value):
    key = "image_encoder.layers.1.blocks.0.mlp.fc1.weight"
    broken = tensors[key].clone()
    broken[3, 3] = value
    with pytest.raises(WeightsError, match=rf"NaN or infinite numbers \(in {key}\)"):
        load_model(weights={**tensors, key: broken})


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_whole_numbers_where_floats_belong(tensors, dtype):
    key = "mask_decoder.iou_token.weight"
    with pytest.raises(
        WeightsError, match=rf"1 entries hold {str(dtype).removeprefix('torch.')}, first {key}: quantised weights"
    ):
        load_model(weights={**tensors, key: tensors[key].to(dtype)})


def test_a_state_dict_of_numpy_arrays_is_taken(tensors):
    arrays = {key: value.numpy() for key, value in tensors.items()}
    assert load_model(weights=arrays).model_key == load_model(weights=tensors).model_key


def test_a_mapping_of_other_things_is_refused():
    with pytest.raises(WeightsError, match="must be tensors; 'a' is str"):
        load_model(weights={"a": "b"})
    with pytest.raises(WeightsError, match="must be tensors; 'a' is ndarray of <U1"):
        load_model(weights={"a": np.array(["b"])})
