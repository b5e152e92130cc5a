"""Conditions that were fitted to words: kept beside the user's models, and found when such a phrase is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from napari_zeroseg.errors import InputError
from napari_zeroseg.word_files import LONGEST, folder_of, spoken, write_folder

CARD, TENSORS = "condition.json", "condition.safetensors"


def condition_folder(word: str, model_key: str) -> Path:
    """Return the folder of a word's condition for one model; it need not be there.

    Raises
    ------
    InputError
        If the word cannot be a name.
    """
    plain = folder_of(word)
    return plain.with_name(f"{plain.name}+{hashlib.sha256(model_key.encode()).hexdigest()[:16]}")


def write_condition(
    word: str, model_key: str, condition: NDArray[np.float32], about: Mapping[str, Any] | None = None
) -> Path:
    """Keep a condition under a word for one model; an earlier one is replaced.

    Parameters
    ----------
    word : str
    model_key : str
        Of the model that it was fitted for; no other finds it.
    condition : (P,) float32 array
    about : mapping, optional
        More for its card.

    Returns
    -------
    Path
        Its folder.

    Raises
    ------
    InputError
        If the word cannot be a name.
    WriteError
    """
    folder = condition_folder(word, model_key)
    card = {"word": spoken(word), "model_key": model_key, **(about or {})}
    write_folder(folder, (CARD, card), (TENSORS, {"condition": np.asarray(condition, np.float32)}))
    return folder


def read_condition(word: str, model_key: str) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """Return a word's (P,) float32 condition for a model and its card, or None if it was not taught to it.

    Raises
    ------
    InputError
        If its files are damaged.
    """
    folder = condition_folder(word, model_key)
    if not (folder / CARD).is_file():
        return None
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        condition = load_file(folder / TENSORS)["condition"]
        if card["model_key"] != model_key or condition.ndim != 1 or not np.isfinite(condition).all():
            raise ValueError("its vector is none of this model's")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"What was kept of {spoken(word)!r} in {folder} is damaged ({error}): teach it anew."
        ) from error
    return np.asarray(condition, np.float32), card


class TaughtConditions:
    """The words that were taught to one model, read when they are asked for, and again when they were taught anew.

    Parameters
    ----------
    model_key : str
    width : int
        Length of the model's conditions.
    """

    def __init__(self, model_key: str, width: int) -> None:
        self._model_key = model_key
        self._width = width
        self._known: dict[Path, tuple[int, NDArray[np.float32]]] = {}

    def __call__(self, phrase: str) -> NDArray[np.float32] | None:
        """Return the (P,) float32 condition of a phrase, None if it was not taught.

        Raises
        ------
        InputError
            If its files are damaged.
        """
        if not phrase.strip() or len(phrase) > 2 * LONGEST:
            return None
        try:
            folder = condition_folder(phrase, self._model_key)
        except InputError:  # no word that could be taught
            return None
        try:
            written = (folder / TENSORS).stat().st_mtime_ns
        except OSError:
            return None
        known = self._known.get(folder)
        if known is None or known[0] != written:
            found = read_condition(phrase, self._model_key)
            if found is None:
                return None
            if len(found[0]) != self._width:
                raise InputError(f"What was kept of {spoken(phrase)!r} in {folder} is damaged: teach it anew.")
            known = self._known[folder] = (written, found[0])
        return known[1]
