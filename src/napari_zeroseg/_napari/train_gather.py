"""Labelled planes from layers, copied for a run: those that are used, and no others. No Qt."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_zeroseg._napari.layers import shown_plane
from napari_zeroseg._napari.stack_place import LabelStack, ShownStack, StackPlace, labels_place
from napari_zeroseg._napari.workspace import picture_of
from napari_zeroseg.errors import InputError
from napari_zeroseg.memory import free_memory
from napari_zeroseg.planes import planes_of
from napari_zeroseg.settings import Settings
from napari_zeroseg.training.config import TrainingPair
from napari_zeroseg.training.data import origin_of

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Labels

SHOWN = (0.0, 255.0)
"""Contrast of what is gathered: pixels are as the screen shows them already."""

_TOLD_EVERY = 0.3
_SPARE = 500_000_000
"""Bytes of memory and of the disk that are left to others."""

Told = Callable[[str], None]
"""Called with what is being done; may raise."""


@dataclass(eq=False)
class PairChoice:
    """Layers to learn from.

    Attributes
    ----------
    image, labels : layers or None
    planes : str
        As in "0:12"; "" for all with labels.
    role : str
        As of :class:`~napari_zeroseg.training.config.TrainingPair`.
    """

    image: Image | None = None
    labels: Labels | None = None
    planes: str = ""
    role: str = "auto"


@dataclass(frozen=True)
class Wanted:
    """Which labels count: those of `classes`, () for all, but not `ignore`."""

    classes: tuple[int, ...] = ()
    ignore: int | None = None

    def is_in(self, labels: NDArray[Any]) -> bool:
        """Whether a plane holds one of them."""
        found = np.isin(labels, self.classes) if self.classes else labels != 0
        return bool((found & (labels != self.ignore) if self.ignore is not None else found).any())

    def __str__(self) -> str:
        return f" of the classes {', '.join(map(str, self.classes))}" if self.classes else ""


class Gathering:
    """Takes hold of a pair's layers, in the window's thread; copies their pixels later, in any.

    Parameters
    ----------
    pair : PairChoice
    dims : Dims
        The viewer's, which say what is a plane.
    wanted : Wanted
        Labels that make a plane one to learn from, where no planes are named.

    Raises
    ------
    InputError
        If a layer is missing, or the labels are of another shape.
    """

    def __init__(self, pair: PairChoice, dims: Dims, wanted: Wanted) -> None:
        image, labels = pair.image, pair.labels
        if image is None or labels is None:
            raise InputError(
                "A picture or its labels are missing: choose an image layer and a labels layer in each row."
            )
        self._place = StackPlace.of(image, dims)
        own = labels_place(labels, image, self._place)
        self._shown = ShownStack(picture_of(image, shown_plane(image, dims)), self._place)
        self._numbers = LabelStack(labels.data, own)
        self._data = image.data[0] if image.multiscale else image.data
        self._name, self._planes, self._role = labels.name, pair.planes.strip(), pair.role
        self._wanted = wanted

    def gather(self, told: Told) -> TrainingPair:
        """Copy the planes that are used.

        Raises
        ------
        InputError
            If there are no labels, a plane that was named does not exist, or there is no room for the copy.
        """
        used, dtype = self._used(told)
        size = int(np.prod(self._shown.shape[1:])) + int(np.prod(self._place.shape)) * dtype.itemsize
        _check_room(size * len(used), len(used))
        pictures: NDArray[np.uint8] = np.zeros((len(used), *self._shown.shape[1:]), np.uint8)
        values: NDArray[Any] = np.zeros((len(used), *self._place.shape), dtype)
        for number, plane in enumerate(_counted(used, "Copying", told)):
            pictures[number] = self._shown.plane(plane)
            values[number] = self._numbers.plane(plane)
        origin = origin_of(self._place.count, self._place.shape, self._raw)
        return TrainingPair(pictures, values, f"0:{len(used)}", self._role, SHOWN, origin, tuple(used))

    def _raw(self, plane: int) -> NDArray[Any]:
        """A plane as it lies in the layer, whatever its contrast on the screen."""
        return self._place.read(self._data, plane)

    def _used(self, told: Told) -> tuple[list[int], np.dtype[Any]]:
        """Planes to learn from, and the smallest type that holds their labels."""
        planes = planes_of(self._planes or None, self._place.count)
        used: list[int] = []
        low = high = 0
        for plane in _counted(planes, "Looking for labels on", told):
            labels = self._numbers.plane(plane)
            if self._planes or self._wanted.is_in(labels):
                used.append(plane)
                low, high = min(low, int(labels.min())), max(high, int(labels.max()))
        if not used:
            raise InputError(f"'{self._name}' holds no labels{self._wanted}: draw some, or choose other labels.")
        return used, np.result_type(np.min_scalar_type(low), np.min_scalar_type(high))


def _counted(planes: Sequence[int], doing: str, told: Told) -> Any:
    last = time.monotonic()
    for number, plane in enumerate(planes, 1):
        if number == 1 or time.monotonic() - last > _TOLD_EVERY:
            last = time.monotonic()
            told(f"{doing} plane {number} of {len(planes)} …")
        yield plane


def _check_room(size: int, planes: int) -> None:
    home = Settings.from_environment().data_dir
    while not home.exists():
        home = home.parent
    for free, of_what in ((free_memory(), "memory"), (shutil.disk_usage(home).free, f"{home}")):
        if size + _SPARE > free:
            raise InputError(
                f"A copy of the {planes} labelled planes takes {size / 1e9:.1f} GB, and of {of_what} {free / 1e9:.1f} "
                "GB are free: name fewer planes, or train from the files with 'zeroseg train'."
            )
