"""From phrases to the conditions that CLIPSeg's decoder is steered by: CLIP's vocabulary and a memory of phrases."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_zeroseg.errors import WeightsError

_log = logging.getLogger(__name__)

VOCABULARY_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
"""Either the first two or the third lie beside the weights."""

REMEMBERED = 4096
"""Phrases whose conditions are kept, 2 KB each."""

_BATCH = 64


def find_vocabulary(*folders: Path | None) -> Path | None:
    """Return the first folder that holds CLIP's vocabulary."""
    for folder in folders:
        if folder is not None and any(all((folder / name).is_file() for name in files) for files in VOCABULARY_FILES):
            return folder
    return None


class Vocabulary:
    """CLIP's tokenizer from a folder, read when the first phrase comes; never from the network.

    Parameters
    ----------
    folder : Path or None
        Where its files are.
    title : str
        The model's name, for messages.
    length : int
        Tokens that the text encoder takes, those of start and end included.
    """

    def __init__(self, folder: Path | None, title: str, length: int) -> None:
        self.folder = folder
        self.length = length
        self._title = title
        self._lock = threading.Lock()
        self._tokenizer: Any = None

    def tokens(self, phrase: str) -> tuple[list[int], str]:
        """Return a phrase's tokens, and what of it had no room.

        Raises
        ------
        WeightsError
            If the vocabulary's files are missing or damaged.
        """
        with self._lock:  # the tokenizer refuses a second thread
            if self._tokenizer is None:
                self._tokenizer = self._read()
            encoding = self._tokenizer.encode(phrase)
        if len(encoding.ids) <= self.length:
            return encoding.ids, ""
        kept = self.length - 1  # the last one is the end's
        return [*encoding.ids[:kept], encoding.ids[-1]], phrase[encoding.offsets[kept][0] :]

    def _read(self) -> Any:
        if self.folder is None:
            raise WeightsError(
                f"{self._title} has weights but no words: vocab.json and merges.txt are not beside them. Download the "
                "model again, or copy both files from where the weights came from."
            )
        from transformers import CLIPTokenizerFast

        try:
            tokenizer = CLIPTokenizerFast.from_pretrained(self.folder, local_files_only=True).backend_tokenizer
        except Exception as error:  # its reader raises whatever its parts raise, in Rust and in Python
            raise WeightsError(
                f"The vocabulary of {self._title} in {self.folder} is damaged ({error}): remove the model "
                "(`zeroseg remove`), and download or add it again."
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


@dataclass(frozen=True, eq=False)
class _Known:
    condition: NDArray[np.float32]
    cut: str


class PhraseMemory:
    """Conditions of phrases, computed once each.

    Parameters
    ----------
    vocabulary : Vocabulary
    embed : callable
        From (N, T) tokens to (N, P) float32 conditions.
    capacity : int
        Phrases that are kept; those that were used longest ago leave first.
    """

    def __init__(self, vocabulary: Vocabulary, embed: Callable[[Tensor], Tensor], capacity: int = REMEMBERED) -> None:
        self._vocabulary = vocabulary
        self._embed = embed
        self._capacity = capacity
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def conditions(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Return the (N, P) float32 conditions of N phrases.

        Raises
        ------
        WeightsError
            If the vocabulary's files are missing or damaged.
        """
        found = self._recall(phrases)
        missing = [phrase for phrase in dict.fromkeys(phrases) if phrase not in found]
        for first in range(0, len(missing), _BATCH):
            found |= self._learn(missing[first : first + _BATCH])
        return np.stack([found[phrase].condition for phrase in phrases])

    def cut(self, phrase: str) -> str:
        """Return the end of a phrase for which the text encoder has no room, "" if all of it is read."""
        known = self._recall([phrase]).get(phrase)
        return known.cut if known is not None else self._vocabulary.tokens(phrase)[1]

    def _recall(self, phrases: Sequence[str]) -> dict[str, _Known]:
        with self._lock:
            found = {phrase: self._known[phrase] for phrase in phrases if phrase in self._known}
            for phrase in found:
                self._known.move_to_end(phrase)
        return found

    def _learn(self, phrases: Sequence[str]) -> dict[str, _Known]:
        read = [self._vocabulary.tokens(phrase) for phrase in phrases]
        for phrase, (_, cut) in zip(phrases, read, strict=True):
            if cut:
                _log.warning(
                    "The phrase %r is longer than the %d tokens that the model reads; it does not see %r. Shorten it.",
                    phrase,
                    self._vocabulary.length,
                    cut,
                )
        conditions = self._embed(padded([ids for ids, _ in read])).cpu().numpy()
        new = {
            phrase: _Known(conditions[i].copy(), cut)
            for i, (phrase, (_, cut)) in enumerate(zip(phrases, read, strict=True))
        }
        with self._lock:
            self._known.update(new)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)
        return new


def padded(tokens: Sequence[Sequence[int]]) -> Tensor:
    """Rows of tokens of one length, (N, T) int64.

    A phrase is read off at its first end token, and no token sees those after it: the padding needs no mask.
    """
    longest = max(len(ids) for ids in tokens)
    return torch.tensor([[*ids, *[ids[-1]] * (longest - len(ids))] for ids in tokens])
