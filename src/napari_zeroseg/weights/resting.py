"""Weights that rest on another model's: LoRA's matrices, and decoders of CLIPSeg that have no CLIP of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_zeroseg.errors import UnknownModelError, WeightsError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.weights.cards import cards
from napari_zeroseg.weights.layouts import detect_layout

if TYPE_CHECKING:
    from torch import Tensor

DOWN, UP = ".lora_down", ".lora_up"
"""After the name of a linear layer: the matrices whose product is added to its weight."""

_KEY, _SHA256 = "rests_on", "rests_on_sha256"
"""Entries in the head of a file."""


@dataclass(frozen=True)
class Ground:
    """The weights that others rest on: the key of their model, and their hash."""

    key: str
    sha256: str


def ground_of(path: Path) -> Ground | None:
    """What the weights of a file rest on; None for weights that are whole. Imports no torch."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "np") as file:
            told = file.metadata() or {}
    except (SafetensorError, OSError):  # whoever reads the tensors says what is wrong
        return None
    return Ground(told[_KEY], told.get(_SHA256, "")) if _KEY in told else None


def resting_on(key: str) -> list[str]:
    """Keys of the models in the models folder whose weights rest on those of a model."""
    return [*_lora_on(key), *_without_clip(key)]


def _lora_on(key: str) -> list[str]:
    known = {card.key: card for card in cards()}
    hashes = {name: card.sha256 for name, card in known.items()}
    grounds = {name: ground_of(card.path) for name, card in known.items()}
    return [name for name, ground in grounds.items() if ground is not None and _key_of(ground, hashes) == key]


def _without_clip(key: str) -> list[str]:
    """Decoders of CLIPSeg that take CLIP from a model, for want of another that has it."""
    from napari_zeroseg.catalogue import CLIPSEG
    from napari_zeroseg.weights.folder import locate

    family = {spec.key: spec for spec in CLIPSEG}
    if key not in family:
        return []
    here = {name: found.path for name, spec in family.items() if (found := locate(spec)) is not None}
    if [name for name, path in here.items() if _form_of(path) == "transformers"] != [key]:
        return []
    return [
        card.key for card in cards() if card.base in family and card.is_complete and _form_of(card.path) == "decoder"
    ]


def _form_of(path: Path) -> str:
    """Layout of a file; "" where it cannot be read."""
    from napari_zeroseg.weights.reading import check_whole, shapes_of

    try:
        check_whole(path)
        layout = detect_layout(shapes_of(path, path.name))
    except WeightsError:
        return ""
    return "" if layout is None else layout.form


def _key_of(ground: Ground, hashes: Mapping[str, str]) -> str:
    """Key of a model with these weights: of several the one of that name, for it may have another one here.

    `hashes` are those of the models in the models folder.
    """
    if hashes.get(ground.key) == ground.sha256:
        return ground.key
    return next((key for key, sha256 in hashes.items() if sha256 == ground.sha256), ground.key)


def kept(
    base: Mapping[str, Tensor], changed: Mapping[str, Tensor], ground: Ground
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that the file of a trained model has to hold, and what its head says of them.

    Parameters
    ----------
    base, changed : mapping of str to Tensor
        All weights of the base, and what differs from them.
    ground : Ground
        Whose the base's are.

    Returns
    -------
    tuple of dict
        With LoRA's matrices, what changed alone, which then rests on the base; else all weights, and nothing to say.
    """
    if not any(name.endswith(DOWN) for name in changed):
        return {**base, **changed}, {}
    return dict(changed), {_KEY: ground.key, _SHA256: ground.sha256}


def joined(base: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights of a model: Hu et al., ICLR 2022, equation 3.

    Parameters
    ----------
    base : mapping of str to Tensor
        All weights by their official names.
    changed : mapping of str to Tensor
        What takes their place, and under the name of a linear layer with :data:`DOWN` (rank, inputs) and :data:`UP`
        (outputs, rank) float32 what is added to its weight.

    Raises
    ------
    WeightsError
        If matrices do not fit a weight.
    """
    found = {**base, **{name: tensor for name, tensor in changed.items() if not name.endswith((DOWN, UP))}}
    for layer in sorted({name.rpartition(".")[0] for name in changed if name.endswith((DOWN, UP))}):
        try:
            found[f"{layer}.weight"] = base[f"{layer}.weight"].float() + changed[layer + UP] @ changed[layer + DOWN]
        except (KeyError, RuntimeError) as error:
            raise WeightsError(
                f"The matrices of LoRA for {layer} do not fit the weights that they are added to ({error}): they "
                "belong to another model, or their file is damaged."
            ) from error
    return found


def completed(tensors: Mapping[str, Tensor], path: Path, cancel: CancelToken | None = None) -> Mapping[str, Tensor]:
    """Join what was read from a file with the weights that it rests on.

    Raises
    ------
    WeightsError
        If those are not on this machine or not the same as then, or do not fit.
    CancelledError
        If `cancel` was raised.
    """
    ground = ground_of(path)
    if ground is None:
        return tensors
    from napari_zeroseg.registry import find_model
    from napari_zeroseg.weights.folder import locate, weights_of
    from napari_zeroseg.weights.reading import hash_of_file

    about = f"{path.name} holds only what was learnt beside the weights of {ground.key}"
    try:
        spec = find_model(_key_of(ground, {card.key: card.sha256 for card in cards()}))
    except UnknownModelError as error:
        raise WeightsError(f"{about}, and there is no such model here: import or add that one first.") from error
    found = locate(spec)
    # before they are read, which would never end for a file that says that it rests on itself
    sha256 = ground.sha256 if found is None else found.sha256 or hash_of_file(found.path, cancel)
    if sha256 != ground.sha256:
        raise WeightsError(
            f"{about}, and those here are others (sha256 {sha256[:12]}…, then {ground.sha256[:12]}…): get those that "
            "it was trained from."
        )
    try:
        base = weights_of(spec, cancel=cancel)
    except WeightsError as error:
        in_dock = f"{about}, and those cannot be read. {error.in_dock or error}"
        raise WeightsError(f"{about}, and those cannot be read. {error}").said_in_dock(in_dock) from error
    return joined(base.tensors, tensors)
