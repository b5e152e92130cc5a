"""Where a model's own weights are on this machine, what they should be, and how they are read, checked and removed."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_zeroseg.errors import WeightsError, WriteError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights.cards import CARD, LOCK, OWN, PINNED, PINS, PUBLISHED, Card, model_folder, read_card
from napari_zeroseg.weights.holding import if_free
from napari_zeroseg.weights.layouts import known_models
from napari_zeroseg.weights.reading import (
    SUFFIXES,
    Weights,
    check_whole,
    hash_again,
    is_there,
    read_file,
    read_weights,
)
from napari_zeroseg.weights.repositories import arguments_of, is_repository, of_repository
from napari_zeroseg.weights.resting import ground_of, resting_on
from napari_zeroseg.weights.sources import WeightsSource

if TYPE_CHECKING:
    from napari_zeroseg.catalogue import ModelSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A model's weights on this machine.

    Attributes
    ----------
    path : Path
        The file.
    where : str
        "package", "models folder", "local folder" or "hub cache".
    sha256 : str
        What its hash should be; "" where nobody has said.
    hash_from : str
        Who said so.
    card : Card or None
        For what lies in the models folder.
    """

    path: Path
    where: str
    sha256: str
    hash_from: str
    card: Card | None = None


@dataclass(frozen=True)
class VerifyReport:
    """What came of hashing a model's files anew.

    Attributes
    ----------
    key, path : str, Path
        Which model, and its file.
    ok : bool
        False if a file is not what it should be. True as well where no hash is known, see `expected`.
    sha256, expected : str
        Hash of the file, and the one it should have; "" where none is known.
    sentence : str
        The outcome for people.
    """

    key: str
    path: Path
    ok: bool
    sha256: str
    expected: str
    sentence: str


def locate(spec: ModelSpec) -> Found | None:
    """Find a model's own weights on this machine: in the package, the models folder, ``ZEROSEG_MODELS``, hub caches.

    Returns
    -------
    Found or None
    """
    for source in spec.sources:
        if is_there(source):
            return Found(source.path, "package", source.sha256, PUBLISHED)
    card = read_card(spec.key)
    if card is not None and card.is_complete:
        return Found(card.path, "models folder", card.sha256, card.hash_from, card)
    return _in_local_folders(spec) or _in_hub_cache(spec)


def _in_local_folders(spec: ModelSpec) -> Found | None:
    names = {source.name for source in spec.sources}
    for folder in Settings.from_environment().model_folders:
        try:
            found = _in_folder(spec, folder, names)
        except OSError as error:  # of an institute, and not for everybody; the others must not go with it
            _log.warning("%s cannot be read and is left out (%s).", folder, error.strerror)
            continue
        if found is not None:
            return found
    return None


def _in_folder(spec: ModelSpec, folder: Path, names: set[str]) -> Found | None:
    for source in spec.sources:
        for path in _places(folder, source):
            if _is_file_of(path, source) and (source.size or _is_whole(path)):
                return Found(path, "local folder", source.sha256, PUBLISHED if source.sha256 else "")
    for suffix in SUFFIXES:
        path = folder / f"{spec.key}{suffix}"
        if path.name not in names and path.is_file() and _is_whole(path):
            return Found(path, "local folder", "", "")
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file that is called as a model is weights at all, as far as its frame tells."""
    try:
        check_whole(path)
    except (WeightsError, OSError) as error:
        _log.warning("%s is left out: %s", path, error)
        return False
    return True


def _places(folder: Path, source: WeightsSource) -> list[Path]:
    """Where a folder may hold `source`: by its bare name, or under the name of its repository as a clone has it."""
    hub = source.hub
    if hub is None:
        return [folder / source.name] if source.name else []
    return [folder / hub.repository / hub.file, folder / hub.repository.partition("/")[2] / hub.file]


def _is_file_of(path: Path, source: WeightsSource) -> bool:
    others = all((path.parent / name).is_file() for name in source.companions)
    return others and path.is_file() and (not source.size or path.stat().st_size == source.size)


def _in_hub_cache(spec: ModelSpec) -> Found | None:
    for source in spec.sources:
        hub = source.hub
        if hub is None:
            continue
        try:
            from huggingface_hub import try_to_load_from_cache
        except ImportError as error:
            # a version that another package brought may not work; the list of models must not go with it
            _log.warning("huggingface_hub cannot be imported, and its cache is left out of account: %s", error)
            return None
        cached = try_to_load_from_cache(hub.repository, hub.file, revision=hub.revision or None)
        if isinstance(cached, str) and _is_file_of(Path(cached), source):
            # The cache names its files by their hash as the hub gave it.
            blob = Path(os.path.realpath(cached)).name
            told = source.sha256 or (blob if re.fullmatch("[0-9a-f]{64}", blob) else "")
            return Found(Path(cached), "hub cache", told, PUBLISHED if told else "")
    return None


def missing(spec: ModelSpec) -> WeightsError:
    """Return the error for a model whose weights are not on this machine."""
    card = read_card(spec.key)
    if card is not None and card.hash_from == OWN and not card.is_complete:
        there = f"{card.path.stat().st_size:,} of {card.size:,} bytes" if card.path.is_file() else "no file"
        lost = [name for name in card.companions if not (card.folder / name).is_file()]
        if lost:
            there = f"{', '.join(lost)} beside them: no file"
        why = f"The weights of {spec.title} at {card.path} are damaged ({there})"
        again = f"and add them again, they came from {card.source}."
        return WeightsError(f"{why}: remove them (`zeroseg remove {spec.key}`) {again}").said_in_dock(
            f"{why}: remove them in the Models dock {again}"
        )
    if spec.sources[0].is_embedded:
        path = spec.sources[0].path
        return WeightsError(f"The weights of {spec.title} are not at {path}: reinstall napari-zeroseg.")
    if spec.state == "needs download":
        size = f" ({size_in_words(spec)})" if spec.size else ""
        dock = "" if arguments_of(spec) != spec.key else " or in the Models dock"
        why = f"The weights of {spec.title} are not on this machine"
        error = WeightsError(
            f"{why}: download them{size} with `zeroseg download {arguments_of(spec)}`{dock}, or give the path of a "
            "file as weights."
        )
        return error.said_in_dock(f"{why}: download them{size} in the Models dock.") if dock else error
    return bring(spec)


def bring(spec: ModelSpec) -> WeightsError:
    """Return the error for a model whose file only the user can get."""
    name = spec.sources[0].name or "the file"
    place = f" from {spec.homepage}" if spec.homepage else " from its publisher"
    why = f"The weights of {spec.title} cannot be downloaded from here: get {name}{place}, then add it"
    return WeightsError(f"{why} with `zeroseg add FILE --key {spec.key}` or in the Models dock.").said_in_dock(
        f"{why} in the Models dock."
    )


def megabytes(size: int) -> str:
    """Return a size for people: 375 MB, 2.6 GB, 12 kB."""
    if size >= 995_000_000:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 995_000 else f"{size / 1e3:.0f} kB"


def size_in_words(spec: ModelSpec) -> str:
    """Return the size of a model's weights for people; "?" where it is unknown."""
    if not spec.size:
        return "?"
    return megabytes(spec.size) if spec.weights.size else f"about {megabytes(spec.size)}"


def weights_of(
    spec: ModelSpec, given: str | Path | Mapping[str, Any] | None = None, cancel: CancelToken | None = None
) -> Weights:
    """Read the weights to build a model from: those given, else its own.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    given : path, state dict or repository, optional
        A checkpoint in its place. A repository on a hub ("OWNER/NAME") is looked for in hub caches, local folders and
        the models folder, where :func:`~napari_zeroseg.weights.download.download_model` puts it.
    cancel : CancelToken, optional
        Stops the reading of the model's own.

    Raises
    ------
    WeightsError
        If they are missing, damaged, unsafe, changed since they came, or another model's.
    CancelledError
        If `cancel` was raised.
    """
    if isinstance(given, str) and is_repository(given):
        return weights_of(of_repository(spec, given))
    if given is not None:
        weights = read_weights(given, spec.sources[0], spec.title)
        check_family(spec, weights, "" if isinstance(given, Mapping) else Path(given).name)
        return weights
    found = locate(spec)
    if found is None:
        raise missing(spec)
    if found.where == "package":
        return read_weights(None, next(source for source in spec.sources if is_there(source)), spec.title)
    weights = read_file(found.path, _trusted(found.card), cancel)
    if found.sha256 and weights.sha256 != found.sha256:
        raise WeightsError(
            f"The weights of {spec.title} at {found.path} are not those that they should be (sha256 "
            f"{weights.sha256[:12]}…, {found.hash_from}: {found.sha256[:12]}…): remove that file and get it again."
        )
    check_family(spec, weights)
    return weights


def _trusted(card: Card | None) -> str:
    """Return the hash on the card if the file is untouched since, so that gigabytes are not hashed at each start."""
    return card.sha256 if card is not None and card.path.stat().st_mtime_ns == card.changed else ""


def check_family(spec: ModelSpec, weights: Weights, name: str = "") -> None:
    """Refuse weights that are known to be another model's: by their hash, their parameters or their file's `name`.

    Raises
    ------
    WeightsError
        With the name of the model that they belong to.
    """
    from napari_zeroseg.catalogue import model_of_hash, models_of_name

    wanted = spec.base or spec.key
    if wanted not in known_models():
        return
    theirs = model_of_hash(weights.sha256)
    if theirs and theirs != wanted:
        raise WeightsError(f"These weights are the published ones of {theirs}, not {spec.title}'s: choose that model.")
    layout = weights.layout
    if layout is not None and wanted not in layout.candidates:
        belong = " or ".join(sorted(layout.candidates)) or "none of the models here"
        raise WeightsError(f"These weights are not {spec.title}'s: they are of {layout}. Choose {belong}.")
    named = models_of_name(name) & (layout.candidates if layout is not None else frozenset())
    if named and wanted not in named and not theirs:
        raise WeightsError(
            f"{name} is how the weights of {' or '.join(sorted(named))} are called, which have the parameters of "
            f"{spec.title} but want other pictures: choose that model, or give the file another name."
        )


def verify(spec: ModelSpec, cancel: CancelToken | None = None) -> VerifyReport:
    """Hash a model's files anew and compare.

    Raises
    ------
    WeightsError
        If they are not on this machine.
    CancelledError
        If `cancel` was raised.
    """
    found = locate(spec)
    if found is None:
        raise missing(spec)
    now = hash_again(found.path, cancel)
    if found.sha256 and now != found.sha256:
        sentence = (
            f"{found.path} has changed or is damaged: its sha256 is {now[:12]}…, {found.hash_from} it was "
            f"{found.sha256[:12]}…. Remove it and get it again."
        )
        return VerifyReport(spec.key, found.path, False, now, found.sha256, sentence)
    companions = found.card.companions if found.card else {}
    bad = [name for name, known in companions.items() if hash_again(found.path.parent / name, cancel) != known]
    if bad:
        sentence = (
            f"{', '.join(bad)} beside {found.path} changed since the download: remove the model and get it again."
        )
        return VerifyReport(spec.key, found.path, False, now, found.sha256, sentence)
    layout = None
    if not found.sha256 or ground_of(found.path) is not None:
        try:
            weights = read_file(found.path, cancel=cancel)
            check_family(spec, weights)
            layout = weights.layout
        except WeightsError as error:
            return VerifyReport(spec.key, found.path, False, now, found.sha256, f"{found.path} is no good: {error}")
    if found.sha256:
        says = f"as {found.hash_from}"
    else:
        known = spec.title if layout is not None else "a model that is not known"
        says = f"no hash is known to compare it with, and its parameters are those of {known}"
    return VerifyReport(spec.key, found.path, True, now, found.sha256, f"{found.path} is whole: sha256 {now}, {says}.")


def remove_model(spec: ModelSpec, cancel: CancelToken | None = None) -> None:
    """Delete a model's files from the models folder, and what an unfinished download left there.

    What is known of a first download stays, so that a later one that differs is noticed.

    Raises
    ------
    WeightsError
        If the model is inside the package, in a folder that is not ours, or not here at all, or another rests on it.
    CancelledError
        If `cancel` was raised before anything was deleted.
    """
    found, resting = locate(spec), resting_on(spec.key)
    # damaged weights are of no use to those that rest on them, and have to go before they can come again
    if resting and found is not None and found.card is not None and hash_again(found.path, cancel) == found.sha256:
        raise WeightsError(
            f"{spec.title} cannot be removed: the weights of {', '.join(resting)} rest on it, so remove those first."
        )
    folder, ours = model_folder(spec.key), _to_remove(spec.key)
    if not ours:
        raise _nothing_to_remove(spec)
    with if_free(folder) as is_free:
        if not is_free:
            raise WriteError(f"{spec.title} is being downloaded or added: stop that first, or wait for it.")
        try:
            for path in ours:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(f"{folder} could not be emptied ({error.strerror}): close what uses it.") from error


def left_in_folder(key: str) -> int:
    """Bytes that :func:`remove_model` would delete of a model: its files, whole or damaged, and parts of downloads."""
    return sum(path.stat().st_size for path in _to_remove(key))


def _to_remove(key: str) -> list[Path]:
    """Our files of a model; none where they are empty, as those that only say that something was there."""
    card = read_card(key)
    kept = {LOCK, PINS, CARD} if card is not None and card.hash_from == PINNED else {LOCK, PINS}
    ours = [path for path in model_folder(key).glob("*") if path.name not in kept]
    return ours if any(path.stat().st_size for path in ours) else []


def _nothing_to_remove(spec: ModelSpec) -> WeightsError:
    found = locate(spec)
    if found is None:
        return WeightsError(f"There is nothing to remove: the weights of {spec.title} are not on this machine.")
    if found.where == "package":
        return WeightsError(f"{spec.title} is part of napari-zeroseg and cannot be removed.")
    return WeightsError(f"The weights of {spec.title} lie in a {found.where} at {found.path}: remove them there.")
