"""Pictures of held-back objects: truth, base and present answer as outlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from napari_zeroseg.training.data import TrainingData, TrainingObject

TRUTH, BASE, NOW = (80, 220, 100), (250, 170, 40), (90, 160, 255)
"""Colours of the outlines."""

_SIDE = 224
"""Pixels of one preview."""


def write(
    path: Path,
    data: TrainingData,
    objects: Sequence[TrainingObject],
    truth: Callable[[TrainingObject, NDArray[np.int32]], NDArray[np.bool_]],
    before: Sequence[NDArray[np.bool_]],
    now: Sequence[NDArray[np.bool_]],
) -> None:
    """Write one PNG with an object beside the other: truth green, base orange, present blue.

    `truth` gives the (H, W) mask of what is asked for, from an object and the numbered objects of its plane.
    """
    panels = []
    for one, base, answer in zip(objects, before, now, strict=True):
        picture, numbers = data.read(one.plane)
        size = max(one.box[2] - one.box[0], one.box[3] - one.box[1]) + 1
        half = max(48, size)
        row, column = (int(place) for place in one.centre)
        rows = slice(max(0, row - half), row + half)
        columns = slice(max(0, column - half), column + half)
        window = picture[rows, columns]
        colour = np.repeat(window[..., None], 3, -1) if window.ndim == 2 else window.copy()
        colour = _enlarged(colour)
        for mask, line in ((truth(one, numbers), TRUTH), (base, BASE), (answer, NOW)):
            colour[_outline(_enlarged(mask[rows, columns]))] = line
        panels.append(colour)
    if panels:
        Image.fromarray(np.concatenate(panels, 1)).save(path)


def _enlarged(array: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    rows = (np.arange(_SIDE) * array.shape[0] // _SIDE)[:, None]
    columns = np.arange(_SIDE) * array.shape[1] // _SIDE
    enlarged: NDArray[np.uint8] = array[rows, columns].astype(np.uint8)
    return enlarged


def _outline(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    inside = mask.astype(bool)
    out: NDArray[np.bool_] = inside & ~ndimage.binary_erosion(inside)
    return out
