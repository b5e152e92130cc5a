"""Weights that are named by their repository on a model hub, such as "facebook/sam-vit-base"."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_zeroseg.errors import InputError
from napari_zeroseg.weights.reading import FOLDER_FILES, SUFFIXES
from napari_zeroseg.weights.sources import HUB, HUB_HOME, WeightsSource

if TYPE_CHECKING:
    from napari_zeroseg.catalogue import ModelSpec

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}(@{_NAME})?")
_LONGEST_KEY = 64
SEE_REPOSITORY = "LicenseRef-see-repository"
"""Licence of weights of which only their own page says it."""
_EXAMPLE = "facebook/sam-vit-base"


def is_repository(weights: object) -> bool:
    """Whether weights are named as OWNER/NAME or OWNER/NAME@REVISION, and nothing of that name lies here."""
    if not isinstance(weights, str) or weights.endswith(SUFFIXES):
        return False
    return _REPOSITORY.fullmatch(weights) is not None and not Path(weights).exists()


def of_repository(spec: ModelSpec, repository: str) -> ModelSpec:
    """Return the spec of a model with the weights of a repository, as transformers saves them there.

    It has a folder of its own in the models folder, so the model's own weights stay as they are.

    Parameters
    ----------
    spec : ModelSpec
        The model that the weights are for; it says which companions they need.
    repository : str
        "OWNER/NAME" or "OWNER/NAME@REVISION".

    Raises
    ------
    InputError
        If it is not written so, or is another model's.
    """
    if _REPOSITORY.fullmatch(repository) is None:
        raise InputError(f"{repository!r} is no repository on a hub: write it as OWNER/NAME, such as {_EXAMPLE}.")
    _check_whose(spec, repository)
    companions = next((source.companions for source in spec.sources if source.companions), ())
    places = [WeightsSource(f"{HUB}{repository}/{name}", companions=companions) for name in FOLDER_FILES]
    name = repository.partition("@")[0]
    page = f"{HUB_HOME}/{name}"
    own = any(source.hub is not None and source.hub.repository == name for source in spec.sources)
    return replace(
        spec,
        key=_key(repository),
        title=f"{spec.title} ({repository})",
        licence=spec.licence if own else SEE_REPOSITORY,
        licence_note=spec.licence_note if own else f"Its publisher states it at {page}.",
        weights=places[0],
        alternatives=tuple(places[1:]),
        homepage=page,
        base=spec.base or spec.key,
        about_bytes=0,
    )


def _check_whose(spec: ModelSpec, repository: str) -> None:
    """Refuse the repository of another model that has the same parameters, such as MedSAM's for SAM ViT-B."""
    from napari_zeroseg.catalogue import BUILT_IN

    name = repository.partition("@")[0]
    theirs = {one.key for one in BUILT_IN for source in one.sources if source.hub and source.hub.repository == name}
    if theirs and (spec.base or spec.key) not in theirs:
        raise InputError(
            f"{repository} holds the weights of {' or '.join(sorted(theirs))}, not {spec.title}'s: choose that model."
        )


def _key(repository: str) -> str:
    """Name of the model's folder: the repository's, without what a folder's name cannot hold."""
    key = repository.replace("/", "--").replace("@", "--")
    if len(key) <= _LONGEST_KEY and not key.endswith("."):
        return key
    return f"{key[: _LONGEST_KEY - 9]}-{hashlib.sha256(repository.encode()).hexdigest()[:8]}"


def arguments_of(spec: ModelSpec) -> str:
    """Return what `zeroseg download` needs to hear to fetch a model: its key, or another key and a repository."""
    hub = spec.weights.hub
    if not spec.base or hub is None:
        return spec.key
    return f"{spec.base} --weights {hub.repository}{f'@{hub.revision}' if hub.revision else ''}"
