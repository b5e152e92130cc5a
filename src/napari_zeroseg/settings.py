"""Folders, device and limits; every one can be set by an environment variable."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from napari_zeroseg.errors import InputError

APP = "napari-zeroseg"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are kept and how much room they may take.

    Attributes
    ----------
    cache_dir : Path
        What can be made again: embeddings. ``ZEROSEG_CACHE_DIR``.
    data_dir : Path
        What the user would miss: downloaded and fine-tuned models. ``ZEROSEG_DATA_DIR``.
    memory_bytes : int
        Limit for embeddings held in memory. ``ZEROSEG_MEMORY_CACHE`` (such as "2GB").
    disk_bytes : int
        Limit for embeddings held on disk; 0 switches the disk cache off. ``ZEROSEG_DISK_CACHE``.
    device : str
        Device of "auto". ``ZEROSEG_DEVICE``.
    model_folders : tuple of Path
        Folders in which weights are looked for and nothing is written. ``ZEROSEG_MODELS``, separated like ``PATH``.
    mirror : str
        Address that every download is taken from in place of the publishers'. ``ZEROSEG_MIRROR``.
    offline : bool
        Whether nothing may be fetched. ``ZEROSEG_OFFLINE`` or, as other tools have it, ``HF_HUB_OFFLINE``.
    """

    cache_dir: Path
    data_dir: Path
    memory_bytes: int
    disk_bytes: int
    device: str
    model_folders: tuple[Path, ...] = ()
    mirror: str = ""
    offline: bool = False

    @property
    def models_dir(self) -> Path:
        """Where downloaded and added models are kept, a folder for each."""
        return self.data_dir / "models"

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the environment; what is not set has a default."""
        environment = os.environ
        return cls(
            cache_dir=Path(environment.get("ZEROSEG_CACHE_DIR") or user_cache_path(APP, appauthor=False)).expanduser(),
            data_dir=Path(environment.get("ZEROSEG_DATA_DIR") or user_data_path(APP, appauthor=False)).expanduser(),
            memory_bytes=parse_bytes(environment.get("ZEROSEG_MEMORY_CACHE") or "1GB"),
            disk_bytes=parse_bytes(environment.get("ZEROSEG_DISK_CACHE") or "10GB"),
            device=environment.get("ZEROSEG_DEVICE") or "auto",
            model_folders=tuple(
                Path(part).expanduser() for part in environment.get("ZEROSEG_MODELS", "").split(os.pathsep) if part
            ),
            mirror=environment.get("ZEROSEG_MIRROR", "").rstrip("/"),
            offline=any(_is_on(environment.get(name, "")) for name in ("ZEROSEG_OFFLINE", "HF_HUB_OFFLINE")),
        )


def _is_on(text: str) -> bool:
    return text.strip().upper() in {"1", "ON", "YES", "TRUE"}


def parse_bytes(text: str) -> int:
    """Read a size such as "500MB", "2 GB" or "1e9" into bytes (1 GB = 10**9 bytes).

    Raises
    ------
    InputError
        If `text` is not a size.
    """
    units = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
    bare = text.strip().upper()
    unit = next((unit for unit in units if bare.endswith(unit)), "")
    try:
        size = float(bare.removesuffix(unit)) * units.get(unit, 1)
    except ValueError:
        size = -1
    if not 0 <= size < float("inf"):
        raise InputError(f"{text!r} is not a size: write for example '500MB' or '10GB'.")
    return int(size)
