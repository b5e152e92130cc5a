"""The list of models, how one of them is loaded, and how its weights come and go; listing imports no torch."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg import weights as weight_files
from napari_zeroseg.catalogue import BUILT_IN, FORMS, MOBILE_SAM, ModelSpec, named_variant
from napari_zeroseg.errors import (
    BrokenModelError,
    DeviceError,
    InputTypeError,
    UnknownModelError,
    ZerosegError,
)
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights import VerifyReport, Weights, WeightsSource
from napari_zeroseg.weights.cards import OWN, cards, model_folder
from napari_zeroseg.weights.precisions import needs_float32
from napari_zeroseg.weights.repositories import SEE_REPOSITORY, of_repository
from napari_zeroseg.weights.sources import ADDED

if TYPE_CHECKING:
    import torch

    from napari_zeroseg.jobs import CancelToken
    from napari_zeroseg.weights.download import Offer
    from napari_zeroseg.weights.fetch import Patience, Progress

__all__ = [
    "BUILT_IN",
    "DEFAULT_MODEL",
    "ENTRY_POINT_GROUP",
    "MOBILE_SAM",
    "ModelSpec",
    "add_checkpoint",
    "download_model",
    "find_model",
    "list_models",
    "load_model",
    "offer_of",
    "remove_model",
    "verify",
]

_log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "napari_zeroseg.models"
DEFAULT_MODEL = "mobile_sam"


def list_models() -> list[ModelSpec]:
    """Return all models: the built-in ones, those of installed packages, those added by the user; imports no torch.

    A package adds models by the entry-point group ``napari_zeroseg.models``: each entry names a :class:`ModelSpec`.
    """
    found = {spec.key: spec for spec in BUILT_IN}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = entry.load()
        except Exception as error:
            # another package's fault must not take our own models away
            _log.warning("The model %s of another package cannot be listed: %s", entry.value, error)
            continue
        fault = _fault_of(spec, found)
        if fault:
            _log.warning("The model %s of another package is left out: %s.", entry.value, fault)
        else:
            found[spec.key] = spec
    bases = found | {spec.key: spec for spec in FORMS}
    for card in cards():
        was_added = card.hash_from == OWN
        if card.key in found or not (was_added or card.is_complete):  # of a removed download, the hash stays
            continue
        if card.base not in bases:
            _log.warning("%s is a variant of %s, which is not installed, and is left out.", card.key, card.base)
            continue
        source = WeightsSource(f"{ADDED}{card.file}", card.sha256, card.size)
        origin = f"Added from {card.source} on {card.date[:10]}, as a variant of {bases[card.base].title}."
        licence = card.licence or ("LicenseRef-yours" if was_added else SEE_REPOSITORY)
        variant = named_variant(bases[card.base], card.key, card.title, source, origin, licence)
        found[card.key] = replace(variant, licence_note=card.licence_note)
    return list(found.values())


def _fault_of(spec: object, found: Mapping[str, ModelSpec]) -> str:
    """What keeps another package's model from being listed; "" if nothing does."""
    if not isinstance(spec, ModelSpec):
        return "it names no ModelSpec"
    try:
        model_folder(spec.key)
        for source in spec.sources:
            source.url(Settings.from_environment())
    except Exception as error:  # whatever is wrong in one must not take the others away
        return str(error).rstrip(".") or type(error).__name__
    return f"there is a model {spec.key!r} already" if spec.key in found else ""


def find_model(key: str) -> ModelSpec:
    """Return the model of that key.

    Raises
    ------
    UnknownModelError
        If there is none; the message lists those that there are.
    """
    specs = {spec.key: spec for spec in list_models()}
    if key not in specs:
        raise UnknownModelError(f"There is no model {key!r}; there are: {', '.join(specs)}.")
    return specs[key]


def load_model(
    key: str = DEFAULT_MODEL,
    *,
    weights: str | Path | Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Segmenter:
    """Load a model; this imports torch.

    Parameters
    ----------
    key : str
        One of :func:`list_models`.
    weights : path, state dict or str, optional
        A checkpoint (.pt, .pth, .safetensors, or a folder that transformers saved), its tensors by name, or a
        repository on a hub ("facebook/sam-vit-base") that is on this machine already, in a hub's cache, in a local
        folder or by :func:`download_model`; left out, the model's own.
    device : str
        "auto" (CUDA, else Apple's GPU, else the CPU), "cpu", "mps", "cuda", "cuda:1" or "openvino": the CPU, with the
        image encoder in OpenVINO (``pip install napari-zeroseg[openvino]``), which is converted once and kept.
    precision : str
        "auto" (bf16 where the processor computes in it, else float32; float32 for weights that
        :func:`napari_zeroseg.precision.compare_precisions` has seen to draw other masks), "float32", "bf16" or "fp16".

    Raises
    ------
    UnknownModelError, WeightsError, DeviceError, DeviceMemoryError
        Each with a sentence that says what to do.
    """
    if not isinstance(key, str):
        raise InputTypeError(f"A model is named by its key, such as {DEFAULT_MODEL!r}; got {type(key).__name__}.")
    forms = {spec.key: spec for spec in FORMS}
    spec = forms[key] if weights is not None and key in forms else find_model(key)
    there = weight_files.locate(spec) if weights is None else None
    expected = "" if there is None else there.sha256
    _check_room(spec, expected, device, precision)  # before gigabytes are read
    read = weight_files.weights_of(spec, weights)
    before, now = (_computing(spec, sha256, device, precision)[1] for sha256 in (expected, read.sha256))
    if now != before:  # now that they are read it is known that they need float32
        _check_room(spec, read.sha256, device, precision, counted=before.itemsize)
    return _build(spec, read, device, precision)


def _computing(spec: ModelSpec, sha256: str, device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """The device and type that weights are computed with."""
    from napari_zeroseg.devices import precision_name, resolve_device, resolve_precision

    chosen = resolve_device(device)
    dtype = resolve_precision(spec.auto_precision if precision == "auto" else precision, chosen)
    if precision == "auto" and needs_float32(sha256, chosen.type, precision_name(dtype)):
        dtype = resolve_precision("float32", chosen)
    return chosen, dtype


def _check_room(spec: ModelSpec, sha256: str, device: str, precision: str, counted: int = 0) -> None:
    """Raise if the device has no room for encoding a picture, beside what was asked for numbers of `counted` bytes."""
    from napari_zeroseg.devices import check_room, free_memory, wants_openvino

    chosen, dtype = _computing(spec, sha256, device, precision)
    # converting for OpenVINO goes through float32, whatever is computed in afterwards
    itemsize = 4 if wants_openvino(device) else dtype.itemsize
    room = free_memory(chosen) or 0
    family = [one for one in BUILT_IN if one.family == spec.family]
    others = [] if PromptKind.TEXT in spec.accepts else [MOBILE_SAM]
    fitting = next(
        (
            found
            for group in (family, others)
            if (found := [one for one in group if 0 < _peak(one, itemsize, chosen.type) <= room])
        ),
        [],
    )
    instead = [max(fitting, key=lambda one: one.memory_bytes).key] if fitting else []
    if chosen.type != "cpu":
        instead.append("the CPU")
    needed = spec.memory_bytes * (itemsize - counted) // 4 if counted else _peak(spec, itemsize, chosen.type)
    check_room(needed, chosen, spec.title, instead)


def _peak(spec: ModelSpec, itemsize: int, device_type: str) -> int:
    """Bytes that a model takes on its device at its peak, computed with numbers of so many bytes.

    That is while a picture is encoded; or, on a processor, while the file's float32 and a shorter copy are both there.
    """
    encoding = spec.memory_bytes * itemsize // 4
    if device_type != "cpu" or not spec.memory_bytes:
        return encoding
    return max(encoding, spec.size * (4 + itemsize) // 4 if itemsize < 4 else spec.size)


def _build(spec: ModelSpec, weights: Weights, device: str, precision: str) -> Segmenter:
    from napari_zeroseg.devices import wants_openvino

    through_openvino = wants_openvino(device)
    if through_openvino and not spec.has_openvino:
        raise DeviceError(f"{spec.title} does not run through OpenVINO: choose cpu as device.")
    chosen, dtype = _computing(spec, weights.sha256, device, precision)
    options = {"openvino": True} if through_openvino else {}
    with _blaming_the_package(spec):
        module, _, function = spec.factory.partition(":")
        build = getattr(importlib.import_module(module), function)
        model = build(spec, weights, chosen, dtype, **options)
        if not isinstance(model, Segmenter):
            raise TypeError(f"{spec.factory} returned {type(model).__name__}, which is no Segmenter")
        return model


@contextmanager
def _blaming_the_package(spec: ModelSpec) -> Iterator[None]:
    """Name the package whose model cannot be built; our own faults and all errors for the user pass as they are."""
    from napari_zeroseg.devices import is_out_of_memory

    package = spec.factory.partition(":")[0].partition(".")[0]
    try:
        yield
    except Exception as error:
        if package == __name__.partition(".")[0] or isinstance(error, ZerosegError) or is_out_of_memory(error):
            raise
        name = packages_distributions().get(package, [package])[0]
        raise BrokenModelError(
            f"{spec.title} cannot be loaded, by a fault of the package {name} ({type(error).__name__}: {error}): "
            f"update it with `pip install --upgrade {name}`, or tell its authors."
        ) from error


def offer_of(key: str, *, weights: str | None = None) -> Offer:
    """Return what a download would bring (size, hosts, licence), to show before it starts.

    Parameters
    ----------
    key : str
        One of :func:`list_models`.
    weights : str, optional
        A repository on a hub in place of the model's own weights, as for :func:`load_model`.

    Raises
    ------
    UnknownModelError, WeightsError
        If there is no such model, or only the user can get its file.
    DownloadError
        If the user wants nothing fetched.
    """
    from napari_zeroseg.weights import download

    return download.offer_of(_wanted(key, weights))


def _wanted(key: str, repository: str | None) -> ModelSpec:
    spec = find_model(key)
    return spec if repository is None else of_repository(spec, repository)


def download_model(
    key: str,
    *,
    weights: str | None = None,
    licence_accepted: bool,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    accept_change: str = "",
    patience: Patience | None = None,
) -> Path:
    """Download a model's weights and return their path; see :func:`napari_zeroseg.weights.download.download_model`.

    `weights` names a repository on a hub in place of the model's own weights, as for :func:`load_model`.
    """
    from napari_zeroseg.weights import download

    return download.download_model(
        _wanted(key, weights),
        licence_accepted=licence_accepted,
        progress=progress,
        cancel=cancel,
        accept_change=accept_change,
        patience=patience,
    )


def add_checkpoint(
    path: str | Path,
    key: str | None = None,
    name: str | None = None,
    *,
    beside: str | Path | None = None,
    link: bool = False,
    cancel: CancelToken | None = None,
) -> ModelSpec:
    """Add a checkpoint that is on this machine, after the model has been built from it once.

    Parameters
    ----------
    path : path
        A .pt, .pth or .safetensors file, or a folder that transformers saved.
    key : str, optional
        Which model's weights they are, where the file does not tell: SAM ViT-B and MedSAM have the same parameters.
    name : str, optional
        A name of its own in the list, for weights that are not the published ones.
    beside : path, optional
        The SAM checkpoint that a PA-SAM decoder was trained on, where the file holds the decoder alone, or the key of a
        SAM that is on this machine; the two become one file. Left out, it is the SAM of the size that `key` tells, if
        that is here.
    link : bool
        Link the file instead of copying it, where both are on one disk.
    cancel : CancelToken, optional
        Stops the reading and copying; nothing is added then.

    Returns
    -------
    ModelSpec
        As it is listed from now on.

    Raises
    ------
    WeightsError, UnknownModelError, WriteError
        Each with a sentence that says what to do.
    CancelledError
        If `cancel` was raised.
    """
    from napari_zeroseg.weights import adding
    from napari_zeroseg.weights.joining import joined, sam_at, sam_of

    specs = {spec.key: spec for spec in (*list_models(), *FORMS)}

    def try_it(spec: ModelSpec, weights: Weights) -> None:
        _build(spec, weights, "cpu", "float32")

    sam = sam_of(Path(path).expanduser(), key) if beside is None else sam_at(beside)
    if sam is None:
        return find_model(adding.add_checkpoint(path, specs, key, name, link=link, check=try_it, cancel=cancel))
    with joined(Path(path).expanduser(), sam, cancel) as (file, origin):
        # the new file is ours alone, so it can be linked into its place
        listed = adding.add_checkpoint(file, specs, key, name, link=True, check=try_it, origin=origin, cancel=cancel)
    return find_model(listed)


def verify(key: str, *, cancel: CancelToken | None = None) -> VerifyReport:
    """Hash a model's files anew and compare; see :class:`napari_zeroseg.weights.VerifyReport`.

    Raises
    ------
    UnknownModelError, WeightsError
        If there is no such model, or its weights are not on this machine.
    CancelledError
        If `cancel` was raised.
    """
    return weight_files.verify(find_model(key), cancel)


def remove_model(key: str, *, cancel: CancelToken | None = None) -> None:
    """Delete a model's files from the models folder.

    Raises
    ------
    UnknownModelError, WeightsError, WriteError
        If there is no such model, its files are not ours to delete, or they cannot be deleted.
    CancelledError
        If `cancel` was raised before anything was deleted.
    """
    weight_files.remove_model(find_model(key), cancel)
