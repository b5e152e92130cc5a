"""A SAM-family image encoder in OpenVINO on the CPU: converted once, kept on disk, read at once from then on.

OpenVINO tells its makers over the network that it was imported and what it converted, unless its module for that is
missing. This package sends nothing anywhere, so that module is hidden when OpenVINO is imported from here.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from napari_zeroseg.models.tiny_vit import TinyViT
from napari_zeroseg.settings import Settings

if TYPE_CHECKING:
    from napari_zeroseg.models.sam import SamNetwork

_log = logging.getLogger(__name__)

_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_FILES = "part{}.xml"
_LAYOUT = 1
"""Counts changes of what is kept, so that files of earlier versions of this module are not taken for today's."""
_TELEMETRY = "openvino_telemetry"
_ABANDONED_SECONDS = 3600.0
"""Age from which another process's unfinished folder is taken for the remains of a killed one."""
_importing = threading.Lock()


class OpenvinoEncoder:
    """A network's image encoder, compiled for this processor.

    Parameters
    ----------
    network : SamNetwork
        In float32, with its weights. Its encoder is fused where it can be and not kept.
    weights_hash : str
        sha256 of the weights, hexadecimal.
    dtype : torch.dtype
        float32 or bfloat16: what OpenVINO computes in.

    Attributes
    ----------
    name : str
        For the model's key: its numbers are not torch's, nor another version's.
    """

    def __init__(self, network: SamNetwork, weights_hash: str, dtype: torch.dtype) -> None:
        side = int(network.prompt_encoder.input_image_size[0])
        folder = Settings.from_environment().cache_dir / "openvino"
        self.name = f"openvino{version()}"
        place = folder / f"{weights_hash[:16]}-{_HINTS[dtype]}-{version()}-{_LAYOUT}"
        parts, self._between = split(network.image_encoder)
        models = _kept_or_converted(parts, self._between, side, dtype, place)
        self._compiled = [_core().compile_model(model, "CPU", _settings(dtype)) for model in models]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Encode 1 x 3 x side x side into 1 x 256 x 64 x 64 float32; several threads may call at once."""
        x = pixels.float()
        for number, compiled in enumerate(self._compiled):
            if number:
                x = self._between(x)
            # a request of its own for each call: requests are not to be shared
            x = torch.from_numpy(compiled.create_infer_request().infer({0: x.contiguous().numpy()})[0].copy())
        return x


def split(encoder: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    """Return the parts that OpenVINO evaluates, and what torch evaluates in float32 between them.

    OpenVINO has one precision for a whole model. A TinyViT, which is fused, is cut at the merging that must not be
    computed in bf16 (see :meth:`TinyViT.narrow`).
    """
    if not isinstance(encoder, TinyViT):
        return [encoder], nn.Identity()
    encoder.fuse()
    stages: list[Any] = list(encoder.layers)
    first, second, *others = stages
    before = nn.Sequential(encoder.patch_embed, first, *second.blocks)
    return [before, nn.Sequential(*others, encoder.neck)], second.downsample


def version() -> str:
    """Return OpenVINO's version, such as "2026.4.1"."""
    return str(_openvino().__version__).partition("-")[0]


@cache
def _core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    with _importing, _without_telemetry():
        import openvino

        return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Make OpenVINO's telemetry as absent as where it is not installed, while OpenVINO is imported."""
    if "openvino" in sys.modules:
        yield
        return
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's own way to say: cannot be imported
    try:
        yield
    finally:
        if before is None:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = before


def _settings(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # threads tied to cores wait for whatever else runs there
        "ENABLE_CPU_PINNING": False,
    }


def _kept_or_converted(
    parts: Sequence[nn.Module], between: nn.Module, side: int, dtype: torch.dtype, place: Path
) -> list[Any]:
    """Read what is kept at `place`; else convert and keep it, one process at a time while the others wait."""
    models = _read(place, len(parts))
    if models:
        return models
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.parent / f".{place.name}.lock"):
            models = _read(place, len(parts))
            if not models:
                models = convert(parts, between, side)
                _keep(models, dtype, place)
    except (OSError, NotImplementedError) as error:
        _log.warning(
            "The encoder for OpenVINO cannot be kept on disk (%s) and will be converted again next time: make room, or "
            "set ZEROSEG_CACHE_DIR to another folder.",
            error,
        )
    return models or convert(parts, between, side)


def _read(place: Path, count: int) -> list[Any]:
    """Read the `count` models kept at `place`; none where they are not there, or damaged."""
    files = [place / _FILES.format(number) for number in range(count)]
    if not all(file.is_file() for file in files):
        return []
    try:
        return [_core().read_model(file) for file in files]
    except RuntimeError as error:
        _log.warning("The encoder kept for OpenVINO is damaged and is converted again (%s).", error)
        return []


def _keep(models: Sequence[Any], dtype: torch.dtype, place: Path) -> None:
    """Write the models into a folder of their own, which then gets its name."""
    _sweep(place)
    new = place.with_name(f"{place.name}-{os.getpid()}.tmp")
    try:
        new.mkdir()
        for number, model in enumerate(models):
            # weights that will be computed with in bf16 lose nothing more in fp16, and take half the disk
            half = dtype is torch.bfloat16
            _openvino().save_model(model, new / _FILES.format(number), compress_to_fp16=half)
        new.rename(place)
    except RuntimeError as error:  # how OpenVINO says that the disk is full
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Remove what is at `place`, conversions of the same weights by other versions, and what killed processes left."""
    same = "-".join(place.name.split("-")[:2])
    for path in [path for path in place.parent.iterdir() if path.is_dir()]:
        with suppress(OSError):  # another process may use it, or remove it too
            if path.suffix == ".tmp":
                gone = time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
            else:
                gone = path.name.startswith(f"{same}-")
            if gone:
                shutil.rmtree(path)


def convert(parts: Sequence[nn.Module], between: nn.Module, side: int) -> list[Any]:
    """Convert the parts of an image encoder into OpenVINO's representation.

    Parameters
    ----------
    parts : sequence of torch.nn.Module
        One after the other, float32 on the CPU.
    between : torch.nn.Module
        What comes between two parts and stays torch's.
    side : int
        Of the 1 x 3 x side x side input.

    Returns
    -------
    list of openvino.Model
        One a part.
    """
    start = time.perf_counter()
    _log.info("The image encoder is converted for OpenVINO, once; this takes up to some minutes.")
    x = torch.zeros(1, 3, side, side)
    models = []
    # With gradients enabled (no parameter asks for one) TinyViT takes none of its shortcuts for torch on the CPU.
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("ignore")  # torch warns of its own parts
        for part in parts:
            # exported and not traced: tracing takes several times the time and the memory
            models.append(_openvino().convert_model(torch.export.export(part, (x,), strict=False)))
            if len(models) < len(parts):
                x = between(part(x))
    _log.info("Converted in %.0f s.", time.perf_counter() - start)
    return models
