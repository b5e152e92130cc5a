"""Reading, hashing and copying stop between two blocks, and what is stopped is not called damaged."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from napari_zeroseg.errors import CancelledError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.registry import MOBILE_SAM, add_checkpoint
from napari_zeroseg.weights import adding, reading
from napari_zeroseg.weights.blocks import copy_file
from napari_zeroseg.weights.cards import model_folder
from napari_zeroseg.weights.reading import hash_again, hash_of_file, read_file


class Soon(CancelToken):
    """A user who stops the work after it has looked so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    @property
    def cancelled(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(params=["zip", "legacy", "safetensors"])
def file(request, tmp_path):
    tensors = {f"layer{i}": torch.rand(400_000) for i in range(3)}
    path = tmp_path / ("file.safetensors" if request.param == "safetensors" else "file.pth")
    if request.param == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=request.param == "zip")
    return path


def test_what_is_not_stopped_is_read_as_ever(file):
    plain, watched = read_file(file), read_file(file, cancel=CancelToken())
    assert plain.sha256 == watched.sha256 == hash_of_file(file) == hash_again(file)
    assert all(torch.equal(tensor, watched.tensors[name]) for name, tensor in plain.tensors.items())


@pytest.mark.parametrize("looks", [0, 2])
def test_reading(file, looks):
    with pytest.raises(CancelledError):
        read_file(file, cancel=Soon(looks))


def test_hashing_and_copying(file, tmp_path):
    reading._hashes.clear()
    for work in (hash_again, hash_of_file, lambda path, cancel: copy_file(path, tmp_path / "copy", cancel)):
        with pytest.raises(CancelledError):
            work(file, cancel=Soon(2))
    assert (tmp_path / "copy").stat().st_size < file.stat().st_size
    copy_file(file, tmp_path / "copy")
    assert hash_again(tmp_path / "copy") == hash_of_file(file)


@pytest.mark.parametrize("step", ["read_file", "copy_file"])
def test_nothing_half_made_stays_of_an_adding(monkeypatch, step):
    token = CancelToken()

    def stopped(*given, **options):
        token.cancel()
        return doing(*given, **options)

    doing = getattr(adding, step)
    monkeypatch.setattr(f"napari_zeroseg.weights.adding.{step}", stopped)
    with pytest.raises(CancelledError):
        add_checkpoint(MOBILE_SAM.weights.path, name="mine", cancel=token)
    assert not model_folder("mine").exists()
