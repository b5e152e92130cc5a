"""What every model checks before it answers: that it was given its own embedding, and prompts that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_zeroseg.errors import InputError, InputTypeError
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.segmenter import Embedding

if TYPE_CHECKING:
    from napari_zeroseg.registry import ModelSpec


def check_call(embedding: Embedding, prompts: Sequence[Prompt], model_key: str) -> None:
    """Raise if `predict` was called with other things than an embedding of that model and prompts.

    Raises
    ------
    InputError, InputTypeError
    """
    if not isinstance(embedding, Embedding):
        raise InputTypeError("predict needs what encode returned as its first argument: encode the picture first.")
    if embedding.model_key != model_key:
        raise InputError("This embedding was made by another model: encode the picture with this one first.")
    given: object = prompts  # whatever the types say
    if not isinstance(given, Sequence) or not all(isinstance(prompt, Prompt) for prompt in given):
        raise InputTypeError("predict needs a list of prompts, such as [Prompt(points=[(row, column)])].")


def check_kinds(spec: ModelSpec, prompt: Prompt) -> None:
    """Raise if a prompt is of a kind that the model was not made for.

    Raises
    ------
    InputError
        With the kinds that it takes.
    """
    unknown = prompt.kinds - spec.accepts
    if unknown:
        raise InputError(
            f"{spec.title} does not take {', '.join(sorted(unknown))} prompts; "
            f"it takes {', '.join(sorted(spec.accepts))}."
        )
