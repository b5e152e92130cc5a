"""Folders of taught words, beside the user's models: how they are named, and written as a whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.settings import Settings

LONGEST = 60
"""Letters of a word that can be taught, so that it can name a folder."""


def spoken(word: str) -> str:
    """Return a word as it is compared: small letters, single spaces.

    Raises
    ------
    InputError
        If nothing is left, or it is too long for the name of a folder.
    """
    name = " ".join(word.casefold().split())
    if not re.search(r"\w", name) or len(name) > LONGEST:
        raise InputError(f"{word!r} cannot be taught: give a word, or a few, of at most {LONGEST} letters.")
    return name


def words_folder() -> Path:
    """Where taught words are kept: beside the user's models."""
    return Settings.from_environment().data_dir / "words"


def folder_of(word: str) -> Path:
    """Return the folder of a word, whether it is there or not.

    Raises
    ------
    InputError
        As :func:`spoken`.
    """
    name = spoken(word)
    return words_folder() / "".join(letter if letter.isalnum() else f"-{ord(letter):x}-" for letter in name)


def write_folder(
    folder: Path, card: tuple[str, Mapping[str, Any]], tensors: tuple[str, Mapping[str, NDArray[np.float32]]]
) -> None:
    """Write a folder with a card and a file of tensors in place of what was there.

    Parameters
    ----------
    folder : Path
    card : tuple of (str, mapping)
        Its file's name, and what is in it.
    tensors : tuple of (str, mapping of str to float32 array)
        Likewise.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
        try:
            save_file({key: np.ascontiguousarray(value) for key, value in tensors[1].items()}, made / tensors[0])
            text = json.dumps(card[1], indent=2, ensure_ascii=False) + "\n"
            (made / card[0]).write_text(text, encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            made.replace(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise WriteError(f"{folder} cannot be written ({error.strerror}): make room, or permit it.") from error
