"""Phrases: what a line of text asks for, one phrase a class."""

from __future__ import annotations

import re
from collections.abc import Iterable

from napari_zeroseg.errors import InputError

_PHRASE = re.compile(
    r"""\s*(?:"(?P<straight>[^"]*)"|“(?P<curly>[^”]*)”|(?P<bare>[^,，\n]*?))\s*(?:[,，\n]|$)""",
)


MINUS = "-−–"
"""Before a phrase that is not wanted."""


def parted(phrases: Iterable[str]) -> tuple[list[str], list[str]]:
    """Part phrases into those that are wanted, and those, without their minus, that are not.

    Raises
    ------
    InputError
        If there are only unwanted ones.
    """
    wanted, unwanted = [], []
    for phrase in phrases:
        rest = phrase[1:].strip()
        if phrase[:1] in MINUS and rest:
            unwanted.append(rest)
        else:
            wanted.append(phrase)
    known = {phrase.casefold() for phrase in wanted}
    unwanted = [phrase for phrase in unwanted if phrase.casefold() not in known]
    if unwanted and not wanted:
        raise InputError(f"'-{unwanted[0]}' says what is not wanted: name what to find as well.")
    return wanted, unwanted


def split_phrases(text: str) -> list[str]:
    """Split a line such as ``lung, heart`` into its phrases.

    Parameters
    ----------
    text : str
        Phrases with commas or line breaks between them. A comma within double quotes belongs to its phrase.

    Returns
    -------
    list of str
        In order, each once: no empty ones, and of those that differ only in capitals or spaces, which are one phrase
        to CLIP, the first.

    Examples
    --------
    >>> split_phrases('lung, "left, lower lobe", Lung')
    ['lung', 'left, lower lobe']
    """
    found: dict[str, str] = {}
    for match in _PHRASE.finditer(text):
        phrase = " ".join(match[match.lastgroup].split()) if match.lastgroup else ""
        if phrase:
            found.setdefault(phrase.casefold(), phrase)
    return list(found.values())
