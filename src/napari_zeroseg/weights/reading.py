"""Read files of weights without running anything inside them, and say what is wrong with those that cannot be."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.errors import InputTypeError, WeightsError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.memory import check_room_to_read
from napari_zeroseg.weights.blocks import StoppableFile, blocks_of
from napari_zeroseg.weights.layouts import Layout, detect_layout
from napari_zeroseg.weights.resting import completed
from napari_zeroseg.weights.sources import WeightsSource
from napari_zeroseg.weights.transformers_sam import convert_transformers_sam

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
"""What transformers calls the weights in a folder of its own, best first."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Tensors by their official names, and the hash that tells them from any others.

    Attributes
    ----------
    tensors : mapping of str to Tensor
        SAM's are under segment-anything's names, whichever layout the file has.
    sha256 : str
        Of the file, or of the tensors where there was none.
    layout : Layout or None
        What the parameters say about themselves.
    folder : Path or None
        Where the file lies, and its companions with it.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    layout: Layout | None = None
    folder: Path | None = None


def is_there(source: WeightsSource) -> bool:
    """Whether the file of an embedded `source` is on this machine, with its right size."""
    return source.is_embedded and source.path.is_file() and source.path.stat().st_size == source.size


def read_weights(weights: str | Path | Mapping[str, Any] | None, source: WeightsSource, title: str) -> Weights:
    """Read weights that are given, or those inside the package.

    Parameters
    ----------
    weights : None, path or state dict
        None takes an embedded `source` and verifies its hash; a path may end in .safetensors, .pt, .pth or .bin or be a
        folder that transformers saved.
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
        return _understood(tensors, _hash_of_tensors(tensors), None)
    if weights is not None and not isinstance(weights, (str, Path)):
        raise InputTypeError(f"Weights are a path or a state dict, not {type(weights).__name__}.")
    if weights is not None and not str(weights):
        raise WeightsError("The path of the weights is empty: give a file or folder, or leave it out.")
    if weights is not None:
        return read_file(file_of(Path(weights).expanduser(), title))
    path = source.path
    if not path.is_file():
        raise WeightsError(f"The weights of {title} are not at {path}: reinstall napari-zeroseg.")
    found = read_file(path)
    if found.sha256 != source.sha256:
        raise WeightsError(f"The weights of {title} at {path} are damaged (wrong sha256): reinstall napari-zeroseg.")
    return found


def file_of(path: Path, title: str) -> Path:
    """Return the file of weights that `path` names, be it itself or inside a folder that transformers saved.

    Raises
    ------
    WeightsError
        If there is none.
    """
    if path.is_dir():
        for name in FOLDER_FILES:
            if (path / name).is_file():
                return path / name
        if list(path.glob("*.index.json")):
            raise WeightsError(f"The weights in {path} are in several parts: save them in one, with max_shard_size.")
        raise WeightsError(f"The folder {path} holds no weights: transformers saves {' or '.join(FOLDER_FILES)}.")
    if not path.is_file():
        raise WeightsError(
            f"The weights of {title} are not at {path}: give the path of a .pt, .pth or .safetensors file, or of a "
            "folder that transformers saved."
        )
    return path


def read_file(path: Path, sha256: str = "", cancel: CancelToken | None = None) -> Weights:
    """Read one file; `sha256` is given where it is already known to be right.

    Raises
    ------
    WeightsError
        If it is damaged, unsafe or holds something else, or rests on weights that are not here.
    DeviceMemoryError
        If there is no room for it in memory.
    CancelledError
        If `cancel` was raised.
    """
    check_room_to_read(path.stat().st_size, path.name)
    is_safe = path.suffix == ".safetensors"
    tensors = _read_safetensors(path, cancel) if is_safe else _read_pickle(path, cancel=cancel)
    return _understood(completed(tensors, path, cancel), sha256 or hash_of_file(path, cancel), path.parent)


def hash_of_file(path: Path, cancel: CancelToken | None = None) -> str:
    """Return the sha256 of a file, hexadecimal; remembered for as long as the file's time and size stay."""
    state = path.stat()
    version = (path, state.st_mtime_ns, state.st_size)
    if version not in _hashes:
        _hashes[version] = hash_again(path, cancel)
    return _hashes[version]


def hash_again(path: Path, cancel: CancelToken | None = None) -> str:
    """Return the sha256 of a file as it is now, whatever was remembered; stops where `cancel` was raised."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in blocks_of(file, cancel):
            digest.update(block)
    return digest.hexdigest()


_hashes: dict[tuple[Path, int, int], str] = {}


def check_whole(path: Path, name: str = "") -> None:
    """Look at a file's frame, without torch: is it weights at all, and is its end there?

    Parameters
    ----------
    path : Path
        The file.
    name : str, optional
        What it will be called, if it has another name for now.

    Raises
    ------
    WeightsError
        If it is empty, a web page, cut off, or an archive of something else.
    """
    name = name or path.name
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise WeightsError(f"{name} cannot be read ({error.strerror}): permit it, or give a copy of it.") from error
    if not start:
        raise WeightsError(f"{name} is empty: get it again.")
    if start.lstrip()[:1] == b"<":
        raise WeightsError(
            f"{name} is a web page, not weights: the address wants a login or a confirmation. Download the file with a "
            "browser and add it."
        )
    if name.endswith(".safetensors"):
        _check_safetensors(path, name)
    elif start[:2] == b"PK":
        _check_zip(path, name)


def shapes_of(path: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a file that is called `name`; its numbers are not read.

    Raises
    ------
    WeightsError
        If it is damaged, unsafe or holds something else.
    """
    if not name.endswith(".safetensors"):
        return {key: tuple(tensor.shape) for key, tensor in _read_pickle(path, name, numbers=False).items()}
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}


def _check_safetensors(path: Path, name: str) -> None:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < size else {}
        end = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{name} is damaged or not a safetensors file: get it again.") from error
    if 8 + length + end != size:
        raise WeightsError(f"{name} is cut off: {size:,} of {8 + length + end:,} bytes are there. Get it again.")


def _check_zip(path: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{name} is damaged or cut off: get it again.") from error
    if not any(entry.endswith("data.pkl") for entry in inside):
        raise WeightsError(
            f"{name} is an archive ({_first(inside)}), not weights: unpack it and give the .pth or .safetensors file "
            "in it."
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _understood(tensors: Mapping[str, Tensor], sha256: str, folder: Path | None) -> Weights:
    layout = detect_layout({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if layout is not None and layout.family == "sam" and layout.form == "transformers":
        tensors = convert_transformers_sam(tensors)
    return Weights(tensors, sha256, layout, folder)


def _read_safetensors(path: Path, cancel: CancelToken | None) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    tensors = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 it is no mapping
                if cancel is not None:
                    cancel.raise_if_cancelled()
                tensors[name] = file.get_tensor(name)
        return tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path.name} is damaged or not a safetensors file ({error}): get it again.") from error


def _read_pickle(
    path: Path, name: str = "", numbers: bool = True, cancel: CancelToken | None = None
) -> Mapping[str, Tensor]:
    """Read a file of torch; `name` is for messages, and without `numbers` the tensors have shapes only."""
    import torch

    name = name or path.name
    try:
        with nullcontext(path) if cancel is None else StoppableFile(path, cancel) as source:
            held = torch.load(source, map_location="cpu" if numbers else "meta", weights_only=True)
    except pickle.UnpicklingError as error:
        _raise_if_cancelled(cancel)
        check_whole(path, name)
        raise WeightsError(
            f"{name} is not a plain file of weights: it is damaged, or it wants to run code when it is opened, "
            "which is refused. Convert it where you trust it: load it with torch, then save its tensors with "
            "safetensors.torch.save_file."
        ) from error
    except Exception as error:  # on a damaged file torch's reader fails in any way, by IndexError or AssertionError too
        _raise_if_cancelled(cancel)
        check_whole(path, name)
        raise WeightsError(f"{name} is damaged or not a torch file: get it again.") from error
    for inner in ("model", "state_dict"):
        if isinstance(held, Mapping) and isinstance(held.get(inner), Mapping):
            held = held[inner]
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise WeightsError(f"{name} holds no table of tensors: give a checkpoint, such as mobile_sam.pt.")
    return _without_wrapper(held)


def _raise_if_cancelled(cancel: CancelToken | None) -> None:
    """A file that was being read when `cancel` was raised is not damaged."""
    if cancel is not None:
        cancel.raise_if_cancelled()


def _without_wrapper(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off the "module." that training on several GPUs puts before every name."""
    wrapper = "module."
    if all(name.startswith(wrapper) for name in tensors):
        return {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


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
