"""The list of models, and how one of them is loaded. Factories are named as strings, so listing imports no torch."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from napari_zeroseg import weights as weight_files
from napari_zeroseg.errors import UnknownModelError
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.segmenter import Segmenter
from napari_zeroseg.weights import WeightsSource

_log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "napari_zeroseg.models"
DEFAULT_MODEL = "mobile_sam"


@dataclass(frozen=True)
class ModelSpec:
    """A row of the model list.

    Attributes
    ----------
    key : str
        Name in the API and the CLI.
    title : str
        Name for people.
    family : str
        What it is grouped under.
    licence : str
        SPDX expression of the weights.
    accepts : frozenset of PromptKind
        Prompts that it takes.
    weights : WeightsSource
        Where its own weights are.
    factory : str
        "package.module:function" that builds the model from (spec, weights, device, dtype).
    description : str
        One sentence.
    """

    key: str
    title: str
    family: str
    licence: str
    accepts: frozenset[PromptKind]
    weights: WeightsSource
    factory: str
    description: str = ""

    @property
    def state(self) -> str:
        """Either "ready", with the weights on this machine, or "bring a file"."""
        return "ready" if weight_files.is_there(self.weights) else "bring a file"


MOBILE_SAM = ModelSpec(
    key="mobile_sam",
    title="MobileSAM",
    family="SAM",
    licence="Apache-2.0",
    accepts=frozenset({PromptKind.POINTS, PromptKind.BOX, PromptKind.MASK}),
    weights=WeightsSource(
        "embedded:mobile_sam_fp16.safetensors",
        "5b909383cb8a7a05f37fcce8dc6f0b22e76b6848ca0932f79b7a85e342f739ca",
        20352640,
    ),
    factory="napari_zeroseg.models.sam:build_mobile_sam",
    description="Small and quick on any processor; inside the package, so it works offline.",
)

BUILT_IN = (MOBILE_SAM,)


def list_models() -> list[ModelSpec]:
    """Return all models: the built-in ones, then those of installed packages; imports no torch.

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
        if isinstance(spec, ModelSpec):
            found.setdefault(spec.key, spec)
        else:
            _log.warning("The entry point %s names no ModelSpec and is left out.", entry.value)
    return list(found.values())


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
    weights : path or state dict, optional
        A checkpoint (.pt, .pth, .safetensors) or its tensors by name; left out, the model's own.
    device : str
        "auto" (CUDA, else Apple's GPU, else the CPU), "cpu", "mps", "cuda" or "cuda:1".
    precision : str
        "auto" (bf16 where the processor computes in it, else float32), "float32", "bf16" or "fp16".

    Raises
    ------
    UnknownModelError, WeightsError, DeviceError
        Each with a sentence that says what to do.
    """
    spec = find_model(key)
    from napari_zeroseg.devices import resolve_device, resolve_precision

    chosen = resolve_device(device)
    dtype = resolve_precision(precision, chosen)
    module, function = spec.factory.split(":")
    build = getattr(importlib.import_module(module), function)
    model: Segmenter = build(spec, weight_files.read_weights(weights, spec.weights, spec.title), chosen, dtype)
    return model
