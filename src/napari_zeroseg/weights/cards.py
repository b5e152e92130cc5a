"""The models folder: a folder for each model that was downloaded or added, with a card that says what it is."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.settings import Settings

_log = logging.getLogger(__name__)

CARD = "card.json"
CLASS_HEAD = "class_head.safetensors"
"""Beside the card of a model that was trained on a class."""
LOCK = ".lock"
PINS = "pins.json"
"""Beside a card that has taken the place of one whose hash was that of a first download, which is kept there."""

PUBLISHED = "published"
PINNED = "first download"
OWN = "when it was added"


@dataclass(frozen=True)
class Card:
    """What is known of a model in the models folder; kept as JSON beside its file.

    Attributes
    ----------
    key, base, title : str
        Its key, the key of the model that it is the weights of (the same, unless it has a name of its own), its title.
    file : str
        Name of the file beside the card.
    sha256, size, changed : str, int, int
        Hash, bytes and time (ns) of the file when it was last known to be right.
    hash_from : str
        Where the hash is from: "published", "first download" or "when it was added".
    source, date : str
        Address or path that it came from, and when (ISO, UTC).
    companions : mapping of str to str
        sha256 of each further file.
    licence, licence_note : str
        Of the weights that a trained model began from, and what there is to say of it; "" if nobody said.
    """

    key: str
    base: str
    title: str
    file: str
    sha256: str
    size: int
    changed: int
    hash_from: str
    source: str
    date: str
    companions: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    licence_note: str = ""

    @property
    def folder(self) -> Path:
        """Where the card and its file are."""
        return model_folder(self.key)

    @property
    def path(self) -> Path:
        """The file of weights."""
        return self.folder / self.file

    @property
    def is_complete(self) -> bool:
        """Whether all files are there, the weights with their size."""
        others = all((self.folder / name).is_file() for name in self.companions)
        return others and self.path.is_file() and self.path.stat().st_size == self.size

    def write(self) -> None:
        """Put the card in its place, whole or not at all."""
        _write(self.folder / CARD, asdict(self))


@dataclass(frozen=True)
class Pin:
    """What came first under a file's name, where nobody publishes its hash: its sha256, and when (ISO, UTC)."""

    sha256: str
    date: str


def _write(path: Path, content: object) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise WriteError(f"{path.parent} cannot be written ({error.strerror}): make room, or permit it.") from error


def model_folder(key: str) -> Path:
    """Return the folder of a model inside the models folder.

    Raises
    ------
    InputError
        If `key` could not be the name of a folder on every system.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", key) or key.endswith("."):
        raise InputError(f"{key!r} cannot be a model's name: use letters, digits, '_', '-' and '.', at most 64.")
    return Settings.from_environment().models_dir / key


def has_class(key: str) -> bool:
    """Whether a model of the list has learnt a class, all objects of which it finds without prompts."""
    try:
        return (model_folder(key) / CLASS_HEAD).is_file()
    except InputError:  # another package's key, which is no folder's name
        return False


def read_card(key: str) -> Card | None:
    """Return a model's card, or None if there is none that can be read."""
    path = model_folder(key) / CARD
    try:
        return Card(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        _log.warning(
            "%s cannot be read and its model is left out (%s): delete the folder %s and get the model again.",
            path,
            error,
            path.parent,
        )
        return None


def pins_of(key: str) -> dict[str, Pin]:
    """Return what came first for a model by the names of its files, whatever has come since under other names."""
    path = model_folder(key) / PINS
    pins: dict[str, Pin] = {}
    try:
        pins = {name: Pin(**pin) for name, pin in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s cannot be read and is left out (%s): delete it.", path, error)
    card = read_card(key)
    if card is not None and card.hash_from == PINNED:
        now = {card.file: card.sha256, **card.companions}
        pins |= {name: Pin(sha256, card.date) for name, sha256 in now.items()}
    return pins


def other_than_first(key: str, file: str, sha256: str) -> Pin | None:
    """Return what came first under the name of a file that differs from it; None where it is the same or the first."""
    first = pins_of(key).get(file)
    return None if first is None or first.sha256 == sha256 else first


def keep_pins(key: str) -> None:
    """Keep what came first for a model, before another card takes the place of the one that says so.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    pins = pins_of(key)
    if pins:
        _write(model_folder(key) / PINS, {name: asdict(pin) for name, pin in pins.items()})


def cards() -> Iterator[Card]:
    """Yield the cards of all models in the models folder, by name."""
    folder = Settings.from_environment().models_dir
    try:
        paths = sorted(folder.glob(f"*/{CARD}"))
    except OSError as error:
        _log.warning(
            "The models folder %s cannot be read (%s): models added by you are left out.", folder, error.strerror
        )
        return
    for path in paths:
        card = read_card(path.parent.name)
        if card is not None and card.key == path.parent.name:
            yield card
