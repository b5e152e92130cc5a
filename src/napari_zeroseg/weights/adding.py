"""Add a checkpoint that the user has: whose it is, that it is whole, and a copy of it in the models folder."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from napari_zeroseg.errors import UnknownModelError, WeightsError, WriteError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights.blocks import copy_file
from napari_zeroseg.weights.cards import OWN, PUBLISHED, Card, keep_pins, model_folder, other_than_first
from napari_zeroseg.weights.folder import check_family, locate, megabytes
from napari_zeroseg.weights.holding import one_at_a_time
from napari_zeroseg.weights.layouts import known_models
from napari_zeroseg.weights.reading import Weights, check_whole, file_of, hash_again, read_file
from napari_zeroseg.weights.workplaces import sweep

if TYPE_CHECKING:
    from napari_zeroseg.catalogue import ModelSpec

_log = logging.getLogger(__name__)

_WORDS = ("vocab.json", "merges.txt")
_WHOLE_TOKENIZER = "tokenizer.json"
"""Instead of the two."""

Specs = Mapping[str, "ModelSpec"]
Check = Callable[["ModelSpec", Weights], None]

COMPANION_LIMIT = 20_000_000
"""Bytes; what lies in a transformers folder and is larger is no configuration or vocabulary."""


def whose(path: Path, weights: Weights, specs: Specs) -> set[str]:
    """Return the keys of the models whose weights a file can be: by its hash, its parameters, its name.

    Parameters
    ----------
    path : Path
        The file.
    weights : Weights
        What was read from it.
    specs : mapping of str to ModelSpec
        All models.

    Returns
    -------
    set of str
        One if it is known; several (such as SAM vit_b and MedSAM, which have the same parameters) if the user must say;
        none if it is of no family that is known here.
    """
    published = {source.sha256: spec.key for spec in specs.values() for source in spec.sources if source.sha256}
    if weights.sha256 in published:
        return {published[weights.sha256]}
    candidates = set(weights.layout.candidates) & set(specs) if weights.layout else set()
    named = {key for key in candidates for source in specs[key].sources if source.name == path.name}
    # Every transformers folder calls its file the same.
    return named if len(named) == 1 and weights.layout and weights.layout.form != "transformers" else candidates


def add_checkpoint(
    path: str | Path,
    specs: Specs,
    key: str | None = None,
    name: str | None = None,
    *,
    link: bool = False,
    check: Check | None = None,
    origin: str = "",
    cancel: CancelToken | None = None,
) -> str:
    """Add a checkpoint to the models folder and return the key that it is listed under.

    Parameters
    ----------
    path : path
        A .pt, .pth or .safetensors file, or a folder that transformers saved.
    specs : mapping of str to ModelSpec
        All models by key.
    key : str, optional
        Which model's weights they are; needed where the file does not tell.
    name : str, optional
        A name of its own in the list, for weights that are not the published ones. Left out, the file becomes the
        model's own weights.
    link : bool
        Link the file instead of copying it, where both are on one disk.
    check : callable, optional
        Called with (spec, weights) before anything is written; what it raises stops the adding.
    origin : str, optional
        Where the weights are from, for the card; left out, `path`.
    cancel : CancelToken, optional
        Stops the reading and copying; nothing is added then.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, unsafe or another model's, it cannot be told whose it is, or a folder of a
        model of words lacks its vocabulary.
    UnknownModelError
        If there is no model `key`.
    WriteError
        If it cannot be copied.
    CancelledError
        If `cancel` was raised.
    """
    file = file_of(Path(path).expanduser(), "the model").absolute()
    check_whole(file)
    weights = read_file(file, cancel=cancel)
    if weights.layout is not None and (weights.layout.family, weights.layout.form) == ("pa_sam", "decoder"):
        from napari_zeroseg.weights.joining import sams_here

        here = " or ".join(sams_here())
        why = f"{file.name} holds PA-SAM's decoder alone"
        raise WeightsError(
            f"{why}: name the SAM checkpoint that it was trained on as well, with `zeroseg add DECODER --with "
            f"SAM_CHECKPOINT`{f', which can be {here}' if here else ''}."
        ).said_in_dock(f"{why}: choose it by Add a checkpoint, which asks for the SAM that it was trained on.")
    base = _decided(file, weights, specs, key)
    check_family(base, weights)
    if Path(path).expanduser().is_dir():
        _check_words(base, file, specs)
    listed = _free_name(base, file, weights, specs, name)
    if check is not None:
        check(base, weights)
    folder = model_folder(listed)
    sweep()
    _make_room(folder, 0 if link else file.stat().st_size)
    with one_at_a_time(folder, cancel or CancelToken()):
        _store(file, folder, _card(base, listed, file, weights, origin), link, cancel)
    return listed


def _decided(file: Path, weights: Weights, specs: Specs, key: str | None) -> ModelSpec:
    if key is not None:
        if key not in specs:
            raise UnknownModelError(f"There is no model {key!r}; there are: {', '.join(specs)}.")
        if weights.layout is None and key in known_models():
            first = ", ".join(list(weights.tensors)[:3])
            raise WeightsError(
                f"{file.name} is not {specs[key].title}'s: it holds {first} and other entries unknown here."
            )
        check_family(specs[key], weights, file.name)
        return specs[key]
    candidates = whose(file, weights, specs)
    if len(candidates) == 1:
        return specs[candidates.pop()]
    if candidates:
        why = f"{file.name} can be {' or '.join(sorted(candidates))}: they have the same parameters."
        raise WeightsError(f"{why} Say which it is, with --key.").said_in_dock(
            f"{why} Choose the model in the list, then Add its file."
        )
    if weights.layout is not None:
        raise WeightsError(f"{file.name} holds {weights.layout} of a size that no model here has.")
    first = ", ".join(list(weights.tensors)[:3])
    why = f"{file.name} holds weights of no family that is known here (its first entries are {first})"
    raise WeightsError(f"{why}: if another package brought its model, say which with --key.").said_in_dock(
        f"{why}: if another package brought its model, choose that in the list, then Add its file."
    )


def _free_name(base: ModelSpec, file: Path, weights: Weights, specs: Specs, name: str | None) -> str:
    """Return the key to list the file under, which must not hide another model's weights."""
    if name is not None:
        model_folder(name)  # raises if it cannot be a name
        if name in specs:
            raise WeightsError(f"There is a model {name!r} already: choose another name, or remove that one first.")
        return name
    there = locate(base)
    if there is not None:
        or_remove = ", or remove those first" if there.card is not None else ""
        why = f"{base.title} has its weights already, at {there.path}: give this file a name of its own"
        how = f" (`zeroseg remove {base.key}`)" if or_remove else ""
        raise WeightsError(f"{why} with --name{or_remove}{how}.").said_in_dock(f"{why}{or_remove}.")
    known = _published_of_its_form(base, weights)
    if known and weights.sha256 not in known:
        why = f"This file is not the published one of {base.title} (its sha256 is {weights.sha256[:12]}…)"
        raise _wants_name(why)
    first = other_than_first(base.key, file.name, weights.sha256)
    if first is not None:
        why = f"This file is not the one that was downloaded first as {base.title}"
        hashes = f"(its sha256 is {weights.sha256[:12]}…, on {first.date[:10]} it was {first.sha256[:12]}…)"
        raise _wants_name(f"{why} {hashes}")
    return base.key


def _wants_name(why: str) -> WeightsError:
    own = f"{why}: give it a name of its own"
    return WeightsError(f"{own} with --name.").said_in_dock(f"{own}.")


def _published_of_its_form(base: ModelSpec, weights: Weights) -> set[str]:
    of_hub = weights.layout is not None and weights.layout.form == "transformers"
    return {source.sha256 for source in base.sources if (source.hub is not None) == of_hub} - {""}


def _card(base: ModelSpec, key: str, file: Path, weights: Weights, origin: str) -> Card:
    state = file.stat()
    # a model that the user added has no publisher
    published = set() if base.base else {source.sha256 for source in base.sources}
    return Card(
        key=key,
        base=base.base or base.key,
        title=base.title if key == base.key else key,
        file=file.name,
        sha256=weights.sha256,
        size=state.st_size,
        changed=state.st_mtime_ns,
        hash_from=PUBLISHED if weights.sha256 in published else OWN,
        source=origin or str(file),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        companions={path.name: hash_again(path) for path in _companions(file)},
    )


def _check_words(base: ModelSpec, file: Path, specs: Specs) -> None:
    """Refuse a folder of a model of words without its vocabulary, unless another model of its family has it here."""
    sources = specs.get(base.base, base).sources
    source = next((one for one in sources if set(_WORDS) & set(one.companions)), None)
    family = [found.path for spec in specs.values() if spec.family == base.family and (found := locate(spec))]
    if source is None or any(_lost_words(path) == () for path in family):
        return
    lost = _lost_words(file)
    if lost:
        places = ", ".join(filter(None, (source.url(Settings.from_environment(), name) for name in lost)))
        raise WeightsError(
            f"{file.parent} lacks {', '.join(lost)}, without which {base.title} reads no text: get them from "
            f"{places or base.homepage or 'its publisher'}, put them there, and add the folder again."
        )


def _lost_words(file: Path) -> tuple[str, ...]:
    """Which files a tokenizer lacks beside weights."""
    there = {path.name for path in _companions(file)}
    lost = [name for name in _WORDS if name not in there]
    return () if not lost or _WHOLE_TOKENIZER in there else (*(() if there else ("config.json",)), *lost)


def _companions(file: Path) -> list[Path]:
    """Return the configuration and vocabulary that lie beside weights in a folder that transformers saved."""
    if not (file.parent / "config.json").is_file():
        return []
    beside = (*file.parent.glob("*.json"), *file.parent.glob("*.txt"))
    return sorted(path for path in beside if path.is_file() and path.stat().st_size <= COMPANION_LIMIT)


def _make_room(folder: Path, size: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise WriteError(
            f"{folder} cannot be made ({error.strerror}): set ZEROSEG_DATA_DIR to another place."
        ) from error
    if size > free:
        why = f"There is no room for a copy: it takes {megabytes(size)} and {megabytes(free)} are free in {folder}."
        raise WriteError(f"{why} Make room, or link the file with --link.").said_in_dock(
            f"{why} Make room, or set ZEROSEG_DATA_DIR to a larger disk and start napari again."
        )


def _store(file: Path, folder: Path, card: Card, link: bool, cancel: CancelToken | None) -> None:
    """Put a file and its companions into their places; all of them, or none."""
    temporary = folder / f".{file.name}.tmp"
    beside = {companion: folder / companion.name for companion in _companions(file)}
    laid = [target for target in beside.values() if not target.exists()]
    try:
        temporary.unlink(missing_ok=True)
        if not (link and _linked(file, temporary)):
            copy_file(file, temporary, cancel)
            os.utime(temporary, ns=(card.changed, card.changed))
        for companion, target in beside.items():
            copy_file(companion, target)
        keep_pins(card.key)
        card.write()
        temporary.replace(card.path)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"{file.name} could not be copied to {folder} ({error.strerror}): make room there.") from error
    finally:
        temporary.unlink(missing_ok=True)
        if not card.path.exists():
            for path in laid:
                path.unlink(missing_ok=True)
    _log.debug("%s was added as %s.", file, card.key)


def _linked(file: Path, target: Path) -> bool:
    try:
        target.hardlink_to(file)
    except OSError as error:
        _log.info("%s cannot be linked (%s) and is copied.", file, error.strerror)
        return False
    return True
