"""Where a file of weights comes from: this package, a model hub, an address, or the user."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from napari_zeroseg.settings import Settings

EMBEDDED = "embedded:"
"""Prefix of a source that lies inside this package."""
HUB = "hub:"
"""Prefix of a source on a model hub: hub:OWNER/NAME/FILE, or hub:OWNER/NAME@REVISION/FILE."""
HUB_HOME = "https://huggingface.co"
"""The hub's address, unless the environment names another (``HF_ENDPOINT``)."""
BRING = "bring:"
"""Prefix of a file that the user gets from its publisher; only a mirror can hold it."""
ADDED = "added:"
"""Prefix of a file that the user has added under a name of its own."""


class HubFile(NamedTuple):
    """A file of a repository on a model hub."""

    repository: str
    revision: str
    file: str


@dataclass(frozen=True)
class WeightsSource:
    """One file of weights and one place of it.

    Attributes
    ----------
    location : str
        "embedded:FILE" inside the package, "hub:OWNER/NAME/FILE" (or "hub:OWNER/NAME@REVISION/FILE"), an address that
        begins with "https://", "bring:FILE" for what only the user can get, or "" where not even a name is known.
    sha256 : str
        Hexadecimal hash of the file; "" where none is published, and then that of the first download is kept.
    size : int
        Bytes; 0 where unknown.
    companions : tuple of str
        Files of the same place that the model needs as well, such as a tokenizer's.
    """

    location: str = ""
    sha256: str = ""
    size: int = 0
    companions: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file inside the package; only for "embedded:"."""
        return Path(str(resources.files("napari_zeroseg") / "assets" / self.location.removeprefix(EMBEDDED)))

    @property
    def is_embedded(self) -> bool:
        """Whether the file is part of this package."""
        return self.location.startswith(EMBEDDED)

    @property
    def name(self) -> str:
        """The file's name, without folders."""
        if self.hub is not None:
            return PurePosixPath(self.hub.file).name
        if "://" in self.location:
            return PurePosixPath(unquote(urlsplit(self.location).path)).name
        return PurePosixPath(self.location.rpartition(":")[2]).name

    @property
    def hub(self) -> HubFile | None:
        """The parts of a "hub:" location, or None for others."""
        if not self.location.startswith(HUB):
            return None
        owner, repository, file = self.location.removeprefix(HUB).split("/", 2)
        repository, _, revision = repository.partition("@")
        return HubFile(f"{owner}/{repository}", revision, file)

    def url(self, settings: Settings, companion: str = "") -> str:
        """Address to fetch the file (or a companion) from; "" if there is none.

        A mirror holds files of the hub as OWNER/NAME/FILE and all others by their bare names.
        """
        hub = self.hub
        if self.is_embedded or not self.name or self.location.startswith(ADDED):
            return ""
        if settings.mirror:
            within = f"{hub.repository}/{companion or hub.file}" if hub else companion or self.name
            return f"{settings.mirror}/{within}"
        if hub is not None:
            endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB_HOME
            return f"{endpoint}/{hub.repository}/resolve/{hub.revision or 'main'}/{quote(companion or hub.file)}"
        return self.location if "://" in self.location else ""


def host_of(url: str) -> str:
    """Return the server's name in an address, for people."""
    return urlsplit(url).hostname or url
