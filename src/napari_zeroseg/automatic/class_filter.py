"""Masks of wanted classes alone: a map of classes, plane by plane, as a filter of what segment-everything finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from napari_zeroseg.automatic.masks import AutomaticMask, filter_class
from napari_zeroseg.errors import InputError
from napari_zeroseg.planes import Planes

Filter = Callable[[Sequence[AutomaticMask]], list[AutomaticMask]]
"""What is kept of the masks of a plane."""


@dataclass(frozen=True)
class ClassFilter:
    """Keeps masks of given classes, as :func:`filter_class` does, on all planes of a stack.

    Attributes
    ----------
    planes : Planes
        A class for each pixel of the planes in which masks are found, (H, W) whole numbers from 0.
    keep : tuple of int
        Classes that are wanted.

    Raises
    ------
    InputError
        If none is wanted.
    """

    planes: Planes
    keep: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.keep:
            raise InputError("No class is wanted: give the numbers of those whose objects are kept, such as 1,3.")

    def on(self, plane: int) -> Filter:
        """Read the classes of a plane, and return what keeps masks by them.

        Raises
        ------
        InputError
            If they are not whole numbers from 0.
        ReadError
        """
        classes = self.planes.read(plane)
        whole = classes if classes.dtype.kind in "biu" else np.rint(classes)
        if (whole != classes).any() or whole.min(initial=0) < 0 or whole.max(initial=0) > np.iinfo(np.int32).max:
            raise InputError(f"Classes are whole numbers from 0, and plane {plane} of their map holds others.")
        return partial(filter_class, classes=whole.astype(np.int64, copy=False), keep=self.keep)


def classes_of(text: str) -> tuple[int, ...]:
    """Read numbers of classes, such as "1" or "1,3".

    Raises
    ------
    InputError
        If there is none, or something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"Numbers of classes with commas between them, such as 1,3, were expected, not {text!r}.")
    return tuple(sorted({int(part) for part in parts}))
