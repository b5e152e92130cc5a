"""Trying a checkpoint on a test picture before it is added; in the inference thread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_zeroseg.errors import WeightsError
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.prompts import Prompt, PromptKind
from napari_zeroseg.registry import load_model

if TYPE_CHECKING:
    from napari_zeroseg._napari.engine import Engine
    from napari_zeroseg.catalogue import ModelSpec

_SIDE = 128


def try_out(engine: Engine, spec: ModelSpec, path: Path) -> None:
    """Load a file as the weights of `spec`, and ask the model about a test picture.

    Raises
    ------
    WeightsError
        If it cannot be loaded, or answers with anything but finite numbers.
    """
    engine.make_room(spec.key)
    model = load_model(spec.key, weights=path)
    stack, _ = em_like_stack(planes=1, size=_SIDE, seed=1)
    (prediction,) = model.predict(model.encode(stack[0]), [_prompt_for(spec.accepts)])
    if not (np.isfinite(prediction.logits).all() and np.isfinite(prediction.scores).all()):
        raise WeightsError(
            f"As {spec.title}, {path.name} gives numbers on a test picture that are not finite, so it was not added: "
            "get it again from where it came from."
        )


def _prompt_for(accepts: frozenset[PromptKind]) -> Prompt:
    if PromptKind.BOX in accepts and PromptKind.TEXT not in accepts:
        return Prompt(box=(_SIDE / 4, _SIDE / 4, 3 * _SIDE / 4, 3 * _SIDE / 4))
    if PromptKind.TEXT in accepts:
        return Prompt(text="cell")
    return Prompt(points=[(_SIDE / 2, _SIDE / 2)])
