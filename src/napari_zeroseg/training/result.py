"""A trained model in the models folder: put there, and sent to others as one file."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from napari_zeroseg.errors import InputError, ReadError, WeightsError, WriteError, ZerosegError
from napari_zeroseg.registry import ModelSpec, add_checkpoint, find_model, list_models, load_model
from napari_zeroseg.settings import Settings
from napari_zeroseg.training import card as cards
from napari_zeroseg.training.archive import put_into, take_out, target_of, write_archive
from napari_zeroseg.training.events import plain
from napari_zeroseg.weights.cards import model_folder, read_card
from napari_zeroseg.weights.folder import locate
from napari_zeroseg.weights.reading import hash_again
from napari_zeroseg.weights.workplaces import IMPORTING, TRAINING, workplace

if TYPE_CHECKING:
    from torch import Tensor

    from napari_zeroseg.jobs import CancelToken
    from napari_zeroseg.segmenter import Segmenter

_log = logging.getLogger(__name__)

WEIGHTS_FILE = "weights.safetensors"
FORM = 1
"""Of exported files."""
_FORM_FILE = "zeroseg-model.json"
_LARGEST_COMPANION = 50_000_000
"""Bytes of a companion, beyond those of an encoder of the class's own."""


@dataclass(frozen=True)
class TrainedModel:
    """What a training run came to.

    Attributes
    ----------
    key : str
        Under which :func:`napari_zeroseg.load_model` finds it.
    card : dict
        Figures, settings and origin, as in ``training.json``.
    better : bool
        Whether the figures of the planes held back speak for it beyond chance, and not for its base: see
        :class:`napari_zeroseg.training.card.Verdict`.
    run : Path
        The run's folder.
    """

    key: str
    card: dict[str, Any]
    better: bool
    run: Path

    @property
    def spec(self) -> ModelSpec:
        """Its row of the model list."""
        return find_model(self.key)

    @property
    def verdict(self) -> str:
        """Whether to use it, and why, in a sentence."""
        return str(self.card["verdict"])

    def load(self, device: str = "auto", precision: str = "auto") -> Segmenter:
        """Load it."""
        return load_model(self.key, device=device, precision=precision)


def check_name(name: str) -> None:
    """Raise before anything is computed if a model cannot be listed under a name.

    Raises
    ------
    InputError
        If it could not be a folder's name, or there is a model of that name.
    """
    model_folder(name)
    # what is in the folder may be unlisted only because the package of its base has gone
    if name in {spec.key for spec in list_models()} or read_card(name) is not None:
        raise InputError(f"There is a model {name!r} already: choose another name, or remove that one first.")


def register(
    name: str,
    base: ModelSpec,
    form: str,
    tensors: Mapping[str, Tensor],
    card: Mapping[str, Any],
    others: Mapping[str, Path],
    lay_beside: Callable[[Path], None] = lambda folder: None,
    head: Mapping[str, str] | None = None,
) -> ModelSpec:
    """Put a trained model into the models folder, where the list finds it.

    Parameters
    ----------
    name : str
    base : ModelSpec
        What it learnt from, whose licence binds it.
    form : str
        Key of the model whose network it is.
    tensors : mapping of str to Tensor
        Weights under their official names: all, or what :func:`napari_zeroseg.weights.resting.kept` gives.
    card : mapping
        What :mod:`napari_zeroseg.training.card` writes.
    others : mapping of str to Path
        Further files to lie beside it, by their name there.
    lay_beside : callable, optional
        Called with a folder to write files into that the network needs beside its weights.
    head : mapping of str to str, optional
        What the head of the file says.

    Raises
    ------
    InputError
        If there is a model of that name.
    WriteError, WeightsError
        If the disk is full, or the weights cannot be built into the base's network; nothing is listed then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    check_name(name)
    home = Settings.from_environment().models_dir
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _whole_or_not_at_all(name) as folder, workplace(TRAINING) as place:
            # before it is listed: whoever finds it half made after a kill can tell whose it is
            cards.write(folder, card)
            beside = [cards.JSON_FILE, cards.TEXT_FILE, *_laid(folder, others)]
            file = place / WEIGHTS_FILE
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, dict(head or {}) or None)
            lay_beside(place)
            spec = add_checkpoint(file, form, name, link=True)
            # what learnt from weights is bound by their licence
            hashes = {inside: hash_again(folder / inside) for inside in beside}
            _furnish(name, "a training run", hashes, base.licence, base.licence_note)
    except WriteError as error:
        raise _no_room(home, error) from error
    except (OSError, SafetensorError) as error:
        if isinstance(error, ZerosegError):
            raise
        raise _no_room(home, error) from error
    return find_model(spec.key)


def _no_room(home: Path, error: Exception) -> WriteError:
    return WriteError(
        f"The model could not be written to {home} ({error}): make room there; the run's folder keeps the weights, and "
        "--resume writes the model."
    )


@contextmanager
def _whole_or_not_at_all(name: str) -> Iterator[Path]:
    """Give the folder of a model that is to be made, and remove it again if making it fails."""
    folder = model_folder(name)
    try:
        folder.mkdir(exist_ok=True)
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _laid(folder: Path, files: Mapping[str, Path]) -> list[str]:
    """Copy files into a model's folder; the names of those that there are."""
    there = {name: file for name, file in files.items() if file.is_file()}
    for name, file in there.items():
        shutil.copyfile(file, folder / name)
    return list(there)


def _furnish(name: str, source: str, companions: Mapping[str, str], licence: str, licence_note: str) -> None:
    """Note on a model's card what was laid beside it, where it is from, and its licence."""
    own = read_card(name)
    assert own is not None
    together = {**own.companions, **companions}
    replace(own, source=source, companions=together, licence=licence, licence_note=licence_note).write()


def made_by(run: str, settings: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The card of a model that is listed already, if this very run made it; None otherwise.

    A run that was killed between making its model and saying so finds it with this. If the model is only half made, it
    is removed, so that the run can make it again.

    Parameters
    ----------
    run : str
        The run's identity.
    settings : mapping
        Those of its folder, from :meth:`~napari_zeroseg.training.folder.RunFolder.settings`.
    name : str
        Of the model.
    """
    own = read_card(name)
    try:
        card = cards.read(name)
    except ReadError:
        return None
    if own is None or card.get("run_id") != run or card.get("settings") != plain(dict(settings)):
        return None
    if own.is_complete and cards.JSON_FILE in own.companions:
        return card
    shutil.rmtree(model_folder(name), ignore_errors=True)
    return None


def export_model(key: str, path: str | Path, *, overwrite: bool = False, cancel: CancelToken | None = None) -> Path:
    """Write a model of the models folder as one file, with its card and everything that belongs to it.

    Parameters
    ----------
    key : str
        A model that was trained, added or downloaded.
    path : path
        The file; ".zip" is added where it has no ending.
    overwrite : bool
        Whether a file of that name may be replaced.
    cancel : CancelToken, optional
        Stops the writing; what was there before stays.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UnknownModelError, InputError, WriteError
        If there is no such model in the models folder, or the file cannot be written.
    CancelledError
        If `cancel` was raised.
    """
    found = locate(find_model(key))
    if found is None or found.card is None:
        raise InputError(f"{key} is not in the models folder, so there is nothing to export: choose a trained model.")
    path = target_of(path, overwrite)
    own = found.card
    note = {"form": FORM, "key": key, "base": own.base, "file": own.file, "sha256": own.sha256}
    note |= {"licence": own.licence, "licence_note": own.licence_note}

    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr(_FORM_FILE, json.dumps({**note, "companions": dict(own.companions)}, indent=2))
        for name in (own.file, *own.companions):
            put_into(archive, own.folder / name, name, cancel)

    write_archive(path, fill)
    return path


def key_in(path: str | Path) -> str:
    """The key under which a model was exported; "" if a file is none that :func:`export_model` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read(_FORM_FILE))["key"])
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError):
        return ""


def import_model(path: str | Path, name: str | None = None, *, cancel: CancelToken | None = None) -> ModelSpec:
    """Add a model that :func:`export_model` wrote.

    Parameters
    ----------
    path : path
    name : str, optional
        Another name in the list.
    cancel : CancelToken, optional
        Stops the unpacking and reading; nothing is added then.

    Raises
    ------
    ReadError, WeightsError, InputError, WriteError
        If the file is damaged or of something else, its base is unknown here, or the name is taken.
    CancelledError
        If `cancel` was raised.
    """
    path = Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as archive:
            note = json.loads(archive.read(_FORM_FILE))
            if note.get("form") != FORM:
                raise InputError(f"{path.name} was written by another version of napari-zeroseg: use that one.")
            return _unpack(archive, note, path, name or str(note["key"]), cancel)
    except FileNotFoundError as error:
        raise ReadError(f"There is no file {path}: check its name and place.") from error
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        if isinstance(error, ZerosegError):
            raise
        raise ReadError(f"{path.name} is no exported model, or it is damaged: export it again.") from error


def _unpack(
    archive: zipfile.ZipFile, note: Mapping[str, Any], path: Path, name: str, cancel: CancelToken | None
) -> ModelSpec:
    check_name(name)
    companions = dict(note["companions"])
    for inside in (note["file"], *companions):
        if inside == ".." or any(kind(inside).name != inside for kind in (PurePosixPath, PureWindowsPath)):
            raise ReadError(f"{path.name} names a file outside itself ({inside}): it is not to be trusted.")
        # a class may have an encoder of its own, in float32 beside weights of half that size
        largest = _LARGEST_COMPANION + 2 * archive.getinfo(note["file"]).file_size
        if archive.getinfo(inside).file_size > largest:
            raise ReadError(f"{path.name} holds {inside}, which is too large to belong to a model.")
    home = Settings.from_environment().models_dir
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _whole_or_not_at_all(name) as folder, workplace(IMPORTING) as place:
            files = {inside: take_out(archive, inside, place, cancel) for inside in (note["file"], *companions)}
            wrong = [inside for inside, file in files.items() if hash_again(file, cancel) != _hash_of(note, inside)]
            if wrong:
                raise WeightsError(f"{path.name} is damaged: {wrong[0]} is not what it was when it was exported.")
            _laid(folder, {inside: files[inside] for inside in companions})
            spec = add_checkpoint(files[note["file"]], note["base"], name, link=True, cancel=cancel)
            licence, licence_note = (str(note.get(what, "")) for what in ("licence", "licence_note"))
            _furnish(name, str(path), companions, licence, licence_note)
    except OSError as error:
        if isinstance(error, ZerosegError):
            raise
        raise WriteError(f"{path.name} could not be unpacked into {home} ({error}): make room there.") from error
    return find_model(spec.key)


def _hash_of(note: Mapping[str, Any], inside: str) -> str:
    return str(note["sha256"] if inside == note["file"] else note["companions"][inside])
