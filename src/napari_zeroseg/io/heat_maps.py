"""Probabilities of phrases to a file, one channel a phrase: kept plane by plane, made into the file at the end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg.errors import ReadError, WriteError
from napari_zeroseg.io.picture import MICROMETRE
from napari_zeroseg.io.targets import (
    Spacing,
    Units,
    checked_shape,
    checked_target,
    explained,
    move,
    named_spacing,
    one_unit,
    remove,
)

_ENDINGS = (".tif", ".tiff", ".ome.zarr")
_ABOUT = "about.json"
_TILE = 1024
_SHORT = {MICROMETRE: "µm"}


def checked_heat_path(path: Path) -> Path:
    """Return where heat maps can be written.

    Raises
    ------
    WriteError
        If the ending is none of those that are written, or nothing can be written there.
    """
    if not path.name.lower().endswith(_ENDINGS):
        raise WriteError(f"Heat maps are written to files that end in {', '.join(_ENDINGS)}; got '{path.name}'.")
    return checked_target(path)


class HeatWriter:
    """Keeps maps of planes as they come, in a hidden folder beside `path`, so that a kill loses one plane at most.

    Parameters
    ----------
    path : Path
        Ends in .tif (OME-TIFF) or .ome.zarr (version 0.5); float32, 0 to 1, in both.
    shape : sequence of int
        (H, W) or (Z, H, W) of the picture.
    spacing, units
        As for :func:`write_labels`.
    run : str
        What the maps depend on: those of another run are not mixed in. Nothing is made or removed until the first
        :meth:`write`.

    Raises
    ------
    WriteError
        If nothing could be written there.
    """

    def __init__(self, path: Path, shape: Sequence[int], spacing: Spacing, units: Units, run: str) -> None:
        self.path = checked_heat_path(path)
        self.shape = checked_shape(shape)
        self._folder = self.path.with_name(f".{self.path.name}.heat.partial")  # never that of labels of this name
        self._spacing = named_spacing(spacing, len(self.shape))
        self._unit = one_unit(units)
        self._run = run

    @property
    def is_begun(self) -> bool:
        """Whether maps of this run are kept."""
        return self._about().get("run") == self._run

    @property
    def is_taken(self) -> bool:
        """Whether maps of another run are kept where those of this one would be."""
        return bool(self._kept()) and not self.is_begun

    @property
    def done(self) -> set[int]:
        """Indices of the planes of this run that are safely kept."""
        return self._kept() if self.is_begun else set()

    def check_free(self) -> None:
        """Raise if maps of another run would be in the way.

        Raises
        ------
        WriteError
        """
        if self.is_taken:
            raise WriteError(
                f"{self._folder} holds {len(self._kept())} planes of an unfinished run with another picture or "
                "settings: repeat that run to finish it, or delete the folder, or choose another name than "
                f"{self.path.name}."
            )

    def write(self, index: int, maps: Mapping[str, NDArray[Any]]) -> None:
        """Keep the maps (H, W) of a plane, by their phrases: the same of every plane.

        Raises
        ------
        WriteError
            If the disk is full or the folder is gone, or maps of another run are kept there.
        """
        self.check_free()
        with explained(self.path):
            if not self.is_begun:
                remove(self._folder)  # left without a plane
                self._folder.mkdir()
                about = {"run": self._run, "phrases": list(maps)}
                self._put(_ABOUT, json.dumps(about).encode())
            temporary = self._folder / f"{uuid.uuid4().hex[:8]}.tmp"
            with temporary.open("wb") as file:
                np.save(file, np.stack([np.asarray(one, np.float16) for one in maps.values()]))
            temporary.replace(self._folder / f"{index:06d}.npy")

    def finish(self) -> None:
        """Make the file; planes that never came are 0. What was kept stays until :meth:`forget`.

        Raises
        ------
        WriteError
            If it cannot be written.
        ReadError
            If what was kept is damaged.
        """
        phrases = self._about().get("phrases")
        if not phrases:
            raise WriteError(f"{self.path.name} was not written, since no plane gave probabilities.")
        is_zarr = self.path.name.lower().endswith(".zarr")
        temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.tmp{'.zarr' if is_zarr else '.tif'}")
        with explained(self.path):
            try:
                (self._write_zarr if is_zarr else self._write_tiff)(temporary, phrases)
                move(temporary, self.path)
            finally:
                remove(temporary)

    def forget(self) -> None:
        """Throw away what was kept of the planes, whichever run they are of."""
        remove(self._folder)

    def _kept(self) -> set[int]:
        return {int(file.stem) for file in self._folder.glob("*.npy") if file.stem.isdecimal()}

    def _planes(self, count: int) -> Iterator[NDArray[np.float32]]:
        """Maps (phrases, H, W) of each plane."""
        for index in range(1 if len(self.shape) == 2 else self.shape[0]):
            file = self._folder / f"{index:06d}.npy"
            if not file.exists():
                yield np.zeros((count, *self.shape[-2:]), np.float32)
                continue
            try:
                yield np.load(file).astype(np.float32)
            except (OSError, ValueError, EOFError) as error:
                raise ReadError(f"{file} is damaged ({error}): delete it, so that its plane is done again.") from error

    def _write_tiff(self, path: Path, phrases: list[str]) -> None:
        import tifffile

        shape = (*self.shape[:-2], len(phrases), *self.shape[-2:])
        metadata: dict[str, Any] = {"axes": "ZCYX"[4 - len(shape) :], "Channel": {"Name": phrases}}
        for axis, step in self._spacing.items():
            metadata |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": _SHORT.get(self._unit, "mm")}
        tifffile.imwrite(
            path,
            (one for maps in self._planes(len(phrases)) for one in maps),
            shape=shape,
            dtype=np.float32,
            ome=True,
            bigtiff=np.prod(shape, dtype=float) * 4 > 2**31,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
        )

    def _write_zarr(self, path: Path, phrases: list[str]) -> None:
        import zarr

        group = zarr.open_group(path, mode="w", zarr_format=3)
        shape = (len(phrases), *self.shape)
        names = "czyx" if len(shape) == 4 else "cyx"
        tile = tuple(min(length, _TILE) for length in shape[-2:])
        array: Any = group.create_array(
            "0", shape=shape, dtype=np.float32, chunks=(1,) * (len(shape) - 2) + tile, dimension_names=list(names)
        )
        for index, maps in enumerate(self._planes(len(phrases))):
            array[(slice(None), index) if len(shape) == 4 else ...] = maps
        known = {"unit": self._unit} if self._spacing else {}
        axes = [
            {"name": name, "type": "channel"} if name == "c" else {"name": name, "type": "space"} | known
            for name in names
        ]
        scale = [self._spacing.get(name.upper(), 1.0) for name in names]
        datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
        window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
        channels = [{"label": phrase, "color": "FFFFFF", "active": True, "window": window} for phrase in phrases]
        about: dict[str, Any] = {
            "version": "0.5",
            "multiscales": [{"name": "heat", "axes": axes, "datasets": datasets}],
            "omero": {"channels": channels},
        }
        group.attrs["ome"] = about

    def _about(self) -> dict[str, Any]:
        try:
            found = json.loads((self._folder / _ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _put(self, name: str, content: bytes) -> None:
        temporary = self._folder / f"{name}.tmp"
        temporary.write_bytes(content)
        temporary.replace(self._folder / name)
