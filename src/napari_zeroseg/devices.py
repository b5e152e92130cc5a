"""Devices and precisions: what "auto" means here, and what a device cannot do."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

# OpenMP reads this once, when torch loads it. Waiting threads that spin take the processor from the window and from
# other programs; on a busy machine they slow the model itself down several times.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from napari_zeroseg import memory
from napari_zeroseg.errors import DeviceError, DeviceMemoryError
from napari_zeroseg.settings import Settings

OPENVINO = "openvino"
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def has_openvino() -> bool:
    """Whether OpenVINO is installed; imports nothing."""
    return importlib.util.find_spec("openvino") is not None


def wants_openvino(name: str = "auto") -> bool:
    """Whether `name`, or what the settings have for "auto", is "openvino": image encoders through OpenVINO on the CPU.

    Raises
    ------
    DeviceError
        If it is, and the package is not installed.
    """
    if _named(name) != OPENVINO:
        return False
    if not has_openvino():
        raise DeviceError("OpenVINO is not installed: run `pip install napari-zeroseg[openvino]`, or use auto or cpu.")
    return True


def _named(name: str) -> str:
    return Settings.from_environment().device if name == "auto" else name


def resolve_device(name: str = "auto") -> torch.device:
    """Return the torch device of `name`: "auto", "cpu", "mps", "cuda", "cuda:1" or "openvino", which is the CPU too.

    Raises
    ------
    DeviceError
        If there is no such device on this machine.
    """
    if not isinstance(name, str):
        raise DeviceError(f"A device is named by a text such as 'auto' or 'cuda:1'; got {name!r}.")
    name = _named(name)
    if name == OPENVINO:
        name = "cpu"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(f"{name!r} is not a device: use auto, cpu, openvino, mps, cuda or cuda:1.") from error
    if device.type not in ("cpu", "mps", "cuda"):
        raise DeviceError(f"{name!r} is not supported: use auto, cpu, openvino, mps, cuda or cuda:1.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("This machine has no Apple GPU that torch can use: choose auto or cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"{name!r} was asked for, but torch finds {torch.cuda.device_count()} CUDA devices: choose auto or cpu."
        )
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of `name` on `device`; "auto" is bf16 where the processor computes in it, else float32.

    Raises
    ------
    DeviceError
        If the name is unknown or the device cannot compute in it.
    """
    if name == "auto":
        return _native_precision(device)
    if name not in PRECISIONS:
        raise DeviceError(f"{name!r} is not a precision: use auto, {', '.join(PRECISIONS)}.")
    if name == "fp16" and device.type == "cpu":
        raise DeviceError("fp16 is for GPUs; on the CPU use auto, bf16 or float32.")
    return PRECISIONS[name]


def precision_name(dtype: torch.dtype) -> str:
    """The name by which a user chooses a dtype."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


def _native_precision(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and _cpu_computes_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_computes_bf16() -> bool:
    # private names of torch, so an absent one must read as "no"
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a model may still take on `device`; None where the system does not say.

    What torch keeps in reserve of models that are gone counts as free.
    """
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + reserve)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return memory.free_memory()


def peak_memory() -> int:
    """Most memory that this process has had so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def check_room(needed: int, device: torch.device, title: str, instead: Sequence[str] = ()) -> None:
    """Raise before loading if a model will not fit.

    Parameters
    ----------
    needed : int
        Bytes that the model takes at its peak.
    device : torch.device
    title : str
        The model's name.
    instead : sequence of str
        What to use in its place, such as "sam_vit_b" and "the CPU".

    Raises
    ------
    DeviceMemoryError
        With both sizes.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        advice = ", or ".join([*([f"use {' or '.join(instead)}"] if instead else []), "close other programs"])
        raise DeviceMemoryError(
            f"{title} needs about {needed / 1e9:.1f} GB on {device}, {free / 1e9:.1f} GB are free: {advice}."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch raised `error` because memory ran out; the CPU's allocator only says so in words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    words = str(error).lower()
    return any(said in words for said in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = (
    "out of memory",  # CUDA outside of torch's allocator, and Apple's GPU
    "allocate memory",  # torch on a CPU under Linux and macOS
    "not enough memory",  # the same under Windows
    "bad_alloc",  # OpenVINO, and other code in C++
    "alloc_failed",  # cuBLAS and cuDNN
)


def release(device: torch.device) -> None:
    """Give memory that torch holds in reserve back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def memory_error(device: torch.device, doing: str) -> DeviceMemoryError:
    """Return the error for `device` running out of memory while `doing` something."""
    return DeviceMemoryError(
        f"{device} ran out of memory while {doing}: close other programs that use it, or choose the CPU as device."
    )
