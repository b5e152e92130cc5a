"""Download a model: licence, sources in turn, one process at a time, the card beside the file."""

from __future__ import annotations

import json
import logging
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from napari_zeroseg.errors import (
    ChangedWeightsError,
    DownloadError,
    InputError,
    LicenceError,
    WeightsError,
    WriteError,
)
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.settings import Settings
from napari_zeroseg.weights.cards import PINNED, PUBLISHED, Card, keep_pins, model_folder, pins_of
from napari_zeroseg.weights.fetch import Fetched, Patience, Progress, Wanted, fetch, note_of
from napari_zeroseg.weights.folder import bring, locate, size_in_words
from napari_zeroseg.weights.holding import one_at_a_time
from napari_zeroseg.weights.layouts import detect_layout, known_models
from napari_zeroseg.weights.reading import check_whole, shapes_of
from napari_zeroseg.weights.repositories import arguments_of
from napari_zeroseg.weights.sources import WeightsSource, host_of
from napari_zeroseg.weights.workplaces import sweep

if TYPE_CHECKING:
    from napari_zeroseg.catalogue import ModelSpec

_log = logging.getLogger(__name__)


class Offer(NamedTuple):
    """What a download would bring: to show before it starts."""

    size: str
    hosts: tuple[str, ...]
    licence: str
    note: str

    def sentence(self, title: str) -> str:
        """Return size, place and licence in words."""
        size = self.size if self.size != "?" else "a file of unknown size"
        first, *others = dict.fromkeys(self.hosts)
        hosts = f"{first} (else from {', '.join(others)})" if others else first
        return f"{title}: {size} from {hosts}. Licence of the weights: {self.licence}. {self.note}".strip()


def offer_of(spec: ModelSpec) -> Offer:
    """Return size, hosts and licence of a download.

    Raises
    ------
    WeightsError
        If the model cannot be downloaded.
    DownloadError
        If the user wants nothing fetched.
    """
    places = _places(spec)
    if not places:
        raise bring(spec)
    if Settings.from_environment().offline:
        why = f"{spec.title} is not on this machine, and ZEROSEG_OFFLINE or HF_HUB_OFFLINE forbids downloads"
        raise DownloadError(
            f"{why}: unset it, or get the file elsewhere and add it with `zeroseg add FILE --key "
            f"{spec.base or spec.key}`."
        ).said_in_dock(
            f"{why}: unset it and start napari again, or get the file elsewhere and choose it by Add a checkpoint."
        )
    return Offer(size_in_words(spec), tuple(host_of(url) for _, url in places), spec.licence, spec.licence_note)


def download_model(
    spec: ModelSpec,
    *,
    licence_accepted: bool,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    accept_change: str = "",
    patience: Patience | None = None,
) -> Path:
    """Download a model's weights into the models folder; does nothing if they are on this machine.

    Several processes may ask at once: one downloads, the others wait for it. After an error, a cancellation or a kill
    the next call goes on from what is there.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    licence_accepted : bool
        Whether the user has seen the licence of the weights and accepts it.
    progress : callable, optional
        Called with (bytes there, bytes in all or 0).
    cancel : CancelToken, optional
        Stops the download.
    accept_change : str
        sha256, or its first digits (eight at least), of a file to take although the first download of it was another:
        the error that refused it tells.
    patience : Patience, optional
        Timeouts and tries.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If `accept_change` is no hash.
    LicenceError
        If the licence is not accepted.
    DownloadError, WriteError, CancelledError
        If it cannot be fetched, cannot be kept, or was cancelled.
    WeightsError
        If the model cannot be downloaded, or what came is not weights or not what came first.
    """
    found = locate(spec)
    if found is not None:
        return found.path
    _check_allowed(spec, licence_accepted)
    if accept_change and not re.fullmatch("[0-9a-fA-F]{8,64}", accept_change):
        raise InputError(f"A file is accepted by its sha256 or eight or more digits of it; got {accept_change!r}.")
    folder = _made(model_folder(spec.key))
    sweep()
    with one_at_a_time(folder, cancel or CancelToken()):
        found = locate(spec)  # another process may have brought it meanwhile
        if found is not None:
            return found.path
        watch = _Watch(progress, cancel or CancelToken(), patience or Patience(), accept_change.lower())
        return _from_first_that_works(spec, watch)


def _check_allowed(spec: ModelSpec, licence_accepted: bool) -> None:
    """Raise where the user wants nothing fetched, or has not accepted the licence."""
    offer = offer_of(spec)
    if not licence_accepted:
        raise LicenceError(
            f"{offer.sentence(spec.title)} Accept the licence to download it: `zeroseg download {arguments_of(spec)} "
            "--accept-licence`, or licence_accepted=True."
        )


class _Watch(NamedTuple):
    progress: Progress | None
    cancel: CancelToken
    patience: Patience
    accepted: str
    """First digits of the hash of a file that may differ from the first one."""

    def after(self, bytes_before: int) -> _Watch:
        """The same for the next file of several, so that the bar does not begin anew."""
        told = self.progress
        if told is None or not bytes_before:
            return self
        return self._replace(progress=lambda done, total: told(bytes_before + done, total and bytes_before + total))


def _places(spec: ModelSpec) -> list[tuple[WeightsSource, str]]:
    settings = Settings.from_environment()
    places = [(source, source.url(settings)) for source in spec.sources]
    return [(source, url) for source, url in places if url]


def _from_first_that_works(spec: ModelSpec, watch: _Watch) -> Path:
    errors: list[DownloadError] = []
    for source, url in _places(spec):
        try:
            return _get(spec, source, url, watch)
        except DownloadError as error:
            errors.append(error)
            _log.info("%s", error)
    if len(errors) == 1:
        raise errors[0]
    # with a mirror, all of them may be one and the same
    first, *rest = dict.fromkeys(url for _, url in _places(spec))
    others = [host for host in dict.fromkeys(map(host_of, rest)) if host != host_of(first)]
    if others:
        raise DownloadError(f"{errors[0]} {', '.join(others)} did not work either.") from errors[0]
    raise DownloadError(f"{errors[0]}{' Its other file there did not come either.' if rest else ''}") from errors[0]


def _get(spec: ModelSpec, source: WeightsSource, url: str, watch: _Watch) -> Path:
    """Fetch the files of one source, check them, and put card and files in their places."""
    settings = Settings.from_environment()
    folder = model_folder(spec.key)
    companions: dict[str, str] = {}
    before = 0
    for name in source.companions:
        wanted = Wanted(source.url(settings, name), headers=_identity(source), from_hub=source.hub is not None)
        fetched = _fetch(wanted, _part(folder, name), watch.after(before))
        _check_companion(_part(folder, name), name)
        companions[name] = fetched.sha256
        before += fetched.size
    wanted = Wanted(url, source.sha256, source.size, _identity(source), source.hub is not None)
    part = _part(folder, source.name)
    fetched = _fetch(wanted, part, watch.after(before))
    # what a hub says of its file today is compared with what came, but is no promise about tomorrow
    hash_from = PUBLISHED if source.sha256 else PINNED
    card = _card(spec, source, url, fetched, companions, hash_from, part)
    try:
        check_whole(part, source.name)
        if hash_from == PINNED:
            _check_whose(spec, part, source.name)
        _compare_with_first(spec, card, watch.accepted)
    except WeightsError:
        for name in (source.name, *companions):
            _drop(_part(folder, name))
        raise
    # The card goes first: were this process killed in between, the hashes would still be remembered.
    keep_pins(spec.key)
    card.write()
    for name in companions:
        _settle(_part(folder, name), folder / name)
    _settle(part, card.path)
    for other in spec.sources:  # what came of a place that was tried before this one
        _drop(_part(folder, other.name))
    _log.debug("%s is ready: %s", spec.title, card.path)
    return card.path


def _settle(part: Path, target: Path) -> None:
    """Give a whole file its name."""
    try:
        part.replace(target)
    except OSError as error:
        raise WriteError(f"{target} could not be put in its place ({error.strerror}): download it again.") from error
    note_of(part).unlink(missing_ok=True)


def _drop(part: Path) -> None:
    """Remove what came of a file, and the note beside it."""
    part.unlink(missing_ok=True)
    note_of(part).unlink(missing_ok=True)


def _check_companion(part: Path, name: str) -> None:
    """Raise if a configuration or vocabulary is none: what comes instead of it is mostly a web page."""
    try:
        text = part.read_text(encoding="utf-8")
        if name.endswith(".json"):
            json.loads(text)
        if text.lstrip()[:1] in ("", "<"):
            raise ValueError("it is a web page, or empty")
    except ValueError as error:
        _drop(part)
        raise WeightsError(
            f"{name} is not what belongs to the model ({error}): the address may want a login. Download it again, or "
            "get the folder with a browser and add it."
        ) from error


def _check_whose(spec: ModelSpec, part: Path, name: str) -> None:
    """Refuse another model's file before it is remembered as the right one; only where no hash tells."""
    shapes = shapes_of(part, name)
    layout = detect_layout(shapes)
    wanted = spec.base or spec.key
    if wanted not in known_models() or (layout is not None and wanted in layout.candidates):
        return
    if layout is None:
        said = f"it holds {', '.join(list(shapes)[:3])} and other entries unknown here"
    else:
        said = f"it is one of {layout} ({' or '.join(sorted(layout.candidates)) or 'none of the models here'})"
    raise WeightsError(
        f"What came is not the file of {spec.title}: {said}, so it was not kept. Tell who runs the mirror or the "
        "repository, or get the file elsewhere and add it."
    )


def _fetch(wanted: Wanted, part: Path, watch: _Watch) -> Fetched:
    return fetch(wanted, part, progress=watch.progress, cancel=watch.cancel, patience=watch.patience)


def _part(folder: Path, name: str) -> Path:
    return folder / f".{name}.part"


def _identity(source: WeightsSource) -> dict[str, str]:
    """Say who the user is, to a hub only, and only if the user has logged in there."""
    if source.hub is None or Settings.from_environment().mirror:
        return {}
    try:
        from huggingface_hub import get_token
    except ImportError:
        return {}
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _card(
    spec: ModelSpec,
    source: WeightsSource,
    url: str,
    fetched: Fetched,
    companions: dict[str, str],
    hash_from: str,
    path: Path,
) -> Card:
    return Card(
        key=spec.key,
        base=spec.base or spec.key,
        title=spec.title,
        file=source.name,
        sha256=fetched.sha256,
        size=fetched.size,
        changed=path.stat().st_mtime_ns,
        hash_from=hash_from,
        source=url,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        companions=companions,
    )


def _compare_with_first(spec: ModelSpec, card: Card, accepted: str) -> None:
    """Refuse what came otherwise under its name before, where only that says what it should be; vocabularies too."""
    if card.hash_from == PUBLISHED:
        return
    pins = pins_of(spec.key)
    if pins and card.file not in pins:
        _log.info("The weights of %s came as %s, and first as one of %s.", spec.title, card.file, ", ".join(pins))
    files = {card.file: card.sha256, **card.companions}
    changed = [(name, pins[name], now) for name, now in files.items() if name in pins and pins[name].sha256 != now]
    if changed and not (accepted and changed[0][2].startswith(accepted)):
        name, first, now = changed[0]
        raise ChangedWeightsError(
            f"{host_of(card.source)} now gives another {'file' if name == card.file else name} for {spec.title} than "
            f"on {first.date[:10]} (sha256 {now[:12]}…, then {first.sha256[:12]}…), so it was not kept.",
            f"If its publisher has replaced it, accept this file with `zeroseg download {arguments_of(spec)} "
            f"--accept-change {now[:12]}`.",
            now,
        )


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"{folder} cannot be made ({error.strerror}): make room, or set ZEROSEG_DATA_DIR to another place."
        ) from error
    if not os.access(folder, os.W_OK):
        raise WriteError(f"{folder} is read-only: set ZEROSEG_DATA_DIR to another place.")
    return folder
