"""Memory that runs out, in all the words that there are for it."""

from __future__ import annotations

import pytest
import torch

from napari_zeroseg import devices, load_model
from napari_zeroseg.devices import is_out_of_memory
from napari_zeroseg.errors import DeviceError, DeviceMemoryError, InputTypeError
from napari_zeroseg.registry import MOBILE_SAM
from napari_zeroseg.weights import precisions


def test_the_processors_own_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "MPS backend out of memory (MPS allocated: 8 GB)",
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "std::bad_alloc",
    ],
)
def test_others_words(words):
    assert is_out_of_memory(RuntimeError(words))


def test_what_is_something_else():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_what_torch_keeps_in_reserve_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 6000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 500)
    assert devices.free_memory(torch.device("cuda")) == 6500
    assert devices.free_memory(torch.device("cpu")) > 0


def test_room_is_looked_at_before_weights_are_read(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda _: 7 * 10**8)
    # its weights are not on this machine, but that is not what is said first
    with pytest.raises(DeviceMemoryError, match=r"SAM ViT-H needs about .* GB on cpu, 0.7 GB are free: use mobile_sam"):
        load_model("sam_vit_h", device="cpu")


def test_nothing_is_named_that_does_not_fit_either(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda _: 10**8)
    with pytest.raises(DeviceMemoryError, match=r"0.1 GB are free: close other programs\.$"):
        load_model("sam_vit_h", device="cpu")


def test_the_largest_of_the_family_that_fits_is_named(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda _: 2 * 10**9)
    with pytest.raises(DeviceMemoryError, match=r"use sam_vit_b, or close other programs"):
        load_model("sam_vit_h", device="cpu", precision="float32")


def test_reading_may_take_more_than_encoding(monkeypatch):
    """In bf16 the file's float32 and the shorter copy are both there for a while."""
    monkeypatch.setattr(devices, "free_memory", lambda _: 3 * 10**9)
    with pytest.raises(DeviceMemoryError, match=r"needs about 3\.8 GB on cpu, 3\.0 GB are free: use sam_vit_l"):
        load_model("sam_vit_h", device="cpu", precision="bf16")


def test_a_model_of_words_is_not_replaced_by_one_without(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda _: 10**8)
    with pytest.raises(DeviceMemoryError, match=r"on cpu, 0\.1 GB are free: close other programs\.$"):
        load_model("clipseg_rd16", device="cpu")


def test_weights_that_need_float32_need_its_room(monkeypatch, tmp_path):
    monkeypatch.setenv("ZEROSEG_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(devices, "_native_precision", lambda _: torch.bfloat16)
    monkeypatch.setattr(devices, "free_memory", lambda _: 4 * 10**8)
    assert "bfloat16" in load_model("mobile_sam", device="cpu").model_key
    precisions.keep(MOBILE_SAM.weights.sha256, "cpu", "bf16", unchanged=False)
    with pytest.raises(DeviceMemoryError, match=r"MobileSAM needs about 0\.6 GB on cpu, 0\.4 GB are free: close other"):
        load_model("mobile_sam", device="cpu")
    # where the weights are given it shows when they have been read, and only what is more is asked for then
    assert "float32" in load_model("mobile_sam", weights=MOBILE_SAM.weights.path, device="cpu").model_key
    room = iter([4 * 10**8, 4 * 10**8])  # looked at twice before
    monkeypatch.setattr(devices, "free_memory", lambda _: next(room, 2 * 10**8))
    with pytest.raises(DeviceMemoryError, match=r"needs about 0\.3 GB on cpu, 0\.2 GB are free"):
        load_model("mobile_sam", weights=MOBILE_SAM.weights.path, device="cpu")


def test_medsam_gives_way_to_its_own_small_model(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda _: 7 * 10**8)
    with pytest.raises(DeviceMemoryError, match=r"MedSAM needs about 1\.6 GB .*: use lite_medsam, or close"):
        load_model("medsam_vit_b", device="cpu", precision="float32")


def test_a_device_is_a_text():
    with pytest.raises(DeviceError, match="named by a text such as 'auto'"):
        load_model(device=None)


def test_a_key_is_a_text():
    with pytest.raises(InputTypeError, match="named by its key, such as 'mobile_sam'; got list"):
        load_model(["mobile_sam"])
