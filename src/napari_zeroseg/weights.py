"""Weights: find them, check that they are whole, and read them without running anything inside them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.errors import InputTypeError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED = "embedded:"
"""Prefix of a source that lies inside this package."""


@dataclass(frozen=True)
class WeightsSource:
    """Where a model's own weights come from.

    Attributes
    ----------
    location : str
        "embedded:FILE" for a file inside the package.
    sha256 : str
        Hexadecimal hash of the file.
    size : int
        Bytes.
    """

    location: str
    sha256: str
    size: int

    @property
    def path(self) -> Path:
        """The file on this machine."""
        return Path(str(resources.files("napari_zeroseg") / "assets" / self.location.removeprefix(EMBEDDED)))


@dataclass(frozen=True, eq=False)
class Weights:
    """Tensors by their official names, and the hash that tells them from any others."""

    tensors: Mapping[str, Tensor]
    sha256: str


def is_there(source: WeightsSource) -> bool:
    """Whether the file of `source` is on this machine, with its right size."""
    return source.path.is_file() and source.path.stat().st_size == source.size


def read_weights(weights: str | Path | Mapping[str, Any] | None, source: WeightsSource, title: str) -> Weights:
    """Read a model's weights.

    Parameters
    ----------
    weights : None, path or state dict
        None takes `source` and verifies its hash; a path may end in .safetensors, .pt or .pth.
    source : WeightsSource
        The model's own weights.
    title : str
        The model's name, for messages.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or unsafe, or the hash of the model's own weights is not the known one.
    """
    if isinstance(weights, Mapping):
        tensors = _as_tensors(weights)
        return Weights(tensors, _hash_of_tensors(tensors))
    if weights is not None and not isinstance(weights, (str, Path)):
        raise InputTypeError(f"Weights are a path or a state dict, not {type(weights).__name__}.")
    path = source.path if weights is None else Path(weights).expanduser()
    if not path.is_file():
        advice = "reinstall napari-zeroseg" if weights is None else "give the path of a .pt, .pth or .safetensors file"
        raise WeightsError(f"The weights of {title} are not at {path}: {advice}.")
    digest = _hash_of_file(path, path.stat().st_mtime_ns)
    if weights is None and digest != source.sha256:
        raise WeightsError(f"The weights of {title} at {path} are damaged (wrong sha256): reinstall napari-zeroseg.")
    return Weights(_read(path), digest)


def _read(path: Path) -> Mapping[str, Tensor]:
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path.name} is damaged or not a safetensors file ({error}): get it again.") from error


def _read_pickle(path: Path) -> Mapping[str, Tensor]:
    import torch

    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} is not a plain file of weights: it is damaged, or it wants to run code when it is opened, "
            "which is refused. Convert it where you trust it: load it with torch, then save its tensors with "
            "safetensors.torch.save_file."
        ) from error
    except Exception as error:  # on a damaged file torch's reader fails in any way, by IndexError or AssertionError too
        raise WeightsError(f"{path.name} is damaged or not a torch file: get it again.") from error
    for inner in ("model", "state_dict"):
        if isinstance(held, Mapping) and isinstance(held.get(inner), Mapping):
            held = held[inner]
    if not isinstance(held, Mapping) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise WeightsError(f"{path.name} holds no table of tensors: give a checkpoint, such as mobile_sam.pt.")
    return held


@lru_cache(maxsize=16)
def _hash_of_file(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_tensors(given: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict's values, tensors or NumPy arrays, as tensors."""
    import torch

    tensors = {}
    for name, value in given.items():
        try:
            tensors[name] = torch.as_tensor(value).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            kind = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
            raise WeightsError(f"The values of a state dict must be tensors; {name!r} is {kind}.") from error
    return tensors


def _hash_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
