"""Phrases: what a line of text asks for, one phrase a class."""

from __future__ import annotations

import re

_PHRASE = re.compile(
    r"""\s*(?:"(?P<straight>[^"]*)"|“(?P<curly>[^”]*)”|(?P<bare>[^,，\n]*?))\s*(?:[,，\n]|$)""",
)


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
